"""Continuations of a spoken language model, judged by what a recogniser hears in them.

`score` measures each transcript, `summarise` all of them. Diversity (self-BLEU, auto-BLEU, VERT) and perplexity are
those of GSLM (Lakhotia et al. 2021, arXiv:2102.01192; fairseq, examples/textless_nlp/gslm/metrics/asr_metrics). Each
sample is compared with all others, those of its own prompt too, as in the script. Low perplexity alone is easy to get
by repeating what is frequent, low VERT by babbling: one is read with the other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textless.audio.manifests import is_list
from textless.errors import CorpusError
from textless.metrics.bleu import auto_bleu, ngrams, self_bleu
from textless.metrics.bootstrap import percentiles, resampled
from textless.metrics.metric import Metric, count, number, percent
from textless.names import plain

if TYPE_CHECKING:
    from textless.metrics.judge import Judge

METRICS = {
    "prompts": Metric("prompts", count),
    "samples": Metric("samples", count),
    "without_words": Metric("samples without words", count),
    "words": Metric("words a sample", number(1)),
    "self_bleu_2": Metric("self-BLEU-2", number(3), interval=True),
    "auto_bleu_2": Metric("auto-BLEU-2", number(3), interval=True),
    "vert_2": Metric("VERT-2", number(3), interval=True),
    "recurring_bigrams": Metric("bigrams that recur", percent, interval=True),
    "ppx": Metric("perplexity, mean of samples", number(1), interval=True),
    "ppx_median": Metric("perplexity, median", number(1)),
    "gen_ppl": Metric("perplexity, of the mean nats a token", number(1), interval=True),
}
MEANS = ("self_bleu_2", "auto_bleu_2", "recurring_bigrams")  # over samples
NUMBER = re.compile(r"(.+)-(0|[1-9]\d*)")  # how `continue` names the samples of a prompt


def measure_continuations(
    transcripts: Mapping[str, str], *, judge: Judge | None = None, seed: int = 0
) -> dict[str, float]:
    """Diversity and perplexity of transcripts, {id: text}: `summarise` of their `score`s, which say what may be raised.

    Examples:
        >>> measure_continuations({"a-0": "the cat sat", "a-1": "the cat ran"})["self_bleu_2"]
        0.5773502691896257
    """
    return summarise(score(transcripts, judge), seed=seed)


def score(transcripts: Mapping[str, str], judge: Judge | None = None) -> list[dict[str, Any]]:
    """Measure each transcript, in the order of their ids.

    Args:
        transcripts: by id what is said. Words are what white space separates, as the recogniser wrote them.
        judge: for `nats`.

    Returns:
        `id`, `prompt` (see `prompts_of`), `text`, `words`: their number; `self_bleu_2`, against all other transcripts;
        `auto_bleu_2`; `recurring_bigrams`: the share of bigrams that occur more than once; with a judge `nats`: their
        sum over `tokens`. A transcript without words has 0 for each but is one of the references, as in the script.

    Raises:
        CorpusError: fewer than two transcripts; one that is too long for the judge.
    """
    if len(transcripts) < 2:
        raise CorpusError(
            f"self-BLEU compares at least two transcripts, got {len(transcripts)}; sample more continuations"
        )
    names = sorted(transcripts)
    texts = [transcripts[name] for name in names]
    prompts, between = prompts_of(names), self_bleu(texts)
    nats = judge.nll(dict(zip(names, texts, strict=True))) if judge else {}
    return [
        {
            "id": name,
            "prompt": prompts[name],
            "text": text,
            "words": len(text.split()),
            "self_bleu_2": float(similar),
            "auto_bleu_2": auto_bleu(text),
            "recurring_bigrams": _recurring(text),
            **({"nats": float(nats[name].sum()), "tokens": len(nats[name])} if judge else {}),
        }
        for name, text, similar in zip(names, texts, between, strict=True)
    ]


def _recurring(text: str) -> float:
    """SlamKit's auto-BLEU (slamkit/utils/calculation_utils.py) for n = 2: of bigrams alone, no mean over orders."""
    times = Counter(ngrams(text, 2))
    return sum(n for n in times.values() if n > 1) / max(1, times.total())


def prompts_of(names: Iterable[str]) -> dict[str, str]:
    """The prompt of each sample: `NAME` of `NAME-0`, `NAME-1` … as `continue` calls them, else the sample's own name.

    They are only taken for samples of one prompt where all from 0 on are there.
    """
    numbered = {name: match for name in names if (match := NUMBER.fullmatch(name))}
    numbers: dict[str, set[int]] = {}
    for match in numbered.values():
        numbers.setdefault(match[1], set()).add(int(match[2]))
    whole = {prompt for prompt, ks in numbers.items() if ks == set(range(len(ks)))}
    return {name: m[1] if (m := numbered.get(name)) and m[1] in whole else name for name in names}


def summarise(samples: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, float]:
    """Means over samples, with 95 % intervals where there are two or more prompts.

    Intervals are by the bootstrap over prompts, whose samples stay together. Each sample keeps its self-BLEU against
    all others: two draws of a prompt do not count as repetitions.

    Returns:
        `prompts`, `samples`, `without_words`, `words`; means of `self_bleu_2`, `auto_bleu_2` and `recurring_bigrams`;
        `vert_2`: the geometric mean of the first two (section on metrics of the paper); with nats of a judge, over the
        samples that have tokens: `ppx`, the mean of their perplexities (the exponent of a sample's mean nats a token),
        and `ppx_median`, as GSLM's script has them; `gen_ppl`, the exponent of the mean over samples of their mean nats
        a token, as SlamKit has it. `NAME_low` and `NAME_high`: the intervals.
    """
    samples = sorted(samples, key=lambda s: s["id"])  # so that the draws do not depend on the order of the input
    places = {prompt: n for n, prompt in enumerate(dict.fromkeys(s["prompt"] for s in samples))}
    groups = np.array([places[s["prompt"]] for s in samples])
    values: dict[str, float] = {
        "prompts": float(len(places)),
        "samples": float(len(samples)),
        "without_words": float(sum(not s["words"] for s in samples)),
        "words": float(np.mean([s["words"] for s in samples])),
    }

    def means(measure: Sequence[float], of: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean of some samples, and its values over resamples of their prompts; none for one prompt."""
        prompts, here = np.unique(of, return_inverse=True)
        over = np.bincount(here, measure)
        draws = resampled(over, np.bincount(here), seed) if len(prompts) > 1 else np.empty(0)
        return float(over.sum() / len(measure)), draws

    def report(name: str, value: float, draws: np.ndarray) -> None:
        values[name] = value
        if len(draws):
            values[f"{name}_low"], values[f"{name}_high"] = percentiles(draws)

    of = {name: means([s[name] for s in samples], groups) for name in MEANS}
    for name, (value, draws) in of.items():
        report(name, value, draws)
    (between, b), (within, w) = of["self_bleu_2"], of["auto_bleu_2"]
    report("vert_2", (between * within) ** 0.5, np.sqrt(b * w))
    judged = np.array([bool(s.get("tokens")) for s in samples])
    if judged.any():
        nats = np.array([s["nats"] / s["tokens"] for s, known in zip(samples, judged, strict=True) if known])
        report("ppx", *means(np.exp(nats).tolist(), groups[judged]))
        values["ppx_median"] = float(np.median(np.exp(nats)))
        value, draws = means(nats.tolist(), groups[judged])
        report("gen_ppl", float(np.exp(value)), np.exp(draws))
    return values


def holds_transcripts(path: Path | str) -> bool:
    """Whether a file is transcripts: a .txt that lists no audio, or a .jsonl with `text` and without audio or units."""
    path = Path(path)
    if path.suffix not in (".txt", ".jsonl") or not path.is_file():
        return False
    if path.suffix == ".txt":
        return not is_list(str(path))
    with open(path, "rb") as f:
        head = f.readline(1 << 16)
    try:
        row = json.loads(head)
    except ValueError:
        return False
    return isinstance(row, dict) and {"id", "text"} <= set(row) and not {"units", "audio", "audio_filepath"} & set(row)


def read_transcripts(path: Path | str) -> dict[str, str]:
    """Read transcripts, {id: text}: lines of id, tab, words (none for nothing heard), or .jsonl with `id` and `text`.

    Raises:
        CorpusError: a file cannot be read, a line is malformed, or an id occurs twice; it names the line.
    """
    transcripts: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as text ({e})") from None
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, text = _json_line(line) if Path(path).suffix == ".jsonl" else _tab_line(line)
        if name is None:
            raise CorpusError(f"{path}, line {n}: not a transcript; a line is an id, a tab and what is said")
        if (name := plain(name)) in transcripts:
            raise CorpusError(f"{path}, line {n}: {name!r} is there already; give each sample its own id")
        transcripts[name] = text
    return transcripts


def _tab_line(line: str) -> tuple[str | None, str]:
    name, tab, text = line.partition("\t")
    return (name if tab and name.strip() else None), text.strip()


def _json_line(line: str) -> tuple[str | None, str]:
    try:
        row = json.loads(line)
        name, text = row["id"], row["text"]
    except (ValueError, KeyError, TypeError):
        return None, ""
    return (name, text) if isinstance(name, str) and isinstance(text, str) else (None, "")

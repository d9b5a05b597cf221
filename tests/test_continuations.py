"""Continuations by what they say: against GSLM's own script, oracles from the definitions, and tiny models of
transformers that are written here.
"""

import json
import math
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from test_cli_quality import run

from conftest import GOLDEN
from textless.audio.corpus import Corpus, sha256_file
from textless.audio.io import read_audio
from textless.engine.step import Keys
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import CorpusError, ModelError, TextlessError
from textless.lm.hf.pretrained import find_folder, load_pretrained, load_tokenizer
from textless.metrics import Judge, auto_bleu, load_recogniser, measure_continuations, self_bleu
from textless.metrics import asr as recognise
from textless.metrics.continuations import holds_transcripts, prompts_of, read_transcripts, score, summarise
from textless.metrics.judge import BATCH
from textless.steps import STEPS

WORDS = ["<unk>", "</s>", "the", "cat", "sat", "on", "a", "mat"]
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
TEXTS = {
    "a-0": "The cat sat",
    "a-1": "on the mat the cat sat on the mat",
    "b-0": "",
    "b-1": "the the the",
    "c": "a mat",
}


# --------------------------------------------------------------------------------------------------- self-, auto-BLEU


def oracle_auto_bleu(text, n):
    """self_auto_bleu.py, auto_bleu, mean_mode geometric, with equal weights."""
    words, shares = text.split(), []
    if len(words) <= 1:
        return 0.0
    for k in range(1, n + 1):
        grams = lambda part, k=k: [tuple(part[i : i + k]) for i in range(len(part) - k + 1)]  # noqa: E731
        hits = [g in grams(words[:p]) + grams(words[p + k :]) for p, g in enumerate(grams(words))]
        shares.append(sum(hits) / len(hits) if hits else math.nan)
    return math.prod(share ** (1 / n) for share in shares)


def oracle_self_bleu(texts, i, n):
    """bleu_utils.py, sentence_bleu without length penalty; nltk's modified_precision and method0."""
    others = [t.split() for k, t in enumerate(texts) if k != i]
    mine, logs = texts[i].split(), []
    for k in range(1, n + 1):
        grams = lambda part, k=k: [tuple(part[j : j + k]) for j in range(len(part) - k + 1)]  # noqa: E731
        ours = grams(mine)
        clipped = sum(min(ours.count(g), max(grams(o).count(g) for o in others)) for g in set(ours))
        if not clipped and k == 1:
            return 0.0
        logs.append(math.log(clipped / len(ours) if clipped else 2.2250738585072014e-308) / n)
    return math.exp(sum(logs))


def test_equal_to_the_script_of_gslm():
    """What self_auto_bleu.py of fairseq computes with nltk 3.10.4, of texts among which are an empty one, words alone,
    loops and twins.
    """
    golden = json.loads((GOLDEN / "gslm_bleu.json").read_text())
    texts = [s["text"] for s in golden["samples"]]
    for k, n in enumerate((2, 3)):
        between, within = self_bleu(texts, n), [auto_bleu(text, n) for text in texts]
        assert between == pytest.approx([s["self_bleu"][k] for s in golden["samples"]], abs=1e-12)
        known = [(w, s["auto_bleu"][k]) for w, s in zip(within, golden["samples"], strict=True)]
        assert [w for w, script in known if script is not None] == pytest.approx([s for _, s in known if s is not None])
        assert all(w == 0 for w, script in known if script is None)  # NaN in the script: two words have no trigram
        assert round(100 * between.mean(), 2) == golden["printed"][f"Self-BLEU{n}-geometric"]
    assert round(100 * np.mean([auto_bleu(t) for t in texts]), 2) == golden["printed"]["Auto-BLEU2-geometric"]


@pytest.mark.parametrize("seed", range(3))
def test_against_the_definitions(seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcd"), rng.integers(0, 12))) for _ in range(9)]
    for n in (1, 2, 3, 4):
        assert self_bleu(texts, n) == pytest.approx([oracle_self_bleu(texts, i, n) for i in range(9)], abs=1e-9)
        for text in texts:
            if len(text.split()) >= n or len(text.split()) < 2:
                assert auto_bleu(text, n) == pytest.approx(oracle_auto_bleu(text, n), abs=1e-12)


def test_bleu_by_hand():
    # Of a a b a b: a three times and b twice recur; of a a, a b, b a, a b only the two a b, which do not overlap.
    assert auto_bleu("a a b a b") == pytest.approx((1 * 2 / 4) ** 0.5)
    # a a a: the bigram occurs twice, but the occurrences overlap.
    assert auto_bleu("a a a") == 0
    assert auto_bleu("a a a a") == pytest.approx((1 * 2 / 3) ** 0.5)  # the first and last of three are apart
    assert auto_bleu("A a") == auto_bleu("") == auto_bleu("a") == 0  # case counts
    # a b against a b c: 1, 1; a b c against a b: 2/3, 1/2.
    assert self_bleu(["a b", "a b c"]).tolist() == pytest.approx([1, (2 / 3 * 1 / 2) ** 0.5])
    assert self_bleu(["a b", "", "c"]).tolist() == [0, 0, 0]
    assert self_bleu([[1, 2], (1, 2)]).tolist() == [1, 1]
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        self_bleu(["a b"])


# ------------------------------------------------------------------------------------------------------------ summary


def test_prompts_by_the_names_of_continue():
    names = ["a-0", "a-1", "b-1", "b-2", "x-0", "LJ-0001", "LJ-0002", "c", "d-0-0", "d-0-1"]
    assert prompts_of(names) == {
        "a-0": "a",
        "a-1": "a",
        "b-1": "b-1",
        "b-2": "b-2",
        "x-0": "x",
        "LJ-0001": "LJ-0001",
        "LJ-0002": "LJ-0002",
        "c": "c",
        "d-0-0": "d-0",
        "d-0-1": "d-0",
    }


class Fixed:
    """A judge for which every token costs as many nats as its text has words."""

    def nll(self, texts):
        return {name: np.full(len(text.split()), float(len(text.split()))) for name, text in texts.items()}


def test_summary_by_hand():
    samples = score(TEXTS, Fixed())
    assert [s["id"] for s in samples] == sorted(TEXTS)
    assert [s["prompt"] for s in samples] == ["a", "a", "b", "b", "c"]
    figures = summarise(samples, seed=1)
    assert {k: figures[k] for k in ("prompts", "samples", "without_words", "words")} == {
        "prompts": 3,
        "samples": 5,
        "without_words": 1,
        "words": (3 + 9 + 0 + 3 + 2) / 5,
    }
    texts = [TEXTS[name] for name in sorted(TEXTS)]
    between = [oracle_self_bleu(texts, i, 2) for i in range(5)]
    within = [oracle_auto_bleu(text, 2) for text in texts]
    assert figures["self_bleu_2"] == pytest.approx(np.mean(between))
    assert figures["auto_bleu_2"] == pytest.approx(np.mean(within))
    assert figures["vert_2"] == pytest.approx((np.mean(between) * np.mean(within)) ** 0.5)
    assert figures["recurring_bigrams"] == pytest.approx(np.mean([0, 4 / 8, 0, 1, 0]))  # overlapping too: the the
    nats = [3, 9, 3, 2]  # the empty one is left out
    assert figures["ppx"] == pytest.approx(np.mean(np.exp(nats)))
    assert figures["ppx_median"] == pytest.approx(np.exp(3))
    assert figures["gen_ppl"] == pytest.approx(np.exp(np.mean(nats)))
    # Resamples of prompts, all samples of a prompt together; the same draws for both parts of VERT.
    members, draws = [[0, 1], [2, 3], [4]], np.random.default_rng(1).integers(3, size=(1000, 3))
    chosen = [[i for prompt in draw for i in members[prompt]] for draw in draws]
    vert = [(np.mean([between[i] for i in c]) * np.mean([within[i] for i in c])) ** 0.5 for c in chosen]
    assert [figures["vert_2_low"], figures["vert_2_high"]] == pytest.approx(np.percentile(vert, [2.5, 97.5]))
    costs = [3, 9, None, 3, 2]
    ppl = [np.exp(np.mean([costs[i] for i in c if costs[i] is not None])) for c in chosen]
    assert [figures["gen_ppl_low"], figures["gen_ppl_high"]] == pytest.approx(np.percentile(ppl, [2.5, 97.5]))
    assert summarise(samples[::-1], seed=1) == figures == measure_continuations(TEXTS, judge=Fixed(), seed=1)
    many = score({f"p{k}": " ".join("abcab"[: k % 6]) for k in range(20)})
    assert summarise(many, seed=1) == summarise(many, seed=1) != summarise(many, seed=2)


def test_without_judge_or_without_prompts():
    figures = summarise(score({"a-0": "x y", "a-1": "x y"}))
    assert (figures["self_bleu_2"], figures["prompts"]) == (1, 1)
    assert not {name for name in figures if name.endswith(("_low", "_high")) or name.startswith("ppx")}
    silent = summarise(score({"a": "", "b": ""}, Fixed()))
    assert (silent["without_words"], silent["vert_2"], "ppx" in silent) == (2, 0, False)
    with pytest.raises(CorpusError, match="at least two transcripts, got 1; sample more continuations"):
        score({"a": "x"})


def test_transcripts_in_files(tmp_path):
    (tmp_path / "t.txt").write_text("a-0\tThe cat\n\na-1\t\n")
    (tmp_path / "t.jsonl").write_text('{"id": "a-0", "text": "The cat", "nats": 1}\n{"id": "a-1", "text": ""}\n')
    for name in ("t.txt", "t.jsonl"):
        assert holds_transcripts(tmp_path / name)
        assert read_transcripts(tmp_path / name) == {"a-0": "The cat", "a-1": ""}
    for name, content, reason in (
        ("t.txt", "a\tb\nno tab\n", "line 2: not a transcript"),
        ("t.txt", "a\tb\na\tc\n", "line 2: 'a' is there already"),
        ("t.jsonl", '{"id": "a", "text": "b"}\n{"id": "a"}\n', "line 2: not a transcript"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(CorpusError, match=reason):
            read_transcripts(tmp_path / name)
    (tmp_path / "u.jsonl").write_text('{"id": "a", "text": "b", "units": [1]}\n')
    (tmp_path / "n.jsonl").write_text("{\n")
    (tmp_path / "list.txt").write_text("a.wav\n")
    assert not any(holds_transcripts(tmp_path / name) for name in ("u.jsonl", "n.jsonl", "list.txt", "none.txt", ""))


# ------------------------------------------------------------------------------------------------- judge and recogniser


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder of a random GPT-2 over eight words, for texts of 31 at most."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    """A folder of a random wav2vec 2.0 with letters, which hears something in anything."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("listener")
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(LETTERS), pad_token_id=0, **size, **convolutions))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=2)
        model.lm_head.bias[1:4] = -100  # no specials are heard
    model.save_pretrained(folder)
    return folder


def noise(seed, seconds=1.0):
    """Syllables of noise: each of 0.1 s at another level, so that what is heard changes."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.uniform(0, 0.3, round(seconds * 10)), 1600)
    return (levels * rng.standard_normal(len(levels))).astype(np.float32)


def waves(folder):
    """What is in the wavs of a folder, in order."""
    return [read_audio(file) for file in sorted(folder.glob("*.wav"))]


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    """Two prompts of two samples each."""
    folder = tmp_path_factory.mktemp("wavs")
    for k, name in enumerate(("a-0", "a-1", "b-0", "b-1")):
        soundfile.write(folder / f"{name}.wav", noise(k), 16000)
    return folder


def test_nats_are_those_of_each_text_alone(judge):
    """Small letters, the text's end token before the first, its end not scored; more texts than a batch."""
    texts = {**TEXTS, **{f"d-{k}": " ".join(WORDS[2 : 4 + k % 5]) for k in range(BATCH)}}
    nats = Judge(judge).nll(texts)
    model = load_pretrained(judge).double().eval()
    assert list(nats) == list(texts)
    for name, text in texts.items():
        tokens = [1, *(WORDS.index(word) for word in text.lower().split())]
        with torch.no_grad():
            logits = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
        expected = [-float(logits[i, token]) for i, token in enumerate(tokens[1:])]
        assert nats[name] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert len(nats[name]) == len(text.split())
    assert len(Judge(judge).nll({"unknown": "zebra"})["unknown"]) == 1


def test_a_judge_without_a_beginning_does_not_score_the_first_token(judge):
    reader = Judge(judge)
    reader.begin = None
    nats = reader.nll({"a": "the cat sat", "b": "cat", "c": ""})
    assert [len(nats[name]) for name in "abc"] == [2, 0, 0]


def test_a_judge_that_does_not_fit(judge, listener, tmp_path):
    with pytest.raises(CorpusError, match=r"a: its transcript has 33 tokens, and .* reads 32 at most"):
        Judge(judge).nll({"a": "cat " * 32})
    with pytest.raises(ModelError, match=r"cannot be loaded as a causal language model \(it is a wav2vec2"):
        Judge(listener)
    with pytest.raises(ModelError, match="no such folder; a judge is a folder of transformers or a name"):
        Judge(tmp_path / "nowhere")
    load_pretrained(judge).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="bare: has no tokenizer"):
        Judge(tmp_path / "bare")
    reader = Judge(judge)
    reader.model.resize_token_embeddings(4)
    with pytest.raises(ModelError, match="its tokenizer makes token 7 of a vocabulary of 4"):
        reader.nll({"a": "mat"})
    with pytest.raises(ModelError, match=r"(?s)no such folder here, and on the hub: .*HF_HUB_OFFLINE"):
        find_folder("owner/missing", "a judge")
    (tmp_path / "bare" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="its tokenizer cannot be read") as e:
        load_tokenizer(tmp_path / "bare")
    assert "\n" not in str(e.value)


def test_greedy_decoding_by_hand(listener):
    """The likeliest label of each frame, repetitions joined, blanks removed, | a space; each file alone."""
    model, hear = load_pretrained(listener, "ctc").eval(), load_recogniser(listener)
    heard = []
    for seed in range(4):
        wave = noise(seed)
        normal = (wave - wave.mean()) / math.sqrt(wave.var() + 1e-7)
        with torch.no_grad():
            labels = model(torch.from_numpy(normal)[None]).logits[0].argmax(-1).tolist()
        joined = [label for k, label in enumerate(labels) if k == 0 or label != labels[k - 1]]
        text = "".join(" " if LETTERS[label] == "|" else LETTERS[label] for label in joined if label)
        assert hear(wave) == text.strip()
        heard.append(text)
    assert len(set(heard)) > 1
    assert max(map(len, heard)) > 3
    assert hear(np.zeros(399, np.float32)) == ""


def test_a_recogniser_that_does_not_fit(judge, listener, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"cannot be loaded as a CTC recogniser \(it is a gpt2"):
        load_recogniser(judge)
    copy = tmp_path / "copy"
    load_pretrained(listener, "ctc").save_pretrained(copy)
    with pytest.raises(ModelError, match="copy: "):
        load_recogniser(copy)
    for name in ("vocab.json", "tokenizer_config.json"):
        (copy / name).write_bytes((listener / name).read_bytes())
    with pytest.raises(ModelError, match="its feature extractor cannot be read"):
        load_recogniser(copy)
    processor = json.loads((listener / "processor_config.json").read_text())
    processor["feature_extractor"]["sampling_rate"] = 8000
    (copy / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ModelError, match="hears 8000 Hz, where audio is at 16000"):
        load_recogniser(copy)
    monkeypatch.setattr(recognise, "find_spec", lambda name: None)
    with pytest.raises(TextlessError, match="such samples need pocketsphinx, which is not installed"):
        load_recogniser(None, "such samples need")


def test_a_recogniser_without_what_only_training_needs(listener, tmp_path, capfd):
    """As most published ones: no embedding of masked frames. Nothing is said of it."""
    from safetensors.torch import load_file, save_file

    state = load_file(listener / "model.safetensors")
    for file in listener.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({k: v for k, v in state.items() if "masked" not in k}, tmp_path / "model.safetensors")
    capfd.readouterr()
    assert load_recogniser(tmp_path)(noise(0)) == load_recogniser(listener)(noise(0))
    assert "MISSING" not in "".join(capfd.readouterr())
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"has no lm_head\.weight"):
        load_recogniser(tmp_path)


# ------------------------------------------------------------------------------------------------------- command, step


def test_the_command_on_wavs_and_on_its_transcripts(wavs, listener, judge, tmp_path):
    hear, out = load_recogniser(listener), tmp_path / "out.json"
    args = ("--continuations", "--asr", listener, "--json")
    told = run(wavs, *args, out).stdout
    result = json.loads(out.read_text())
    assert [s["id"] for s in result["samples"]] == ["a-0", "a-1", "b-0", "b-1"]
    assert [s["text"] for s in result["samples"]] == [hear(wave) for wave in waves(wavs)]
    assert result["figures"] == summarise(score({s["id"]: s["text"] for s in result["samples"]}))
    assert result["asr"] == str(listener)
    assert [line.split("  ")[0] for line in told.splitlines()[1:3]] == ["prompts", "samples"]
    texts = tmp_path / "said.txt"
    texts.write_text("".join(f"{name}\t{text}\n" for name, text in TEXTS.items()))
    run(texts, "--continuations", "--judge", judge, "--json", tmp_path / "said.json", "--seed", 3)
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["figures"] == summarise(score(TEXTS, Judge(judge)), seed=3)
    assert "perplexity, median" in run(texts, "--continuations", "--judge", judge).stdout


def test_the_command_speaks_units_without_their_prompt(model_set, listener, tmp_path):
    stream = [{"textless": "units", "version": 1, "contract": {"n_units": 20, "frame_rate": 50.0}}]
    prompt, ends = [1, 2, 3] * 10, {"a-0": [4, 5] * 20, "a-1": [6, 7, 8] * 14, "b-0": []}
    whole = [{"id": n, "units": [*prompt, *end], "prompt_frames": 30} for n, end in ends.items()]
    new = [{"id": n, "units": end, "prompt_frames": 0} for n, end in ends.items()]
    for name, rows in (("whole", whole), ("new", new)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*stream, *rows]))
        out = tmp_path / f"{name}.json"
        run(tmp_path / f"{name}.jsonl", "--continuations", "--asr", listener, "--model", model_set, "--json", out)
    figures = json.loads((tmp_path / "whole.json").read_text())
    assert figures == json.loads((tmp_path / "new.json").read_text())
    assert [bool(s["words"]) for s in figures["samples"]] == [True, True, False]
    with (tmp_path / "new.jsonl").open("a") as f:
        f.write(json.dumps(new[0]) + "\n")
    with pytest.raises(TextlessError, match="two samples are called 'a-0'"):
        run(tmp_path / "new.jsonl", "--continuations", "--asr", listener, "--model", model_set)


def test_recogniser_and_judge_are_in_the_key(wavs, listener, judge, tmp_path):
    out, copy = tmp_path / "out.json", tmp_path / "copy"
    copy.mkdir()
    for file in listener.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    run(wavs, "--continuations", "--asr", listener, "--json", out)
    assert "already done" in run(wavs, "--continuations", "--asr", copy, "--json", out).stderr
    vocabulary = json.loads((copy / "vocab.json").read_text())
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (copy / "vocab.json").write_text(json.dumps(vocabulary))
    for other in (("--asr", copy), ("--asr", listener, "--judge", judge), ("--asr", listener, "--seed", 1)):
        with pytest.raises(TextlessError, match="holds the result of another command"):
            run(wavs, "--continuations", *other, "--json", out)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["said.txt", "--continuations", "--asr", "x"], "transcripts; give them as the only input, without --asr"),
        (["said.txt", "said.txt", "--continuations"], "give them as the only input"),
        (["said.txt", "--continuations", "--perturb"], "ask for one or the other"),
        (["said.txt", "--continuations", "--text", "said.txt"], "ask for one or the other"),
        (["said.txt", "--judge", "x"], "--judge reads transcripts of continuations; give --continuations"),
        (["said.txt", "--asr", "x"], "--asr makes transcripts; give --text to compare them with, or --continuations"),
        (["hypo.txt", "--continuations"], "line 1: not a transcript; a line is an id, a tab and what is said"),
        (["one.txt", "--continuations"], "at least two transcripts, got 1"),
        (["none.txt", "--continuations"], "nothing to do: the input has no rows"),
        (["said.txt", "--continuations", "--judge", "said.txt"], "no such folder; a judge is a folder"),
    ],
)
def test_refused_in_one_line(args, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.txt").write_text("a\tx y\nb\tx y\n")
    (tmp_path / "one.txt").write_text("a\tx y\n")
    (tmp_path / "hypo.txt").write_text("x y (None-0)\n")
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(TextlessError, match=reason) as e:
        run(*args)
    assert "\n" not in str(e.value)


def test_word_errors_by_another_recogniser(wavs, listener, model_set, tmp_path):
    text = tmp_path / "text.tsv"
    said = dict(zip(("a-0", "a-1", "b-0", "b-1"), map(load_recogniser(listener), waves(wavs)), strict=True))
    text.write_text("".join(f"{name}\t{words}\n" for name, words in said.items()))
    models = ("--asr", listener, "--model", model_set)
    run(wavs, "--reference", wavs, "--text", text, *models, "--json", tmp_path / "o.json")
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["asr"] == str(listener)
    assert [s["heard"] for s in result["sentences"]] == list(said.values())
    assert result["figures"]["wer"] == result["figures"]["wer_original"] == 0


def pipeline(folder, text):
    first = "steps:\n  corpus: {manifest: audio}\n  copy: {step: copy_synthesis, audio: $corpus}\n"
    (folder / "p.yaml").write_text(first + text)
    return load_pipeline(folder / "p.yaml", STEPS)


def test_as_a_step(wavs, listener, judge, tmp_path):
    os.symlink(wavs, tmp_path / "audio")
    os.symlink(listener, tmp_path / "listener")
    os.symlink(judge, tmp_path / "long")
    graph = pipeline(
        tmp_path,
        "  ears:  {step: pretrained, file: listener}\n"
        "  long:  {step: pretrained, file: long}\n"
        "  cheap: {step: continuations, speech: $copy, asr: $ears}\n"
        "  judged: {step: continuations, speech: $copy, asr: $ears, judge: $long, seed: 1}\n",
    )
    store = Store(tmp_path / "store")
    graph.run(store, ["cheap", "judged"])
    cheap, judged = (store.folder(graph.steps[name]) for name in ("cheap", "judged"))
    samples = [json.loads(line) for line in (cheap / "transcripts.jsonl").read_text().splitlines()]
    hear = load_recogniser(listener)
    assert {s["id"]: s["text"] for s in samples} == {
        f.stem: hear(read_audio(f)) for f in store.folder(graph.steps["copy"]).rglob("*.wav")
    }
    figures = json.loads((cheap / "continuations.json").read_text())
    assert figures == summarise(samples) == store.manifest(graph.steps["cheap"])["metrics"]
    assert holds_transcripts(cheap / "transcripts.jsonl")
    with_nats = score({s["id"]: s["text"] for s in samples}, Judge(tmp_path / "long"))
    assert store.manifest(graph.steps["judged"])["metrics"] == summarise(with_nats, seed=1)
    assert "ppx" in json.loads((judged / "continuations.json").read_text())


def test_the_key_of_the_step(wavs, listener, judge, tmp_path):
    """Transcripts do not depend on the judge, all else on both."""
    os.symlink(wavs, tmp_path / "audio")
    for name, folder in (("listener", listener), ("judge", judge)):
        shutil.copytree(folder, tmp_path / name)
    steps = pipeline(
        tmp_path,
        "  ears:  {step: pretrained, file: listener}\n"
        "  taste: {step: pretrained, file: judge}\n"
        "  said:  {step: continuations, speech: $copy, asr: $ears}\n"
        "  judged: {step: continuations, speech: $copy, asr: $ears, judge: $taste}\n",
    ).steps

    def keys():
        known, rows = Keys(sha256_file), list(Corpus.load(wavs))
        return {name: (known.of(steps[name]), known.shard(steps[name], rows)) for name in ("said", "judged")}

    before = keys()
    assert before["said"][0] != before["judged"][0]
    assert before["said"][1] == before["judged"][1]
    (tmp_path / "judge" / "tokenizer.json").write_text("{}")
    other_judge = keys()
    assert other_judge["said"] == before["said"]
    assert other_judge["judged"][0] != before["judged"][0]
    assert other_judge["judged"][1] == before["judged"][1]
    (tmp_path / "listener" / "vocab.json").write_text("{}")
    assert all(keys()["said"][k] != before["said"][k] for k in (0, 1))


def test_fields_of_the_steps(tmp_path):
    (tmp_path / "audio").mkdir()
    with pytest.raises(TextlessError, match=r"said\.judge must be pretrained or nothing, not a step corpus"):
        pipeline(tmp_path, "  said: {step: continuations, speech: $copy, judge: $corpus}\n")
    with pytest.raises(TextlessError, match="a recogniser is compared with what is said; give text"):
        pipeline(
            tmp_path,
            "  ears: {step: pretrained, file: x}\n"
            "  worth: {step: speech_quality, speech: $copy, reference: $corpus, asr: $ears}\n",
        )

"""Pitch as a stream: its likelihood, the distribution of continued pitch, and whether a prompt keeps its melody.

    python bench/pitch.py TRAIN TEST OUT [--steps 1500] [--preset nano] [--temperature 0.8] [--voice tiny-en]

TRAIN and TEST are dumps of the step `pitch`, of other speakers. OUT keeps the two language models that are trained, so
that a second call only measures: one as it is, and one of the same shape and seed that reads units alone.

Distances are Wasserstein-1 of histograms, in semitones: of the pitch of voiced units, and of its slope, the difference
of a voiced unit and a voiced unit after it. They compare the seconds after the prompt in the real file with those that
are continued from it. The vocoder's own prediction is that of its predictor for the same continued units, averaged in
each unit, relative to the mean of the voice. The melody of a prompt is kept as far as the last voiced unit before the
seam and the first after it correlate over files, and as a prompt that is transposed by three semitones transposes what
follows. What is heard is the F0 that is tracked in speech of the vocoder. Intervals are 95 %, by a bootstrap over files
that all systems share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from textless.audio.f0 import f0_cents_error, track_f0, voicing_error
from textless.audio.pitch import CENTS, STEPS, mean_octaves, pitch_hz, pitch_of_units
from textless.lm import UnitLM, load_lm, train_lm
from textless.lm.model import PRESETS, LMConfig
from textless.lm.streams import stream_nll
from textless.metrics.bootstrap import interval, paired, percentiles
from textless.model import continue_rows, load
from textless.types import PITCH_CLASSES, UnitRow, Units
from textless.units.dump import Dump
from textless.vocoder import UnitVocoder

PROMPT = CONTINUED = 3.0  # seconds
NEAR = 1.5  # seconds of either side of the seam that are compared for the melody
SHORT = 8.0  # seconds of files that are spoken, of which every second is
UP = 4  # steps that prompts are transposed by
SEMITONES = CENTS / 100
DRAWS = 1000


class UnitsOnly(UnitLM):
    """A model that predicts pitch from units alone: what it reads of the pitch is nothing."""

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens % (self.config.n_units + 1))


def trained(kind: type[UnitLM], train: Dump, folder: Path, steps: int, preset: str) -> UnitLM:
    config = LMConfig(n_units=train.contract.n_units or 0, context=256, **PRESETS[preset])
    torch.manual_seed(0)
    start = kind(config, train.contract, dropout=0.1)
    if (folder / "config.json").is_file():
        start.load_state_dict(load_lm(folder).state_dict())
        return start.eval()
    lm, _ = train_lm(
        (row.units for row in train),
        contract=train.contract,
        start=start,
        steps=steps,
        batch_tokens=2048,
        context=256,
        lr=2e-3,
        checkpoint=folder.with_suffix(".pt"),
        log=lambda step, row: print(folder.name, step, {k: round(v, 3) for k, v in row.items()}, flush=True),
    )
    lm.save(folder)
    assert isinstance(lm, UnitLM)
    return lm


def likelihoods(lm: UnitLM, units_only: UnitLM, train: Dump, rows: Sequence[UnitRow]) -> dict[str, object]:
    counts = 1 + np.bincount(np.concatenate([row.units.pitch for row in train]), minlength=PITCH_CLASSES)
    nats = -np.log(counts / counts.sum())
    n = np.array([len(row.units) for row in rows])
    ours, theirs = ([stream_nll(m, row.units) for row in rows] for m in (lm, units_only))
    out: dict[str, object] = {}
    for name in ("units", "durations", "pitch"):
        a, b = (np.array([s[name].sum() for s in scores]) for scores in (ours, theirs))
        out[name] = {
            "model": (a.sum() / n.sum(), *interval(a, n, seed=0)),
            "units only": (b.sum() / n.sum(), *interval(b, n, seed=0)),
            "difference": paired((a, n), (b, n), seed=0),
        }
        if name == "pitch":
            c = np.array([nats[row.units.pitch].sum() for row in rows])
            out["pitch unigram"] = (c.sum() / n.sum(), *interval(c, n, seed=0))
            out["pitch less unigram"] = paired((a, n), (c, n), seed=0)
    return out


def continued(lm: UnitLM, rows: Sequence[UnitRow], temperature: float) -> list[Units]:
    new = continue_rows(lm, rows, prompt_seconds=PROMPT, seconds=CONTINUED, only_new=True, temperature=temperature)
    return [row.units for row in new]


def by_vocoder(vocoder: UnitVocoder, continued: Sequence[Units]) -> list[np.ndarray]:
    """The pitch of each unit by the vocoder's predictor, each row with another of its voices."""
    voices = [i % len(vocoder.speakers) for i in range(len(continued))]
    f0 = [vocoder.predict_f0(units.frames(), speaker=v) for units, v in zip(continued, voices, strict=True)]
    means = {v: mean_octaves([f for f, w in zip(f0, voices, strict=True) if w == v]) for v in set(voices)}
    return [pitch_of_units(f, units.durations, means[v]) for f, units, v in zip(f0, continued, voices, strict=True)]


def histograms(pitches: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """(rows, bins) counts of each row: of the pitch of voiced units, of its slopes, and of voiced or not."""
    level, slope, voicing = [], [], []
    for p in pitches:
        both = (p[1:] > 0) & (p[:-1] > 0)
        level.append(np.bincount(p[p > 0], minlength=PITCH_CLASSES))
        slope.append(np.bincount(np.diff(p)[both] + PITCH_CLASSES, minlength=2 * PITCH_CLASSES))
        voicing.append(np.bincount(p > 0, minlength=2))
    return {"level": np.array(level), "slope": np.array(slope), "voicing": np.array(voicing)}


def wasserstein(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(R,) distances in steps, of resampled rows: counts (rows, bins) twice, (R, rows) weights."""
    first, second = (np.cumsum(draws @ counts, 1, dtype=np.float64) for counts in (a, b))
    return np.abs(first / first[:, -1:] - second / second[:, -1:]).sum(1)


def distances(real: Sequence[np.ndarray], systems: dict[str, Sequence[np.ndarray]]) -> dict[str, object]:
    rng, n = np.random.default_rng(0), len(real)
    draws = np.concatenate([np.ones((1, n), np.int64), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    target, out = histograms(real), {}
    for name, counts in target.items():
        values = {k: wasserstein(histograms(s)[name], counts, draws) for k, s in systems.items()}
        scale = 1.0 if name == "voicing" else SEMITONES
        out[name] = {k: (scale * v[0], *(scale * x for x in percentiles(v[1:]))) for k, v in values.items()}
        difference = scale * (values["vocoder"] - values["model"])
        out[name]["vocoder less model"] = (difference[0], *percentiles(difference[1:]))
    return out


def correlation(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Pearson correlation, its interval, and the number of pairs."""
    x, rng = np.array(pairs, np.float64), np.random.default_rng(0)
    draws = [np.corrcoef(x[rng.integers(len(x), size=len(x))].T)[0, 1] for _ in range(DRAWS)]
    return float(np.corrcoef(x.T)[0, 1]), *percentiles(np.array(draws)), len(x)


def melody(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> dict[str, tuple[float, ...]]:
    """Correlations over rows of the voiced units at the seam, and of the means to either side, as pGSLM has it."""
    pairs = [(a[a > 0], b[b > 0]) for a, b in zip(before, after, strict=True) if a.any() and b.any()]
    return {
        "seam": correlation([(a[-1], b[0]) for a, b in pairs]),
        "means": correlation([(a.mean(), b.mean()) for a, b in pairs]),
    }


def transposed(row: UnitRow) -> UnitRow:
    pitch = row.units.pitch
    assert pitch is not None
    return replace(row, units=replace(row.units, pitch=np.where(pitch > 0, np.minimum(pitch + UP, STEPS), 0)))


def shifts(as_it_is: Sequence[Units], up: Sequence[Units]) -> dict[str, tuple[float, ...]]:
    """Semitones by which a transposed prompt moves the mean of what follows, by the seconds of it."""
    out = {}
    for seconds in (0.5, 1.0, CONTINUED):
        pairs = [(a.between(0, seconds).pitch, b.between(0, seconds).pitch) for a, b in zip(as_it_is, up, strict=True)]
        moved = [b[b > 0].mean() - a[a > 0].mean() for a, b in pairs if a.any() and b.any()]
        values = SEMITONES * np.array(moved)
        out[f"{seconds:g} s"] = (values.mean(), *interval(values, seed=0), len(values))
    return out


def followed(vocoder: UnitVocoder, rows: Sequence[UnitRow]) -> dict[str, dict[str, tuple[float, ...]]]:
    """How far the F0 of speech with and without pitch is from the contour that pitch asks for, by the first voice."""
    units = [row.units for row in rows]
    asked = []
    for u in units:
        pitch = u.pitch_frames()
        assert pitch is not None
        asked.append(pitch_hz(pitch, mean_octaves([vocoder.predict_f0(u.frames())])))
    out = {}
    for name, spoken in (("with pitch", units), ("without", [replace(u, pitch=None) for u in units])):
        tracked = track_f0([vocoder.resynth(u) for u in spoken], frames=[u.n_frames for u in spoken])
        cents = np.array([f0_cents_error(a, b) for a, b in zip(tracked, asked, strict=True)])
        voicing = np.array([voicing_error(a, b) for a, b in zip(tracked, asked, strict=True)])
        out[name] = {
            "cents": (cents.mean(), *interval(cents, seed=0), len(rows)),
            "voicing error": (voicing.mean(), *interval(voicing, seed=0), len(rows)),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.8, 1.0])
    parser.add_argument("--voice", default="tiny-en")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train, test = Dump(args.train), list(Dump(args.test))
    lm = trained(UnitLM, train, args.out / "lm", args.steps, args.preset)
    units_only = trained(UnitsOnly, train, args.out / "units-only", args.steps, args.preset)
    results: dict[str, object] = {"likelihoods": likelihoods(lm, units_only, train, test)}
    rows = [row for row in test if row.units.seconds >= PROMPT + CONTINUED]
    prompts = [row.units.between(PROMPT - NEAR, PROMPT).pitch for row in rows]
    real = [row.units.between(PROMPT, PROMPT + CONTINUED) for row in rows]
    vocoder = load(args.voice).vocoder
    assert isinstance(vocoder, UnitVocoder)
    results["followed"] = followed(vocoder, [row for row in test if row.units.seconds < SHORT][::2])
    for temperature in args.temperature:
        systems: dict[str, list[Units]] = {}
        for name, model in (("model", lm), ("units only", units_only)):
            systems[name] = continued(model, rows, temperature)
        pitches = {name: [u.pitch for u in units] for name, units in systems.items()}
        pitches["vocoder"] = by_vocoder(vocoder, systems["model"])
        pitches["vocoder, real units"] = by_vocoder(vocoder, real)
        near = {name: [u.between(0, NEAR).pitch for u in units] for name, units in systems.items()}
        near["vocoder"] = [p[: len(u)] for p, u in zip(pitches["vocoder"], near["model"], strict=True)]
        near["real"] = [u.between(0, NEAR).pitch for u in real]
        results[f"temperature {temperature}"] = {
            "rows": len(rows),
            "distances": distances([u.pitch for u in real], pitches),
            "melody": {name: melody(prompts, p) for name, p in near.items()},
            "transposed": shifts(systems["model"], continued(lm, [transposed(row) for row in rows], temperature)),
        }
    print(json.dumps(results, indent=1, default=lambda v: [round(float(x), 4) for x in v]))


if __name__ == "__main__":
    main()

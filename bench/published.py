"""The real published chains: fetched, run on one clip, and compared with what their projects publish.

python bench/published.py [NAME …]      # all chains by default: tens of GB

It was not run where it was written, without a network; there the same code ran on small files of the same formats
(tests/test_models.py). One published reference is known: SlamKit's example, two recordings and their deduplicated units
of mhubert-base-25hz/km500. SlamKit pads recordings with 40 samples on both sides and textless does not, so that units
near the ends may differ; `distance` is the edit distance over the number of units. Everything else is printed, so that
it can be pinned in EXPECTED, with which the next run is compared.
"""

import json
import sys
from pathlib import Path

import textless
from textless.audio.fetch import fetch
from textless.metrics.edit_distance import edit_distance
from textless.zoo import CHAINS, PUBLISHED

EXAMPLE = "https://raw.githubusercontent.com/slp-rl/slamkit/388b40222a1736930dad5e6b231754217c69629a/example_data"
CLIPS = ("audio1.flac", "audio2.flac")
# By name: the first units of the first clip, and the mean negative log-likelihood of its units, in nats. None is known.
EXPECTED: dict[str, tuple[list[int], float | None]] = {}


def clips() -> dict[str, Path]:
    return {name: fetch(f"{EXAMPLE}/audio/{name}", sha256=None) for name in CLIPS}


def against_slamkit(audio: dict[str, Path]) -> None:
    lines = fetch(f"{EXAMPLE}/features.jsonl", sha256=None).read_text().splitlines()
    published = {Path(row["file_name"]).name: row["units"] for row in map(json.loads, lines)}
    model = textless.load("mhubert-base-25hz/km500")
    for name, path in audio.items():
        ours, theirs = model.encode(textless.read_audio(path)).units.tolist(), published[name]
        distance = edit_distance(ours, theirs) / len(theirs)
        print(f"mhubert-base-25hz/km500 {name}: {len(ours)} units, SlamKit's {len(theirs)}, distance {distance:.4f}")


def report(name: str, path: Path) -> None:
    model, parts = textless.load(name), PUBLISHED[name].parts
    units = model.encode(textless.read_audio(path))
    nll = float(model.lm.nll(units).mean()) if "lm" in parts else None
    print(f"{name}: {len(units)} units of {units.n_frames} frames, first {units.units[:20].tolist()}; mean NLL {nll}")
    print(f"  contract {json.dumps(units.contract.to_dict())}")
    if name in EXPECTED:
        first, known = EXPECTED[name]
        same = units.units[: len(first)].tolist() == first
        print(f"  units as expected: {same}; NLL expected: {known}")
    if "vocoder" in parts:
        durations = "given" if model.vocoder.styles or "lm" not in parts else "predict"
        wave = model.resynth(units, durations=durations)
        print(f"  speech of {len(wave) / model.vocoder.sample_rate:.2f} s, peak {abs(wave).max():.3f}")


def main() -> None:
    names = sys.argv[1:] or [*CHAINS]
    audio = clips()
    if not sys.argv[1:] or any(CHAINS[name][0] == "mhubert-base-25hz/km500" for name in names if name in CHAINS):
        against_slamkit(audio)
    for name in names:
        report(name, audio[CLIPS[0]])


if __name__ == "__main__":
    main()

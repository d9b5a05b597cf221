"""Figures of published systems, in the unit in which their papers print them.

`figure` is the name that the figure has here; `score` is what the system was ranked by: `mean` or `sum` of the
log-likelihood, or empty where the source does not say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

SLAM = "slp-rl/slamkit docs/SLAM.md"
SPIDR = "facebookresearch/spidr paper/results/spoken-lm.csv"
SPIDR_ABX = "facebookresearch/spidr paper/results/abx-{continuous,discrete}.csv"
SALMON = "slp-rl/salmon README.md"
TSC = "slp-rl/SpokenStoryCloze README.md"
# sBLIMP, sStoryCloze, tStoryCloze, as the table of Slam has them.
_SLAM = {
    "GSLM": (54.2, 53.3, 66.6),
    "TWIST 350M": (56.2, None, None),
    "TWIST 1.3B": (57.0, 52.4, 70.6),
    "TWIST 7B": (59.0, 55.3, 74.1),
    "TWIST 13B": (59.2, 55.4, 76.4),
    "SyllableLM": (63.7, None, 75.4),
    "Moshi, speech only": (58.9, 58.7, 81.8),
    "SpiritLM, speech only": (58.0, 54.8, 72.9),
    "Slam": (58.86, 58.04, 82.04),
    "Slam, scaled": (61.11, 61.30, 84.18),
}
# 125 M OPT on 6000 h of Libri-light, 256 units of k-means of each encoder (layer): sWUGGY all and in vocabulary,
# sBLIMP, tSC, sSC.
_SPIDR = {
    "wav2vec 2.0 (L6)": (62.39, 68.50, 53.34, 65.97, 53.85),
    "HuBERT (L11)": (65.50, 73.67, 55.60, 68.75, 52.24),
    "WavLM base (L11)": (69.74, 79.88, 56.60, 70.35, 52.03),
    "SpidR (L6)": (71.89, 82.46, 59.48, 70.46, 53.04),
}
_TASKS = (
    "sentiment_consistency",
    "speaker_consistency",
    "gender_consistency",
    "bg_domain_consistency",
    "bg_all_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "bg_alignment",
)
_SALMON = {
    "TWIST 7B": (61.5, 71.0, 70.0, 55.0, 60.5, 62.0, 51.5, 54.5),
    "pGSLM": (40.5, 83.0, 88.5, 57.0, 66.0, 53.5, 55.5, 53.5),
    "LAST 1.3B": (65.0, 64.5, 68.5, 56.0, 61.0, 62.5, 53.5, 53.0),
    "people": (97.2, 91.2, 98.6, 83.1, 88.7, 94.4, 93.3, 95.7),
}


# Errors on dev-clean within and across speakers, then dev-other; frames by angle, or units of 256 k-means.
_ABX = {
    "HuBERT (L11), frames": (3.378, 4.005, 4.264, 6.488),
    "SpidR (L6), frames": (3.324, 3.652, 3.739, 4.974),
    "HuBERT (L11), units": (5.256, 6.297, 7.284, 10.436),
    "SpidR (L6), units": (6.000, 6.650, 7.056, 9.107),
}
_TSC = {"TWIST 1.3B": (61.3,), "TWIST 7B": (64.4,), "LLaMA 7B on text": (98.3,)}


def _rows() -> Iterator[dict[str, str | float]]:
    pairs = [
        ("swuggy", "all"),
        ("swuggy", "in vocabulary"),
        *((b, "all") for b in ("sblimp", "tstorycloze", "sstorycloze")),
    ]
    tables: tuple[tuple[Mapping[str, Sequence[float | None]], list[tuple[str, str]], str, set[str]], ...] = (
        (_SLAM, [(b, "all") for b in ("sblimp", "sstorycloze", "tstorycloze")], SLAM, {"Slam", "Slam, scaled"}),
        (_SPIDR, pairs, SPIDR, set(_SPIDR)),
        (_SALMON, [("salmon", f"task {task}") for task in _TASKS], SALMON, {"TWIST 7B", "pGSLM"}),
        (_TSC, [("tstorycloze", "all")], TSC, set()),
        (
            _ABX,
            [("abx", f"{s} {speakers}") for s in ("dev-clean", "dev-other") for speakers in ("within", "across")],
            SPIDR_ABX,
            set(),
        ),
    )
    for systems, figures, source, by_mean in tables:
        for system, values in systems.items():
            for (benchmark, figure), value in zip(figures, values, strict=True):
                if value is not None:
                    score = "mean" if system in by_mean else ""
                    yield {
                        "benchmark": benchmark,
                        "system": system,
                        "figure": figure,
                        "value": value,
                        "score": score,
                        "source": source,
                    }


PUBLISHED = tuple(_rows())

"""Probes of every layer: accuracy of a linear classifier, CKA and CCA with the labels and with other features.

The analyses of Pasad et al. 2021 and 2023 (arXiv:2107.04734, arXiv:2211.03929), on frames and on means over files.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from textless.metrics.labelled import Labelled
from textless.metrics.metric import Metric, percent
from textless.metrics.metric import number as digits
from textless.metrics.probing import FOLDS, folds, lonely, probe, similarity
from textless.metrics.similarity import one_hot

# Of each layer, in the order of the table; those with other features begin with their name.
COLUMNS = {
    "accuracy": Metric("accuracy", percent, interval=True, baseline="chance", unprinted=("shuffled",)),
    "cka": Metric("CKA", digits(3), interval=True, baseline="chance"),
    "cca": Metric("PWCCA", digits(3), interval=True, baseline="chance"),
}


def probe_layers(
    sample: Labelled, speakers: Mapping[str, str | None], *, others: Collection[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Probe each layer of a sample.

    Labels of whole files are read off the mean of a file's frames (of units: their shares), those of frames off each
    frame. CKA and CCA are of frames in both cases. Where at least five speakers are known, and every label of a file is
    that of two speakers at least, no speaker is both trained and tested on; otherwise no file is.

    Args:
        speakers: by file.
        others: which of the layers are other features, that the layers are compared with as well.

    Returns:
        `split`: `speaker` or `file`, what is never on both sides; `layers`: by name, what `probe` and `similarity`
        (with the labels, one-hot) return, and under `OTHER_cka` and `OTHER_cca` those with other features.

    Raises CorpusError as `probe`.
    """
    by_file = bool(sample.whole)
    names = np.array(sample.names if by_file else sample.files, object).astype(str)
    labels = np.array(sample.whole if by_file else sample.labels, object).astype(str)
    files = sample.files.astype(str)
    groups = _speakers(names, labels if by_file else None, speakers)
    split = "file" if groups is None else "speaker"
    keep = names if groups is None else groups
    folds(labels, keep, seed=seed, what=f"{split}s")  # what cannot be probed is said before anything else
    if rare := lonely(labels, keep):
        warnings.warn(
            f"{len(rare)} of {len(set(labels))} labels are of one {split} only, such as {rare[0][:60]!r}: a probe "
            "never predicts them right",
            stacklevel=2,
        )
    frame_labels = sample.labels.astype(str)
    frame_groups = files if groups is None else np.array([str(speakers[f]) for f in files])
    parts = folds(frame_labels, frame_groups, seed=seed, what="files" if groups is None else "speakers")
    targets = {"": one_hot(frame_labels), **{f"{name}_": sample.layers[name] for name in others}}
    out: dict[str, dict[str, float]] = {}
    for layer, frames in sample.layers.items():
        x = np.stack(sample.means[layer]) if by_file else frames
        values = probe(x, labels, names, groups, seed=seed)
        for prefix, target in targets.items():
            if prefix != f"{layer}_":
                measured = similarity(frames, target, files, parts, seed=seed)
                values |= {prefix + k: v for k, v in measured.items()}
        out[layer] = values
    return {"split": split, "layers": out}


def _speakers(names: np.ndarray, labels: np.ndarray | None, speakers: Mapping[str, str | None]) -> np.ndarray | None:
    """(N,) the speaker of each row, None where files have to be split instead."""
    of_rows = [speakers.get(name) for name in names]
    known = {s for s in of_rows if s is not None}
    if None in of_rows or len(known) < FOLDS:
        return None
    groups = np.array(of_rows, object).astype(str)
    return groups if labels is None or not lonely(labels, groups) else None


def layer_table(result: Mapping[str, Any]) -> str:
    """A line for each layer: each figure with its 95 % interval, and in brackets its chance level."""
    layers: dict[str, dict[str, float]] = result["layers"]
    keys = list(dict.fromkeys(k for values in layers.values() for k in values if k.rpartition("_")[2] in COLUMNS))
    lines = [["layer", *(_label(k) for k in keys)]]
    for name, values in layers.items():
        lines.append([name, *(_cell(values, k) for k in keys)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    first = next(iter(layers.values()))
    about = (
        f"{first['rows']:,.0f} rows of {first['files']:,.0f} files, {first['classes']:.0f} labels; "
        f"no {result['split']} is both trained and tested on; [95 % interval] (chance)"
    )
    return "\n".join([*rows, about])


def _label(key: str) -> str:
    other, _, measure = key.rpartition("_")
    return f"{COLUMNS[measure].label}{f' with {other}' if other else ''}"


def _cell(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return "–"
    show = COLUMNS[key.rpartition("_")[2]].format
    low, high, chance = (show(values[f"{key}_{end}"]) for end in ("low", "high", "chance"))
    return f"{show(values[key])} [{low}, {high}] ({chance})"

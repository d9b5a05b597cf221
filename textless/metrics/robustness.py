"""Do units stay when only the sound changes? Unit edit distance (UED).

Gat et al. 2022, Augmentation Invariant Discrete Representation for Generative Spoken Language Modeling,
arXiv:2209.15483, section 3.

The paper has an encoder f of waveforms to T' frames, a quantizer E of each frame to a unit, and a change g of the
waveform. Its distance is LEV(dedup(E(f(x))), dedup(E(f(g(x))))) / T'_x. Units are deduplicated before they are
compared, but T'_x is the number of frames of x, before deduplication. So UED is smaller than an error rate, which
divides by the deduplicated units.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from textless.audio.waveform import as_waveform
from textless.errors import CorpusError
from textless.metrics.bootstrap import interval
from textless.metrics.edit_distance import edit_distance
from textless.metrics.metric import Metric, percent
from textless.metrics.perturb import PERTURBATIONS, perturb
from textless.types import Units

METRICS = {
    f"ued_{name}": Metric(f"unit edits per frame, {change}", percent, interval=True)
    for name, change in PERTURBATIONS.items()
}


def unit_edit_distance(clean: Units, changed: Units) -> float:
    """Edit distance of the deduplicated units of a file and of its changed version, over the clean file's frames.

    0 is best. Raises CorpusError where `clean` is empty.
    """
    if not len(clean):
        raise CorpusError("the edit distance is relative to the frames of the clean file, and there are none")
    return edit_distance(clean.deduplicated().units, changed.deduplicated().units) / clean.n_frames


def unit_edit_distances(
    waveform: np.ndarray, encode: Callable[[Sequence[np.ndarray]], Sequence[Units]], *, name: str = "", seed: int = 0
) -> dict[str, float]:
    """Unit edit distance of one file under each of `textless.metrics.perturb.PERTURBATIONS`.

    The paper stretches in time, shifts the pitch, and adds reverberation, and noise from a corpus. Here are:
    `ued_speed_F`, resampling to F times the speed, which moves the pitch too; `ued_stretch_F`, at the same pitch;
    `ued_pitch_S`, S semitones, formants with it; `ued_noise_D`, white noise D dB below the speech; no reverberation.

    Args:
        waveform: (samples,) float32 at 16 kHz.
        encode: a list of waveforms to a list of their units, such as `Tokenizer.encode_batch` or `Model.encode`.
        name, seed: of the noise.

    Raises:
        AudioError: shorter than a frame, possibly only after it is sped up.
    """
    waveform = as_waveform(waveform)
    noise_seed = zlib.crc32(f"{seed}/{name}".encode())
    changed = [perturb(waveform, kind, seed=noise_seed) for kind in PERTURBATIONS]
    clean, *others = encode([waveform, *changed])
    return {f"ued_{kind}": unit_edit_distance(clean, units) for kind, units in zip(PERTURBATIONS, others, strict=True)}


def mean_distances(files: Iterable[Mapping[str, float]], *, seed: int = 0) -> dict[str, float]:
    """Means over files, unweighted by their length, as in the paper; with two or more files also 95 % intervals.

    Raises CorpusError when there are no files.
    """
    files = list(files)
    if not files:
        raise CorpusError("there is no audio whose units could be compared")
    means = {}
    for name in files[0]:
        values = np.array([file[name] for file in files])
        means[name] = float(values.mean())
        if len(values) > 1:
            means[f"{name}_low"], means[f"{name}_high"] = interval(values, seed=seed)
    return means

"""Units with a second stream, their pitch: how a language model reads both, and the likelihood of each stream.

Pitch is read one step late, as in pGSLM with a shift of 1 (Kharitonov et al. 2022, arXiv:2109.03264, section 3.2): the
hidden state that has read u1 … ut and p1 … p(t-1) predicts the unit u(t+1), and of ut its duration and its pitch pt. So
the pitch of a unit is predicted from the unit itself, and units from the pitch of all units but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from textless.errors import ContractError
from textless.types import PITCH_CLASSES

if TYPE_CHECKING:
    from textless.lm.decoder import Decoder
    from textless.types import UnitsLike


def joint(tokens: Sequence[int], before: Sequence[int], vocabulary: int) -> list[int]:
    """What a model with pitch reads: each token, and the pitch of the token before it, as one integer.

    It is token + vocabulary · pitch, so that whatever passes tokens on also passes pitch on. `before` is the pitch
    before each token, 0 at the beginning and after `</s>`; a value after the last token is left out.
    """
    return [token + vocabulary * pitch for token, pitch in zip(tokens, before, strict=False)]


def stream_nll(lm: Decoder, units: UnitsLike) -> dict[str, np.ndarray]:
    """Negative log-likelihood of each stream of a model with pitch, in nats, float64.

    Returns:
        `units`: (N + 1,), as `nll` gives it: of each unit given all units before it and the pitch of all but the last
        of those, and of `</s>`; `durations`: (N,), of each given its unit and what that was given; one longer than
        `max_duration` counts as that, and units without durations have none, (0,); `pitch`: (N,), given the same as the
        duration. Their sum is that of the sequence, where durations are not read and pitch does not depend on the
        duration of its unit.

    Raises:
        ContractError: as `nll`, and for a model without pitch.
    """
    if not lm.has_pitch:
        raise ContractError("the language model has no pitch; train one on units with pitch (the step `pitch`)")
    checked = lm.checked(units, "the units")
    tokens, read = lm.document(checked)
    inputs, targets = (torch.tensor(values, dtype=torch.int64, device=lm.device) for values in (read[:-1], tokens[1:]))
    scores: dict[str, list[np.ndarray]] = {"units": [], "durations": [], "pitch": []}
    classes = {} if checked.pitch is None else {"pitch": checked.pitch}
    if checked.durations is not None:
        classes["durations"] = checked.durations.clip(max=lm.config.max_duration) - 1
    with lm.evaluating():
        for first, at in lm.windows(len(inputs)):
            hidden = lm(inputs[None, first : at.stop])[0, at.start - first :]
            scores["units"].append(_nats(lm.log_probabilities(hidden), targets[at]))
            hidden = hidden[max(0, 1 - at.start) :]  # position 0 is `</s>`, which has neither
            logits = {"pitch": lm.pitch_logits(hidden), "durations": lm.duration_logits(hidden)}
            for name, values in classes.items():
                of = torch.tensor(values[max(at.start, 1) - 1 : at.stop - 1], device=lm.device)
                scores[name].append(_nats(torch.log_softmax(logits[name].double(), -1), of))
    return {name: np.concatenate([np.empty(0), *parts]) for name, parts in scores.items()}


def unigram_nats(pitch: np.ndarray) -> np.ndarray:
    """(PITCH_CLASSES,) float64: nats of each class under its add-one frequency in (N,) pitch of training units."""
    seen = 1 + np.bincount(pitch, minlength=PITCH_CLASSES)
    return -np.log(seen / seen.sum())


def _nats(log_p: Tensor, targets: Tensor) -> np.ndarray:
    """(t, classes) float64, (t,) int64 → (t,) float64."""
    return -log_p.gather(-1, targets[:, None])[:, 0].cpu().numpy()

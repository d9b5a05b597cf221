"""Speech while units come: equal to speech from all of them, in any pieces, with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textless.errors import ContractError, ModelError
from textless.types import UnitContract, Units
from textless.vocoder import UnitVocoder, VocoderConfig
from textless.vocoder.stream import Chain, Queue, Speaking, Stage

CONTRACT = UnitContract(encoder="logmel", sample_rate=16000, frame_rate=50.0, n_units=7)
KINDS = [
    {},
    {"f0": True},
    {"causal": True},
    {"f0": True, "causal": True},
]


def vocoder(**fields) -> UnitVocoder:
    """Untrained, with weights large enough that context is heard, and a voice that is voiced."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UnitVocoder(
            VocoderConfig.of(CONTRACT, speakers=("ann", "bob"), preset="nano", **fields), CONTRACT
        ).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.ndim >= 2:
                    p.normal_(std=0.1)
                elif name.endswith("bias"):
                    p.add_(0.3 * torch.randn_like(p))
            if model.config.f0:
                model.pitch.project.bias[0] = 1
            model.durations.project.bias.fill_(1)
    return model


def units_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, size=n)


def cut(units, sizes: list[int]) -> list:
    ends = np.cumsum(sizes)
    return [units[a:b] for a, b in zip([0, *ends], [*ends, len(units)], strict=True)]


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("sizes", [[1] * 60, [5, 0, 17, 1, 30], [61]], ids=["ones", "uneven", "whole"])
def test_streamed_is_offline(fields, sizes):
    model, units = vocoder(**fields), units_of(61)
    expected = model.resynth(units, speaker="bob")
    made = np.concatenate(list(model.stream(cut(units, sizes), speaker="bob")))
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_rows_shorter_than_the_context(fields, n):
    model, units = vocoder(**fields), units_of(n)
    made = np.concatenate(list(model.stream([units[:1], units[1:]])))
    np.testing.assert_allclose(made, model.resynth(units), atol=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 39, [7, 20], [40]], ids=["ones", "uneven", "whole"])
def test_predicted_durations_are_those_of_the_whole(sizes):
    model = vocoder(f0=True)
    literal = units_of(40)  # with repetitions, which a bare array keeps
    made = np.concatenate(list(model.stream(cut(literal, sizes), durations="predict")))
    np.testing.assert_allclose(made, model.resynth(literal, durations="predict"), atol=1e-5)
    # Of Units, a run that goes on in the next piece is one.
    whole = Units(literal, None, CONTRACT)
    made = np.concatenate(
        list(model.stream([Units(p, None, CONTRACT) for p in cut(literal, sizes)], durations="predict"))
    )
    np.testing.assert_allclose(made, model.resynth(whole, durations="predict"), atol=1e-5)
    assert len(made) < len(model.resynth(literal, durations="predict"))


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_look_ahead_is_what_is_said(fields):
    """After n frames, all but the last `look_ahead` seconds have come; a later unit does not change what came."""
    model = vocoder(**fields)
    speaking, units, waiting = Speaking(model), units_of(81), round(model.look_ahead * 50)
    parts = [speaking.push(units[k : k + 1]) for k in range(80)]
    given = np.cumsum([len(p) for p in parts])
    assert (given >= (np.arange(1, 81) - waiting) * 320).all()
    assert given[-1] <= (80 - waiting + 1) * 320, "it says less than it could"
    other = units.copy()
    other[-1] = (other[-1] + 1) % 7
    offline = model.resynth(units), model.resynth(other)
    np.testing.assert_allclose(np.concatenate(parts), offline[0][: given[-1]], atol=1e-5)
    np.testing.assert_allclose(offline[1][: given[-1]], offline[0][: given[-1]], atol=1e-5)
    assert np.abs(offline[1] - offline[0]).max() > 1e-3


def test_look_ahead_by_number():
    """Nano: five convolutions of 7 frames and an iSTFT of 4; with F0 also four convolutions, or two frames of F0 and a
    spectrum.
    """
    assert vocoder().look_ahead == pytest.approx(18 / 50)
    assert vocoder(f0=True).look_ahead == pytest.approx(30 / 50)
    assert vocoder(causal=True).look_ahead == pytest.approx(3 / 50)
    assert vocoder(f0=True, causal=True).look_ahead == pytest.approx(7 / 50)


def held(thing: object, seen: set[int]) -> int:
    """Bytes of the tensors that an object holds, those of the model apart."""
    if id(thing) in seen or isinstance(thing, UnitVocoder | torch.nn.Module):
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return thing.numel() * thing.element_size()
    parts = (
        thing
        if isinstance(thing, list | tuple)
        else vars(thing).values()
        if isinstance(thing, Stage | Chain | Queue | Speaking)
        else ()
    )
    return sum(held(part, seen) for part in parts)


def test_memory_does_not_grow():
    speaking = Speaking(vocoder(f0=True))
    sizes = []
    for k in range(12):
        speaking.push(units_of(50, k))
        sizes.append(held(speaking, set()))
    assert sizes[3] > 10_000
    assert max(sizes[3:]) == min(sizes[3:])


def test_stages_are_the_function_of_the_whole():
    """Any window of three before and one after, on a signal that starts and ends."""

    def weigh(x: torch.Tensor) -> torch.Tensor:
        return sum((k + 1) * x[:, k : x.shape[1] - 4 + k] for k in range(5))

    x = torch.arange(1.0, 12.0)[None]
    expected = weigh(torch.nn.functional.pad(x, (3, 1)))
    for sizes in ([1] * 10, [4, 0, 5], []):
        stage = Stage(weigh, (3, 1))
        parts = [stage(torch.as_tensor(p)[None] if len(p) else None, False) for p in cut(x[0].numpy(), sizes)] + [
            stage(None, True)
        ]
        assert torch.equal(torch.cat([p for p in parts if p is not None], 1), expected)
    assert Stage(weigh, (3, 1))(None, True) is None


@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_requests_that_cannot_be_met():
    model = vocoder()
    with pytest.raises(ModelError, match="no units"):
        list(model.stream([]))
    with pytest.raises(ModelError, match="no units"):
        list(model.stream([np.zeros(0, np.int64)]))
    with pytest.raises(ModelError, match=r"'eve'.*ann, bob"):
        list(model.stream([[1]], speaker="eve"))
    with pytest.raises(ModelError, match="durations"):
        list(model.stream([[1]], durations="long"))
    with pytest.raises(ContractError, match="outside"):
        list(model.stream([[1], [7]]))
    with pytest.raises(ContractError, match="mfcc"):
        list(model.stream([Units(np.array([1]), None, CONTRACT.with_(encoder="mfcc"))]))

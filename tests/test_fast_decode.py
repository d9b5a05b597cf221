"""Reading into a cache: against the whole sequence at once, in pieces, in rows of their own lengths, and with
integers."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_lm import random_lm
from torch import nn

from conftest import GOLDEN
from textless.errors import ModelError
from textless.lm import fast_decode
from textless.lm.cache import KVCache
from textless.lm.decoder import Decoder
from textless.lm.fast_decode import Int8Linear, Linear
from textless.lm.gslm.ulm import load_ulm


def ulm() -> Decoder:
    return load_ulm(GOLDEN / "ulm.pt", GOLDEN / "ulm_dict.txt")


@pytest.fixture(params=[lambda: random_lm(context=40), ulm], ids=["UnitLM", "ULM"])
def lm(request) -> Decoder:
    return request.param()


def some_tokens(lm: Decoder, rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, lm.n_units, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 1, 11], [1, 19]])
def test_reading_in_pieces_is_the_model(lm: Decoder, pieces: list[int]) -> None:
    tokens, cache = some_tokens(lm, 2, 20), KVCache(lm.config, 2, 25, lm.device)
    edges = np.cumsum([0, *pieces])
    read = torch.cat([lm.forward_cached(tokens[:, a:b], cache) for a, b in pairwise(edges)], 1)
    with torch.inference_mode():
        torch.testing.assert_close(read, lm(tokens), rtol=1e-4, atol=1e-4)
    assert cache.lengths.tolist() == [20, 20]


@pytest.mark.parametrize("span", [1, 3])
def test_rows_of_different_lengths(lm: Decoder, span: int) -> None:
    lengths, cache = [5, 1, 9], KVCache(lm.config, 3, 9 + 4 * span, lm.device)
    tokens = some_tokens(lm, 3, 9 + 4 * span)
    for i, n in enumerate(lengths):
        lm.forward_cached(tokens[i : i + 1, :n], cache.row(i))
    for k in range(4):
        read = lm.forward_cached(
            torch.stack([tokens[i, n + k * span : n + (k + 1) * span] for i, n in enumerate(lengths)]), cache
        )
        with torch.inference_mode():
            for i, n in enumerate(lengths):
                whole = lm(tokens[i : i + 1, : n + (k + 1) * span])[0, -span:]
                torch.testing.assert_close(read[i], whole, rtol=1e-4, atol=1e-4)


def test_a_step_that_looks_at_the_whole_cache(lm: Decoder) -> None:
    """What a GPU records: places from a tensor, and everything behind them masked."""
    tokens, cache = some_tokens(lm, 2, 9), KVCache(lm.config, 2, 25, lm.device)
    lm.forward_cached(tokens[:, :8], cache)
    cache.kv[:, :, :, :, 9:] = 1e4  # of something that was read before
    with torch.inference_mode():
        still = lm.fast_decoder()._layers(tokens[:, 8:], cache.kv, cache.lengths[:, None], 25)
    torch.testing.assert_close(still, lm.forward_cached(tokens[:, 8:], cache), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_recorded_steps_of_a_gpu(lm: Decoder, precision: str, device: str) -> None:
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip("no second CUDA device")
    lm.to(device).precision = precision
    tokens = some_tokens(lm, 3, 30).to(device)
    recorded, plain = (KVCache(lm.config, 3, 40, lm.device) for _ in range(2))
    for cache in (recorded, plain):
        for i, n in enumerate((5, 1, 9)):
            lm.forward_cached(tokens[i : i + 1, :n], cache.row(i))
    for k in range(10, 20):
        if k == 15:  # read again, as a row whose context is full
            for cache in (recorded, plain):
                cache.lengths[2] = 0
                lm.forward_cached(tokens[2:3, :4], cache.row(2))
        with torch.inference_mode():
            want = lm.fast_decoder()._layers(tokens[:, k : k + 1], plain.kv, plain.lengths[:, None], 40)
        plain.lengths += 1
        torch.testing.assert_close(lm.forward_cached(tokens[:, k : k + 1], recorded), want, rtol=1e-4, atol=1e-4)


def layer(bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(96, 40, bias=bias)
    nn.init.normal_(made.weight, std=0.3)
    return made


def naive_int8(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    def integers(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = t.abs().amax(1, keepdim=True).double() / 127
        return (t.double() / scale).round(), scale

    with torch.no_grad():
        (w, w_scale), (x, x_scale) = integers(layer.weight), integers(x)
        y = (x @ w.T) * x_scale * w_scale.T
        return (y if layer.bias is None else y + layer.bias).float()


@pytest.mark.parametrize("kernel", ["packed", "integers", "floats"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_int8_is_its_definition(kernel: str, bias: bool, rows: int, monkeypatch) -> None:
    if kernel != "packed":
        monkeypatch.setattr(fast_decode, "packed_linear", None)
    if kernel == "floats":
        monkeypatch.setattr(fast_decode, "int_mm_is_exact", lambda: False)
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows)) * torch.logspace(-3, 3, rows)[:, None]
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear(layer(bias))(x), naive_int8(layer(bias), x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("linear", [Linear, Int8Linear])
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_does_not_depend_on_those_beside_it(linear, bias: bool) -> None:
    x, made = torch.randn(500, 96, generator=torch.Generator().manual_seed(1)), linear(layer(bias))
    with torch.inference_mode():
        alone = torch.cat([made(row[None]) for row in x])
        torch.testing.assert_close(made(x), alone, rtol=1e-5, atol=1e-5)  # an integer that is another is worth 1e-2
        assert made(torch.zeros(1, 96)).isfinite().all()
        assert made(torch.zeros(2, 96)).isfinite().all()


def test_int8_is_close_to_the_model(lm: Decoder) -> None:
    tokens, caches = some_tokens(lm, 1, 20), [KVCache(lm.config, 1, 20, lm.device) for _ in range(2)]
    exact = lm.forward_cached(tokens, caches[0])
    lm.precision = "int8"
    quantised = lm.forward_cached(tokens, caches[1])
    assert 0 < (quantised - exact).abs().max() < 0.15 * exact.abs().max()


def test_weights_that_change_are_laid_out_anew(lm: Decoder) -> None:
    """Integers, since what is laid out in float32 is the weights themselves."""
    lm.precision = "int8"
    cache = KVCache(lm.config, 1, 40, lm.device)

    def last() -> torch.Tensor:
        cache.lengths.zero_()
        return lm.forward_cached(some_tokens(lm, 1, 8), cache)[0, -1]

    before = last()
    with torch.no_grad():
        for p in lm.parameters():
            p.mul_(-1.1)
    loaded = last()
    assert (loaded - before).abs().max() > 0.01
    blocks = lm.blocks.parameters()
    optimiser = torch.optim.AdamW(
        [p.requires_grad_() for p in blocks], lr=0.1, fused=True
    )  # changes the weights without a notice
    lm.train()
    lm(some_tokens(lm, 1, 8)).square().mean().backward()
    optimiser.step()
    lm.eval()
    trained = last()
    assert (trained - loaded).abs().max() > 0.01
    with torch.inference_mode():
        assert torch.equal(
            trained,
            lm.fast_decoder().forward_cached(some_tokens(lm, 1, 8), KVCache(lm.config, 1, 40, lm.device))[0, -1],
        )


def test_a_model_that_has_read_is_pickled_without_what_it_laid_out(lm: Decoder) -> None:
    want = lm.continue_units(np.arange(4), max_new_units=8, temperature=0)
    assert pickle.loads(pickle.dumps(lm)).continue_units(np.arange(4), max_new_units=8, temperature=0) == want


def test_a_precision_that_is_unknown() -> None:
    with pytest.raises(ModelError, match="precision is 'int4'; known: fp32, int8"):
        load_ulm(GOLDEN / "ulm.pt", GOLDEN / "ulm_dict.txt", precision="int4")

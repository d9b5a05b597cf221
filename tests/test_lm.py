"""The unit language model: against transformers' Llama, against naive loops, and the promises of its public methods."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch

from textless.errors import ContractError, ModelError
from textless.lm import LMConfig, Sampling, UnitLM, load_lm
from textless.lm.cache import KVCache
from textless.lm.generate import banned_tokens
from textless.lm.hf.llama import export_llama, from_llama, to_llama
from textless.lm.model import PRESETS
from textless.types import ContractWarning, SamplingOptions, UnitContract, Units

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=23, codebook="a" * 64)
SMALL = {"n_units": 23, "dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "context": 24, "max_duration": 6}


def random_lm(seed: int = 0, contract: UnitContract = CONTRACT, **changes) -> UnitLM:
    """Weights large enough that logits differ much and every position matters."""
    generator = torch.Generator().manual_seed(seed)
    lm = UnitLM(LMConfig(**{**SMALL, **changes}), contract)
    with torch.no_grad():
        for p in lm.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (p.ndim == 1))
    return lm.eval()


def random_units(n: int, seed: int = 0, contract: UnitContract = CONTRACT) -> Units:
    """n units without repeats, with durations 1 … 4."""
    draw = np.random.default_rng(seed)
    steps = draw.integers(1, 23, n)
    return Units(np.cumsum(steps) % 23, draw.integers(1, 5, n), contract)


def logits_of(lm: UnitLM, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of units and durations after the last token, without a cache."""
    with torch.inference_mode():
        hidden = lm(torch.tensor([tokens]))[0, -1]
        return lm.unit_logits(hidden), lm.duration_logits(hidden)


# --- against transformers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 24, (3, 24), generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """A logit is a sum of 32 terms that two layers have rounded some ten times each: 2^-24 · √32 · 20 = 7e-6 of the
    largest.
    """
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("theta", [10000.0, 50.0])
def test_logits_equal_llama(tokens: torch.Tensor, theta: float) -> None:
    lm = random_lm(rope_theta=theta, norm_eps=1e-3)
    llama = to_llama(lm)
    with torch.inference_mode():
        ours, theirs = lm.unit_logits(lm(tokens)), llama(tokens).logits
        assert ours.std() > 0.5
        close(ours, theirs)
        back = from_llama(llama, CONTRACT)
        close(back.unit_logits(back(tokens)), theirs)
    assert back.config == LMConfig(**{**SMALL, "rope_theta": theta, "norm_eps": 1e-3, "max_duration": 32})
    assert not back.duration.weight.any()


def test_from_a_llama_that_transformers_initialised(tokens: torch.Tensor) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=23,
        eos_token_id=23,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    llama = LlamaForCausalLM(config).eval()
    lm = from_llama(llama, UnitContract())
    assert lm.n_units == lm.contract.n_units == 23
    with torch.inference_mode():
        close(lm.unit_logits(lm(tokens)), llama(tokens).logits)


def test_exported_folder_loads_in_transformers(tmp_path, tokens: torch.Tensor) -> None:
    from transformers import AutoModelForCausalLM

    lm = random_lm(rope_theta=500.0)
    export_llama(lm, tmp_path / "llama")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama").eval()
    assert llama.config.eos_token_id == llama.config.bos_token_id == 23
    with torch.inference_mode():
        close(llama(tokens).logits, lm.unit_logits(lm(tokens)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_key_value_heads", 1),
        ("tie_word_embeddings", False),
        ("attention_bias", True),
        ("hidden_act", "gelu"),
        ("eos_token_id", 2),
    ],
)
def test_other_llamas_are_refused(field: str, value: object) -> None:
    llama = to_llama(random_lm())
    setattr(llama.config, field, value)
    with pytest.raises(ModelError, match=field):
        from_llama(llama, CONTRACT)


# --- nll --------------------------------------------------------------------------------------------------------------


def naive_nll(lm: UnitLM, units: np.ndarray) -> np.ndarray:
    """One prefix at a time, `</s>` first and last; from the last start = k × half at which the window still reaches the
    token.
    """
    context, half = lm.config.context, lm.config.context // 2
    whole = [lm.n_units, *units.tolist(), lm.n_units]
    out = []
    for i in range(1, len(whole)):
        start = 0
        while i - start > context:
            start += half
        logits = logits_of(lm, whole[start:i])[0].double()
        out.append(-torch.log_softmax(logits, 0)[whole[i]].item())
    return np.array(out)


@pytest.mark.parametrize("n", [0, 1, 10, 22, 23, 24, 25, 35, 36, 37, 80])
def test_nll_is_teacher_forcing_and_windowed_beyond_the_context(n: int) -> None:
    lm = random_lm()
    units = random_units(n)
    nll = lm.nll(units)
    assert nll.shape == (n + 1,)
    assert nll.dtype == np.float64
    np.testing.assert_allclose(nll, naive_nll(lm, units.units), atol=2e-5)


def test_odd_context_is_windowed_too() -> None:
    lm = random_lm(context=7)
    np.testing.assert_allclose(lm.nll(random_units(40)), naive_nll(lm, random_units(40).units), atol=2e-5)


def test_bare_arrays_are_scored_as_they_stand() -> None:
    lm = random_lm()
    repeated = np.array([3, 3, 3, 5, 5, 1])
    nll = lm.nll(repeated)
    assert len(nll) == 7
    assert np.array_equal(nll, lm.nll(repeated.tolist()))
    assert np.array_equal(nll, lm.nll(Units(repeated, None, CONTRACT)))
    assert len(lm.nll(Units(repeated, None, CONTRACT).deduplicated())) == 4


def test_scoring_leaves_training_mode_as_it_was() -> None:
    lm = UnitLM(random_lm().config, CONTRACT, dropout=0.5)
    lm.load_state_dict(random_lm().state_dict())
    lm.train()
    assert np.array_equal(lm.nll(random_units(9)), random_lm().nll(random_units(9)))  # no dropout
    assert lm.training
    assert all(b.training for b in lm.blocks)


# --- continuation -----------------------------------------------------------------------------------------------------


def naive_greedy(lm: UnitLM, prompt: Units, n_new: int) -> tuple[list[int], list[int]]:
    """No cache, one prompt, `</s>` and repeats never; re-reads half a context when it is full."""
    context = lm.config.context
    window = [lm.n_units, *prompt.units.tolist()]
    window = window if len(window) <= context else window[-(context // 2) :]
    units, durations = [], []
    for _ in range(n_new):
        logits = logits_of(lm, window)[0].clone()
        logits[lm.n_units] = -torch.inf
        if window[-1] != lm.n_units:
            logits[window[-1]] = -torch.inf
        units.append(int(logits.argmax()))
        window.append(units[-1])
        if len(window) > context:
            window = window[-(context // 2) :]
        durations.append(1 + int(logits_of(lm, window)[1].argmax()))
    return units, durations


@pytest.mark.parametrize("n", [0, 1, 10, 22, 23, 24, 40])
@pytest.mark.filterwarnings("ignore:a prompt of")
def test_cached_generation_is_the_naive_loop(n: int) -> None:
    lm = random_lm(seed=n)
    prompt = random_units(n, seed=n)
    new = lm.continue_units(prompt, seconds=100, max_new_units=45, temperature=0, only_new=True)
    units, durations = naive_greedy(lm, prompt, 45)
    assert new.units.tolist() == units
    assert new.durations.tolist() == durations
    assert len(set(units)) > 1


@pytest.mark.filterwarnings("ignore:a prompt of")
def test_a_batch_gives_what_each_prompt_gives_alone() -> None:
    lm = random_lm()
    prompts = [random_units(n, seed=n) for n in (5, 0, 30, 12, 1, 20)] + [
        np.array([4, 4, 4]),
        Units(np.array([7, 7, 2]), None, CONTRACT),
    ]
    prompts += [random_units(3, seed=50 + i) for i in range(12)]  # more than go together
    together = lm.continue_units(prompts, seconds=1.3, temperature=1.0, seed=7)
    alone = [lm.continue_units(p, seconds=1.3, temperature=1.0, seed=7 + i) for i, p in enumerate(prompts)]
    assert together == alone
    assert [u.durations is None for u in together] == [u.durations is None for u in alone]
    assert len({len(u) for u in together}) > 3  # they ended at different times


@pytest.mark.parametrize("temperature", [0, 0.7, 2.0])
@pytest.mark.parametrize("seconds", [0, 0.01, 0.02, 0.5, 2.31, 7])
def test_length_is_exact_and_nothing_follows_itself(seconds: float, temperature: float) -> None:
    lm = random_lm()
    prompt = random_units(12)
    whole = lm.continue_units(prompt, seconds=seconds, temperature=temperature, seed=3)
    new = lm.continue_units(prompt, seconds=seconds, temperature=temperature, seed=3, only_new=True)
    assert new.n_frames == round(seconds * 50)
    assert whole.n_frames == prompt.n_frames + new.n_frames
    assert whole.units.tolist() == [*prompt.units.tolist(), *new.units.tolist()]
    assert whole.durations.tolist() == [*prompt.durations.tolist(), *new.durations.tolist()]
    assert (whole.units[1:] != whole.units[:-1]).all()
    assert whole.contract == new.contract == CONTRACT


def test_a_prompt_without_durations_is_continued_literally() -> None:
    lm = random_lm()
    new = [lm.continue_units(np.array([4, 4, 4]), seconds=4, temperature=1.0, seed=s, only_new=True) for s in range(5)]
    assert all(len(u) == 200 and u.durations is None for u in new)
    assert any((u.units[1:] == u.units[:-1]).any() for u in new)
    assert lm.continue_units([4, 4, 4], seconds=4, temperature=1.0, only_new=True) == new[0]


def test_without_seconds_the_end_may_come_and_with_them_it_may_not() -> None:
    lm = random_lm()
    with torch.no_grad():
        lm.embed.weight[23] = 0
        lm.norm.weight.mul_(0.2)  # flat: every token, `</s>` too, about as likely as another
    short = [
        lm.continue_units(random_units(4), max_new_units=60, temperature=1.0, seed=s, only_new=True) for s in range(6)
    ]
    assert all(len(u) <= 60 for u in short)
    assert any(len(u) < 60 for u in short)
    both = lm.continue_units(random_units(4), max_new_units=60, seconds=1000, temperature=1.0, only_new=True)
    assert len(both) == 60


def test_seeds() -> None:
    lm = random_lm()
    prompt = random_units(6)
    runs = [lm.continue_units(prompt, seconds=1, temperature=1.0, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    greedy = [lm.continue_units(prompt, seconds=1, temperature=0, seed=s) for s in (1, 2)]
    assert greedy[0] == greedy[1]
    two = lm.continue_units([prompt, prompt], seconds=1, temperature=1.0, seed=1)
    assert two == [runs[0], runs[2]]


def test_sampling_has_the_distribution_of_the_model() -> None:
    lm = random_lm()
    prompt = random_units(5)
    logits = logits_of(lm, [23, *prompt.units.tolist()])[0].double()
    shares = []
    logits[prompt.units[-1]] = -torch.inf  # no repeat
    logits[23] = -torch.inf  # a length in seconds is asked
    for temperature, top_k in ((1.0, None), (0.2, None), (1.0, 3)):
        kept = logits.clone()
        if top_k:
            kept[logits < logits.topk(top_k).values[-1]] = -torch.inf
        p = torch.softmax(kept / temperature, 0).numpy()
        shares.append(np.sort(p)[-3:])
        new = lm.continue_units([prompt] * 600, seconds=0.02, temperature=temperature, top_k=top_k, only_new=True)
        counts = np.bincount([u.units[0] for u in new], minlength=24)
        assert not counts[p == 0].any()
        assert np.abs(counts / 600 - p).max() < 0.08  # four standard deviations of a share of one half
    assert shares[0].sum() < 0.85  # what top_k leaves out would be seen
    assert np.abs(shares[0] - shares[1]).max() > 0.2  # so would a temperature that is not applied


def test_durations_are_sampled_from_the_head_at_the_same_temperature() -> None:
    lm = random_lm()
    with torch.no_grad():
        lm.duration.weight.mul_(0.3)  # close enough to each other that a draw is a draw
    prompt = random_units(5)
    first = lm.continue_units(prompt, seconds=9, max_new_units=1, temperature=0, only_new=True)
    logits = logits_of(lm, [23, *prompt.units.tolist(), int(first.units[0])])[1].double()
    assert first.durations.tolist() == [1 + int(logits.argmax())]
    new = lm.continue_units([prompt] * 600, seconds=9, max_new_units=1, top_k=1, temperature=1.0, only_new=True)
    assert {int(u.units[0]) for u in new} == {int(first.units[0])}
    counts = np.bincount([u.durations[0] - 1 for u in new], minlength=6)
    p = torch.softmax(logits, 0).numpy()
    assert p.max() < 0.95
    assert np.abs(counts / 600 - p).max() < 0.08


def test_durations_are_sampled_at_another_temperature() -> None:
    lm = random_lm()
    prompt = random_units(5)
    with torch.no_grad():
        lm.duration.weight.mul_(0.25)
    first = lm.continue_units(prompt, seconds=9, max_new_units=1, temperature=0, only_new=True)
    logits = logits_of(lm, [23, *prompt.units.tolist(), int(first.units[0])])[1].double()
    new = lm.continue_units([prompt] * 600, seconds=9, max_new_units=1, top_k=1, temperature=0.4, only_new=True)
    counts = np.bincount([u.durations[0] - 1 for u in new], minlength=6)
    p, flat = torch.softmax(logits / 0.4, 0).numpy(), torch.softmax(logits, 0).numpy()
    assert np.abs(counts / 600 - p).max() < 0.08 < 0.16 < np.abs(flat - p).max()  # four standard deviations


def test_seconds_are_rounded_to_frames() -> None:
    """9.75 frames are ten, and 10.25 too."""
    for seconds in (0.195, 0.205):
        assert random_lm().continue_units([1, 2], seconds=seconds, only_new=True).n_frames == 10


def test_fresh_weights_have_the_deviation_of_gpt_2() -> None:
    """0.02, and what is added to the residual stream, twice in each layer, less by the root of how often (Radford et
    al. 2019).
    """
    torch.manual_seed(0)
    lm = UnitLM(LMConfig(n_units=100, dim=96, layers=8, heads=3, ffn_dim=256, context=8))
    for block in lm.blocks:
        for layer in (block.qkv, block.gate_up):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        for layer in (block.out, block.down):
            assert float(layer.weight.detach().std()) == pytest.approx(0.005, rel=0.05)
    assert float(lm.embed.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not lm.duration.weight.any()


def test_one_prompt_or_a_list() -> None:
    lm = random_lm()
    assert isinstance(lm.continue_units(random_units(3), seconds=0.1), Units)
    assert isinstance(lm.continue_units([1, 2, 3], seconds=0.1), Units)
    assert isinstance(lm.continue_units(np.array([], np.int64), seconds=0.1), Units)
    assert [len(u) for u in lm.continue_units([[1, 2, 3], np.array([4])], seconds=0.1)] == [8, 6]
    assert lm.continue_units([], seconds=0.1) == []


def test_a_prompt_longer_than_the_context_warns_in_one_line() -> None:
    lm = random_lm()
    with pytest.warns(UserWarning, match="a prompt of 24 units is longer than the model's context of 24") as caught:
        whole = lm.continue_units(random_units(24), seconds=0.5)
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert whole.units[:24].tolist() == random_units(24).units.tolist()  # all of the prompt is in the result
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.continue_units(random_units(23), seconds=0.5)


def test_requests_that_make_no_sense() -> None:
    lm = random_lm()
    for bad in (
        {},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": 1, "temperature": -0.1},
        {"seconds": 1, "top_k": 0},
    ):
        with pytest.raises(ValueError, match=r"seconds|temperature|top_k"):
            lm.continue_units(random_units(3), **bad)
    unknown = random_lm(contract=UnitContract())
    with pytest.raises(ContractError, match="frame rate"):
        unknown.continue_units([1, 2], seconds=1)
    assert len(unknown.continue_units(np.array([], np.int64), max_new_units=5)) <= 5


def test_lengths_that_no_row_has_are_refused():
    lm = random_lm()
    for length in ({"seconds": 1e12}, {"max_new_units": 10**12}, {"seconds": 1, "max_new_units": 2**24 + 1}):
        with pytest.raises(ValueError, match="ask for more than 16777216 frames"):
            lm.continue_units(random_units(4), **length)


# --- contract ---------------------------------------------------------------------------------------------------------


def test_units_of_another_kind_are_refused() -> None:
    lm = random_lm()
    other = random_units(5, contract=CONTRACT.with_(codebook="b" * 64))
    for call in (
        lm.nll,
        lambda u: lm.continue_units(u, seconds=1),
        lambda u: lm.continue_units([random_units(3), u], seconds=1),
    ):
        with pytest.raises(ContractError, match="codebook is bbbbbbbbbbbb"):
            call(other)
    with pytest.warns(ContractWarning, match="cannot compare"):
        new = lm.continue_units(Units(np.array([1, 2]), None, UnitContract()), seconds=0.1)
    assert new.contract == CONTRACT
    with pytest.raises(ContractError, match="23 units but its contract says 24"):
        UnitLM(lm.config, CONTRACT.with_(n_units=24))


def test_units_outside_the_vocabulary_are_refused() -> None:
    lm = random_lm()
    for call in (lm.nll, lambda u: lm.continue_units(u, seconds=1)):
        for outside in ([1, 23], np.array([23])):  # 23 is `</s>`: no unit
            with pytest.raises(ContractError, match=r"unit 23 .*vocabulary of 23"):
                call(outside)
        with pytest.raises(ContractError, match="-1"):
            call([1, -1])


def test_properties() -> None:
    lm = random_lm()
    assert (lm.n_units, lm.frame_rate, lm.sample_rate) == (23, 50.0, 16000)
    nothing = UnitLM(lm.config)
    assert (nothing.contract.n_units, nothing.frame_rate, nothing.sample_rate) == (23, None, None)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path) -> None:
    lm = random_lm(rope_theta=77.0)
    lm.save(tmp_path / "lm")
    back = load_lm(tmp_path / "lm")
    assert (back.config, back.contract, back.training) == (lm.config, CONTRACT, False)
    assert np.array_equal(back.nll(random_units(40)), lm.nll(random_units(40)))
    assert back.continue_units(random_units(4), seconds=2, seed=5) == lm.continue_units(
        random_units(4), seconds=2, seed=5
    )


def test_damaged_folders_say_so(tmp_path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        load_lm(tmp_path / "nowhere")
    random_lm().save(tmp_path / "lm")
    config = tmp_path / "lm" / "config.json"
    text = config.read_text()
    for old, new, said in (
        ('"dim": 32', '"dim": 64', r"embed\.weight is \(24, 32\) where its configuration asks for \(24, 64\)"),
        ('"heads": 2', '"faces": 2', "unknown fields faces"),
        ('"contract"', '"contrast"', "has no contract"),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        with pytest.raises(ModelError, match=said):
            load_lm(tmp_path / "lm")


def test_impossible_shapes_are_refused() -> None:
    for bad in ({"heads": 3}, {"dim": 34, "heads": 2}, {"n_units": 1}, {"context": 1}):
        with pytest.raises(ModelError):
            LMConfig(**{**SMALL, **bad})


def test_preset_sizes() -> None:
    sizes = {
        k: sum(p.numel() for p in UnitLM(LMConfig(n_units=500, context=512, **v)).parameters())
        for k, v in PRESETS.items()
    }
    assert 0.2e6 < sizes["nano"] < 0.4e6
    assert 6e6 < sizes["tiny"] <= 8e6


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, textless.lm as lm; assert 'torch' not in sys.modules; assert lm.load_lm and "
        "'torch' in sys.modules; lm.nothing"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AttributeError: module 'textless.lm' has no attribute 'nothing'" in run.stderr


# --- sampling, steps, streams -----------------------------------------------------------------------------------------


def drawn(logits, seen=(), draws=4000, **sampling) -> np.ndarray:
    """Shares of each index over many draws."""
    generator = np.random.default_rng(0)
    sampling = Sampling(**{"temperature": 1.0, **sampling})
    return (
        np.bincount(
            [sampling.draw(np.array(logits, float), seen, generator) for _ in range(draws)], minlength=len(logits)
        )
        / draws
    )


def test_what_is_drawn_from() -> None:
    p = np.array([0.4, 0.3, 0.2, 0.06, 0.04])
    logits = np.log(p)
    np.testing.assert_allclose(drawn(logits), p, atol=0.03)
    for kept, sampling in (
        ([0], {"top_p": 0.0}),
        ([0], {"top_p": 0.39}),
        ([0, 1], {"top_p": 0.5}),
        ([0, 1, 2], {"top_p": 0.75}),
        ([0, 1, 2, 3, 4], {"top_p": 1.0}),
        ([0, 1, 2], {"min_p": 0.4}),
        ([0], {"min_p": 1.0}),
        ([0, 1], {"top_k": 3, "top_p": 0.6}),  # of what the first left
        ([0, 1, 2], {"top_p": 0.75, "min_p": 0.4}),  # top_p counts all five, before min_p removes two
    ):
        want = np.zeros(5)
        want[kept] = p[kept] / p[kept].sum()
        np.testing.assert_allclose(drawn(logits, **sampling), want, atol=0.03, err_msg=str(sampling))


SAMPLINGS = [
    {"temperature": 0.8},
    {"top_k": 7},
    {"top_p": 0.5},
    {"min_p": 0.3},
    {"top_p": 0.8, "min_p": 0.35},
    {"top_p": 0.9, "min_p": 0.5, "temperature": 1.7},
    {"top_k": 12, "top_p": 0.7, "min_p": 0.2, "temperature": 0.6},
    {"top_k": 9, "top_p": 0.85, "min_p": 0.45, "repetition_penalty": 1.6, "no_repeat_ngram": 2},
]


def test_weights_are_those_of_transformers() -> None:
    """Of the logits that its `generate` starts from, the scores that it draws by."""
    transformers = pytest.importorskip("transformers")
    config = {
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**config, initializer_range=1.0, max_position_embeddings=64)
    ).eval()
    prompts = torch.randint(3, 30, (8, 20))
    apart = 0
    for sampling in SAMPLINGS:
        theirs = {"temperature": 1.0, "top_k": 0, **sampling}
        theirs["no_repeat_ngram_size"] = theirs.pop("no_repeat_ngram", 0)
        how = {
            "do_sample": True,
            "max_new_tokens": 1,
            "return_dict_in_generate": True,
            "output_scores": True,
            "output_logits": True,
        }
        out = model.generate(
            prompts, **theirs, **how, eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(prompts)
        )
        for prompt, logits, scores in zip(prompts, out.logits[0], out.scores[0], strict=True):
            ours = Sampling(**{"temperature": 1.0, **sampling})
            weights = ours.weights(logits.double().numpy(), prompt.tolist())
            np.testing.assert_allclose(
                weights / weights.sum(), scores.double().softmax(-1), rtol=2e-5, atol=0, err_msg=str(sampling)
            )
            apart += (weights > 0).sum() < 30
    assert apart > 8 * (len(SAMPLINGS) - 2)  # the processors do remove something


@pytest.mark.parametrize("temperature", [0.5, 0.8, 2.0])
def test_what_is_drawn_at_a_temperature(temperature: float) -> None:
    p = np.array([0.4, 0.3, 0.2, 0.06, 0.04])
    want = p ** (1 / temperature)
    np.testing.assert_allclose(drawn(np.log(p), temperature=temperature), want / want.sum(), atol=0.03)
    assert drawn(np.log(p), temperature=0, draws=20)[0] == 1
    want = np.array([*want[:2], 0, 0, 0])
    np.testing.assert_allclose(drawn(np.log(p), temperature=temperature, top_k=2), want / want.sum(), atol=0.03)


def test_repetition() -> None:
    logits = np.array([2.0, -1.0, 1.0])
    want = np.exp([2 / 1.5, -1 * 1.5, 1.0])
    np.testing.assert_allclose(drawn(logits, (0, 1, 0), repetition_penalty=1.5), want / want.sum(), atol=0.03)
    assert banned_tokens([1, 2, 3, 1, 2], 3) == [3]
    assert banned_tokens([1, 2, 3, 1, 2, 4, 1, 2], 3) == [3, 4]
    assert banned_tokens([1, 2], 3) == []
    assert banned_tokens([5, 6], 1) == [5, 6]
    assert drawn([3.0, 0, 0], (0, 1, 0, 1), no_repeat_ngram=2)[0] == 0
    assert drawn([3.0, 0], (0, 1, 1, 0, 1), no_repeat_ngram=1)[0] > 0.5  # nothing else is left
    lm = random_lm(contract=UnitContract(n_units=23), context=200)
    free = lm.continue_units(random_units(9).units, max_new_units=150, temperature=0).units.tolist()
    bound = lm.continue_units(random_units(9).units, max_new_units=150, temperature=0, no_repeat_ngram=3).units.tolist()
    grams = list(zip(bound, bound[1:], bound[2:], strict=False))
    assert len(set(grams)) == len(grams)
    assert len(set(zip(free, free[1:], free[2:], strict=False))) < len(free) - 2


@pytest.mark.parametrize(
    "bad",
    [
        {"top_p": 1.1},
        {"top_p": -0.1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"no_repeat_ngram": 0},
        {"temperature": float("inf")},
    ],
)
def test_sampling_out_of_range(bad) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_the_keywords_of_sampling_are_its_fields() -> None:
    assert set(SamplingOptions.__annotations__) == {f.name for f in fields(Sampling)}


def test_a_row_that_is_copied_goes_on_as_its_source() -> None:
    lm, tokens = random_lm(context=40), torch.randint(0, 24, (3, 30), generator=torch.Generator().manual_seed(2))
    cache = KVCache(lm.config, 3, 40, lm.device)
    for i, n in enumerate((5, 1, 9)):
        lm.forward_cached(tokens[i : i + 1, :n], cache.row(i))
    cache.copy(2, 0)
    again = lm.forward_cached(torch.tensor([[3], [4], [3]]), cache)
    torch.testing.assert_close(again[0], again[2])
    assert cache.lengths.tolist() == [10, 2, 10]


def test_int8_steps() -> None:
    """Integers do not depend on the other rows."""
    exact, lm = random_lm(dim=64, heads=2, ffn_dim=128, context=64), None
    lm = UnitLM(exact.config, CONTRACT, precision="int8").eval()
    lm.load_state_dict(exact.state_dict())
    prompts = [random_units(5 + k, seed=k) for k in range(6)]
    together = lm.continue_units(prompts, seconds=0.6, seed=3)
    assert together == [lm.continue_units(p, seconds=0.6, seed=3 + i) for i, p in enumerate(prompts)]
    with pytest.raises(ModelError, match="precision is 'int4'; known: fp32, int8"):
        UnitLM(exact.config, precision="int4")


def test_a_stream_gives_the_same_unit_by_unit() -> None:
    lm = random_lm()
    prompt = random_units(40)  # longer than the context: read again on the way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = lm.continue_units(prompt, seconds=1, only_new=True, seed=4)
        lm.train()
        parts = []
        for part in lm.stream(prompt, seconds=1, seed=4):
            parts.append(part)
            assert not torch.is_inference_mode_enabled()
    assert lm.training
    assert all(len(p) == 1 for p in parts)
    assert np.concatenate([p.units for p in parts]).tolist() == whole.units.tolist()
    assert np.concatenate([p.durations for p in parts]).tolist() == whole.durations.tolist()


def test_scores_in_batches() -> None:
    lm = random_lm()
    sequences = [random_units(n, seed=n) for n in (3, 0, 23, 24, 60, 7, 1, 23)]
    for got, want in zip(lm.nll_batch(sequences), map(lm.nll, sequences), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert lm.nll_batch([]) == []

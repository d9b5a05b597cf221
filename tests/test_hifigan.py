"""Published unit HiFi-GANs: fairseq's own audio, each variant against the published formulas, files that are not what
they should be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from conftest import GOLDEN
from textless.audio.io import read_audio
from textless.engine.step import Step
from textless.errors import ContractError, ModelError
from textless.model import Model
from textless.steps.sources import Model as Pretrained
from textless.steps.vocoder import Resynth, Utterance
from textless.types import UnitContract, UnitRow, Units
from textless.vocoder.hifigan import generator
from textless.vocoder.hifigan.generator import Convolution, Upsampling, few_products
from textless.vocoder.hifigan.hub import ARCHITECTURE
from textless.vocoder.hifigan.model import TOGETHER, PublishedDurations, _Voice, load_hifigan
from textless.vocoder.load import load_vocoder
from textless.vocoder.stream import Overlapped

# 64 channels and kernel 11 are enough for `few_products`; the other convolutions are direct
CONFIG = {
    "num_embeddings": 20,
    "embedding_dim": 8,
    "upsample_initial_channel": 128,
    "upsample_rates": [5, 4],
    "upsample_kernel_sizes": [11, 8],
    "resblock_kernel_sizes": [3, 11],
    "resblock_dilation_sizes": [[1, 3], [1, 5]],
    "sampling_rate": 1000,
    "code_hop_size": 20,
}
NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")  # weight norm's names since torch 2
QUANTISER = {
    "f0_vq_params": {"l_bins": 6, "emb_width": 8, "mu": 0.99, "levels": 1},
    "f0_encoder_params": {
        "input_emb_width": 1,
        "output_emb_width": 8,
        "levels": 1,
        "downs_t": [3],
        "strides_t": [2],
        "width": 8,
        "depth": 2,
        "m_conv": 1.0,
        "dilation_growth_rate": 3,
    },
}
CODES = {"f0": True, "f0_quantizer_path": "elsewhere/g_00400000", "f0_quantizer": QUANTISER}


class Maker:
    """Random weights in the published layout."""

    def __init__(self, gain: str, direction: str):
        self.generator, self.state, self.names = torch.Generator().manual_seed(0), {}, (gain, direction)

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.state[name] = torch.randn(*shape, generator=self.generator) * scale

    def plain(self, name: str, *shape: int) -> None:
        self.normal(f"{name}.weight", *shape, scale=float(np.prod(shape[1:])) ** -0.5)
        self.normal(f"{name}.bias", shape[0], scale=0.3)

    def normed(self, name: str, *shape: int, out: int | None = None, loud: float = 2.0) -> None:
        self.normal(f"{name}.{self.names[1]}", *shape)
        size = torch.rand(shape[0], 1, 1, generator=self.generator) + 0.5
        self.state[f"{name}.{self.names[0]}"] = loud * size
        self.normal(f"{name}.bias", out or shape[0], scale=0.2)  # a bias is what makes padding heard


def make(folder: Path, names: tuple[str, str] = ("weight_g", "weight_v"), kind: str = "1", **changes) -> Path:
    """`g.pt` and `config.json` of CONFIG with changes; `kind` of residual blocks."""
    c, m = {**CONFIG, **changes}, Maker(*names)
    dim, width = c["embedding_dim"], c["upsample_initial_channel"]
    m.normal("dict.weight", c["num_embeddings"], dim)
    channels = dim
    if c.get("f0_quantizer_path"):
        p = c["f0_quantizer"]["f0_encoder_params"]
        base = "quantizer.encoder.level_blocks.0.model"
        for i in range(p["downs_t"][0]):
            m.plain(f"{base}.{i}.0", p["width"], p["width"] if i else 1, 4)
            for j in range(p["depth"]):
                m.plain(f"{base}.{i}.1.model.{j}.model.1", p["width"], p["width"], 3)
                m.plain(f"{base}.{i}.1.model.{j}.model.3", p["width"], p["width"], 1)
        m.plain(f"{base}.{p['downs_t'][0]}", p["output_emb_width"], p["width"], 3)
        m.normal("quantizer.vq.level_blocks.0.k", 6, p["output_emb_width"])
        m.normal("quantizer.decoder.out.weight", 1, 8, 3)
        m.normal("f0_dict.weight", 6, dim)
        channels += dim
    elif c.get("f0_quant_num_bin"):
        m.normal("f0_quant_embed.weight", c["f0_quant_num_bin"], dim)
        channels += dim
    elif c.get("f0"):
        channels += 1
    for key, table, rows in (("multispkr", "spkr", 5), ("multistyle", "style", 3)):
        if c.get(key):
            m.normal(f"{table}.weight", rows, dim)
            channels += dim
    m.normed("conv_pre", width, channels, 7)
    for i, kernel in enumerate(c["upsample_kernel_sizes"]):
        m.normed(f"ups.{i}", width, width // 2, kernel, out=width // 2)
        width //= 2
        for j, (size, steps) in enumerate(zip(c["resblock_kernel_sizes"], c["resblock_dilation_sizes"], strict=True)):
            for n in range(len(steps)):
                for convs in ("convs",) if kind == "2" else ("convs1", "convs2"):
                    m.normed(f"resblocks.{i * len(c['resblock_kernel_sizes']) + j}.{convs}.{n}", width, width, size)
    m.normed("conv_post", 1, width, 7, loud=0.1)
    if c.get("dur_predictor_params"):
        for n in "12":
            m.plain(f"dur_predictor.conv{n}.0", 6, dim if n == "1" else 6, 3)
            m.normal(f"dur_predictor.ln{n}.weight", 6)
            m.normal(f"dur_predictor.ln{n}.bias", 6)
        m.plain("dur_predictor.proj", 1, 6)
    folder.mkdir(exist_ok=True)
    torch.save({"generator": m.state}, folder / "g.pt")
    (folder / "config.json").write_text(json.dumps(c))
    return folder / "g.pt"


class Naive:
    """The published formulas, one row, in float64."""

    def __init__(self, path: Path):
        self.c = json.loads((path.parent / "config.json").read_text())
        self.s = {k: v.double() for k, v in torch.load(path)["generator"].items()}

    def weight(self, name: str) -> torch.Tensor:
        for gain, direction in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            if f"{name}.{gain}" in self.s:
                v = self.s[f"{name}.{direction}"]
                return torch.stack(
                    [g * row / row.square().sum().sqrt() for g, row in zip(self.s[f"{name}.{gain}"], v, strict=True)]
                )
        return self.s[f"{name}.weight"]

    def conv(self, name: str, x: torch.Tensor, dilation: int = 1, **options) -> torch.Tensor:
        w = self.weight(name)
        padding = options.pop("padding", (w.shape[2] * dilation - dilation) // 2)
        return F.conv1d(x, w, self.s[f"{name}.bias"], dilation=dilation, padding=padding, **options)

    def generator(self, x: torch.Tensor) -> np.ndarray:
        """(1, channels, T) → (samples,)."""
        c, x = self.c, self.conv("conv_pre", x)
        for i, (rate, kernel) in enumerate(zip(c["upsample_rates"], c["upsample_kernel_sizes"], strict=True)):
            x = F.conv_transpose1d(
                F.leaky_relu(x, 0.1),
                self.weight(f"ups.{i}"),
                self.s[f"ups.{i}.bias"],
                stride=rate,
                padding=(kernel - rate) // 2,
            )
            total = torch.zeros_like(x)
            for j, steps in enumerate(c["resblock_dilation_sizes"]):
                block, y = f"resblocks.{i * len(c['resblock_kernel_sizes']) + j}", x
                for n, d in enumerate(steps):
                    if f"{block}.convs.0.bias" in self.s:
                        y = y + self.conv(f"{block}.convs.{n}", F.leaky_relu(y, 0.1), d)
                    else:
                        z = self.conv(f"{block}.convs1.{n}", F.leaky_relu(y, 0.1), d)
                        y = y + self.conv(f"{block}.convs2.{n}", F.leaky_relu(z, 0.1))
                total = total + y
            x = total / len(c["resblock_dilation_sizes"])
        return torch.tanh(self.conv("conv_post", F.leaky_relu(x, 0.01)))[0, 0].numpy()

    def upsample(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """(1, C, T) → (1, C, frames), each repeated."""
        return torch.stack([x[..., t * x.shape[-1] // frames] for t in range(frames)], -1)

    def code(self, f0: torch.Tensor) -> torch.Tensor:
        """(T,) → (1, dim, T / 8)."""
        p, base, x = (
            self.c["f0_quantizer"]["f0_encoder_params"],
            "quantizer.encoder.level_blocks.0.model",
            f0[None, None],
        )
        for i in range(p["downs_t"][0]):
            x = self.conv(f"{base}.{i}.0", x, stride=2, padding=1)
            for j in range(p["depth"]):
                z = self.conv(f"{base}.{i}.1.model.{j}.model.1", F.relu(x), 3**j)
                x = x + self.conv(f"{base}.{i}.1.model.{j}.model.3", F.relu(z))
        x = self.conv(f"{base}.{p['downs_t'][0]}", x)[0].T
        nearest = [
            min(range(6), key=lambda k, row=row: float((row - self.s["quantizer.vq.level_blocks.0.k"][k]).norm()))
            for row in x
        ]
        assert len(set(nearest)) > 1, "the codes say nothing"
        return self.s["f0_dict.weight"][nearest].T[None]

    def __call__(self, units, *, speaker: int = 0, style: int = 0, f0: np.ndarray | None = None) -> np.ndarray:
        x = self.s["dict.weight"][torch.as_tensor(units)].T[None]
        if self.c.get("f0"):
            f0 = torch.as_tensor(f0)
            if self.c.get("f0_quantizer_path"):
                pitch = self.code(f0.double())
            elif self.c.get("f0_quant_num_bin"):
                pitch = self.s["f0_quant_embed.weight"][f0].T[None]
            else:
                pitch = f0.double()[None, None]
            frames = max(x.shape[-1], pitch.shape[-1])
            x = torch.cat([self.upsample(x, frames), self.upsample(pitch, frames)], 1)
        for key, table, row in (("multispkr", "spkr", speaker), ("multistyle", "style", style)):
            if self.c.get(key):
                x = torch.cat([x, self.s[f"{table}.weight"][row][None, :, None].expand(-1, -1, x.shape[-1])], 1)
        return self.generator(x)


def units_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, size=n)


def f0_of(n: int, seed: int = 0) -> np.ndarray:
    """Hz, a third of it unvoiced."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 1 / 3, 0, rng.uniform(80, 300, n)).astype(np.float32)


def same(made: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    assert made.dtype == np.float32
    assert made.shape == wanted.shape
    assert wanted.std() > 0.05, "there is nothing to hear"
    assert np.abs(made - wanted).max() <= tolerance * np.abs(wanted).max()


# ------------------------------------------------------------------------------------------------------------ golden


@pytest.mark.parametrize(("name", "speaker"), [("plain", None), ("speakers", 3)])
def test_the_audio_is_fairseqs(golden, name, speaker):
    expected = golden(f"codehifigan_{name}.npz")
    model = load_hifigan(GOLDEN / f"codehifigan_{name}.pt")
    same(model.resynth(expected["code"], speaker=speaker), expected["wav"])
    assert (model.sample_rate, model.frame_rate, model.n_units) == (16000, 50.0, 100)
    assert model.contract == UnitContract(sample_rate=16000, frame_rate=50.0, n_units=100)
    assert model.speakers == (("0",) if speaker is None else ("0", "1", "2", "3", "4"))
    assert model.styles == ()
    same(model.resynth(expected["code"], speaker=None if speaker is None else "3"), expected["wav"])
    if speaker:
        assert np.abs(model.resynth(expected["code"], speaker=2) - expected["wav"]).max() > 0.1


def test_the_durations_are_fairseqs(golden):
    expected = golden("codehifigan_duration.npz")
    model = load_hifigan(GOLDEN / "codehifigan_duration.pt")
    np.testing.assert_array_equal(model.predict_durations([expected["code"]])[0], expected["durations"])
    assert len(set(expected["durations"].tolist())) > 2
    # these weights drive tanh to its ends; the waveform says little more than the durations do
    same(model.resynth(expected["code"], durations="predict"), expected["wav"])
    spoken = model.resynth(Units(expected["code"], expected["durations"], model.contract))
    np.testing.assert_array_equal(spoken, model.resynth(np.repeat(expected["code"], expected["durations"])))
    with pytest.raises(ModelError, match="does not predict durations"):
        load_hifigan(GOLDEN / "codehifigan_plain.pt").resynth([1, 2], durations="predict")


def test_half_precision_is_near(golden):
    expected = golden("codehifigan_plain.npz")
    made = load_hifigan(GOLDEN / "codehifigan_plain.pt", precision="bf16").resynth(expected["code"])
    noise = np.square(made - expected["wav"]).mean() / np.square(expected["wav"]).mean()
    assert 1e-5 < noise < 3e-3
    with pytest.raises(ModelError, match="known: fp32, bf16"):
        load_hifigan(GOLDEN / "codehifigan_plain.pt", precision="fp16")


@pytest.mark.parametrize(
    ("name", "voice"), [("plain", {}), ("speakers_styles", {"speaker": "p225", "style": "laughing"})]
)
def test_the_audio_is_that_of_unit_hifigan(name, voice):
    place = GOLDEN / "peers" / f"unit_hifigan_{name}"
    expected, model = np.load(place / "expected.npz"), load_vocoder(place)
    assert (model.speakers, model.styles) == ((("lj", "p225"), ("read", "laughing")) if voice else (("0",), ()))
    assert model.contract == UnitContract(sample_rate=16000, frame_rate=50.0, n_units=20)
    for level, key in (("raw", "forward"), ("peak", "generate"), (None, "generate")):
        spoken = model.resynth(expected["units"], level=level, **voice)
        np.testing.assert_allclose(spoken, expected[key].ravel(), atol=1e-5)
    if voice:
        for other in ({**voice, "speaker": "lj"}, {**voice, "style": "read"}, {}):
            assert np.abs(model.resynth(expected["units"], **other) - expected["generate"].ravel()).max() > 1e-3


@dataclass(frozen=True, kw_only=True)
class Rows(Step):
    """Units, of which nothing is asked."""

    type = "rows"


def test_style_and_level_of_a_set_and_of_a_step(tmp_path):
    place = GOLDEN / "peers" / "unit_hifigan_speakers_styles"
    expected, model = np.load(place / "expected.npz"), Model("none", vocoder=str(place))
    voice = {"speaker": "p225", "style": "laughing", "level": "raw"}
    np.testing.assert_allclose(model.resynth(expected["units"], **voice), expected["forward"].ravel(), atol=1e-5)
    parts = {"units": Rows(), "vocoder": Pretrained(file=str(place))}
    step, none = Resynth(**parts, **voice), Resynth(**parts)
    row = UnitRow(id="a", units=Units(expected["units"], None, model.vocoder.contract))
    assert not step.shard(model.vocoder, [Utterance(row, "a", None)], tmp_path / "out")
    np.testing.assert_allclose(read_audio(tmp_path / "out" / "a.wav"), expected["forward"].ravel(), atol=1e-4)
    assert Resynth(**parts, style=1).style == "1"
    assert (none.style, none.level) == (None, None)


def hub_name(name: str) -> str:
    """A name of speech-resynthesis → that of unit-hifigan, whose residual blocks have three kernels."""
    table, _, rest = name.partition(".")
    tables = {"dict": "unit", "spkr": "speaker", "style": "style", "f0_quant_embed": "f0"}
    if table in tables:
        return f"{tables[table]}_embedding.{rest}"
    if table == "resblocks":
        block, convs, layer, rest = rest.split(".", 3)
        return f"generator.mrfs.{int(block) // 3}.residual_blocks.{int(block) % 3}.{layer}.conv{convs[-1]}.{rest}"
    return f"generator.{name.replace('ups.', 'upsamplers.')}"


def make_hub(folder: Path, **changes) -> tuple[Path, Path]:
    """A hub folder of unit-hifigan with bins of F0, and the same model in the layout of speech-resynthesis."""
    more = {"f0": True, "f0_quant_num_bin": 4, "multispkr": "multi", "multistyle": "multi"}
    path = make(folder / "published", NEW, **ARCHITECTURE, **more, code_hop_size=320, upsample_initial_channel=64)
    state = torch.load(path)["generator"]
    state = {name: tensor * (0.6 if name.endswith(NEW[0]) else 1) for name, tensor in state.items()}  # or tanh is 1
    torch.save({"generator": state}, path)
    hub = folder / "hub"
    hub.mkdir()
    save_file({hub_name(name): tensor for name, tensor in state.items()}, hub / "model.safetensors")
    config = {"n_units": 20, "embedding_dim": 8, "f0_bins": [60, 90, 120, 150]}
    config |= {"speakers": list("abcde"), "styles": list("xyz"), **changes}
    (hub / "config.json").write_text(json.dumps(config))
    return hub, path


def test_a_hub_folder_is_the_published_network_under_other_names(tmp_path):
    hub, path = make_hub(tmp_path)
    model, units, f0 = load_vocoder(hub), units_of(9), np.random.default_rng(1).integers(4, size=9)
    expected = Naive(path)(units, speaker=3, style=2, f0=f0)
    same(model.resynth(units, speaker="d", style="z", f0=f0, level="raw"), expected, 1e-5)
    with pytest.raises(ModelError, match="needs f0 for whole rows, so it does not stream"):
        list(model.stream([units], level="raw"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": ["a"]}, "1 names for the 5 rows of spkr"),
        ({"styles": None}, "0 names for the 3 rows of style"),
        ({"styles": ["x", "x", "y"]}, "styles is not a list of different names"),
        ({"speakers": "a"}, "speakers is 'a' where a list is wanted"),
        ({"speakers": [1, 2, 3, 4, 5]}, "speakers is not a list of different names"),
        ({"n_units": 21}, r"dict.weight is \(20, 8\) where .*config.json asks for \(21, 8\)"),
        ({"n_units": -1}, "n_units is -1"),
        ({"embedding_dim": 9}, "dict.weight is"),
        ({"f0_bins": None}, "conv_pre.weight is"),
    ],
)
def test_hub_folders_that_do_not_fit(tmp_path, changes, message):
    hub, _ = make_hub(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load_vocoder(hub)


def test_hub_folders_that_are_incomplete(tmp_path):
    hub, _ = make_hub(tmp_path)
    weights = (hub / "model.safetensors").read_bytes()
    (hub / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        load_vocoder(hub)
    (hub / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_vocoder(hub)
    (hub / "config.json").unlink()
    with pytest.raises(ModelError, match="not a model folder"):
        load_vocoder(hub)


# --------------------------------------------------------------------------------------------------------- streaming


def streamed(model, units: np.ndarray, size: int, **options) -> np.ndarray:
    """Speech of units that come `size` at a time."""
    return np.concatenate(list(model.stream([units[k : k + size] for k in range(0, len(units), size)], **options)))


@pytest.mark.parametrize("size", [1, 7, 200])
def test_streamed_is_the_whole(tmp_path, size):
    model, units = load_hifigan(make(tmp_path, multispkr="multi", multistyle="multi")), units_of(200)
    voice = {"speaker": 2, "style": 1}
    whole = model.resynth(units, **voice)
    same(streamed(model, units, size, **voice), whole, 1e-5)
    for n in (1, 2, 30):
        same(streamed(model, units[:n], size), model.resynth(units[:n]), 1e-5)


@pytest.mark.parametrize("name", ["codehifigan_plain.pt", "codehifigan_speakers.pt", "peers/unit_hifigan_plain"])
def test_published_models_stream(name):
    model, units = load_vocoder(GOLDEN / name), units_of(130)
    # random weights that drive tanh to its ends, so that a row is known to 1e-4 of its largest sample only
    whole = model.resynth(units, level="raw")
    np.testing.assert_allclose(streamed(model, units, 9, level="raw"), whole, atol=1e-4 * np.abs(whole).max())


def test_a_halo_is_what_a_sample_depends_on(tmp_path):
    """A unit at this distance is heard, one further is not; with a shorter halo a stream is not the whole."""
    model, units = load_hifigan(make(tmp_path)), units_of(120)
    whole, halo = model.resynth(units), model.generator.halo
    reach = 0
    for k in range(len(units)):
        other = units.copy()
        other[k] = (other[k] + 1) % 20
        changed = np.flatnonzero(np.abs(model.resynth(other) - whole) > 1e-5) // model.hop
        reach = max(reach, k - changed.min(), changed.max() - k)
    assert reach <= halo <= reach + 3  # each of the stages rounds up to its frames
    same(streamed(model, units, 5), whole, 1e-5)
    model.generator.halo = int(reach) - 1
    assert np.abs(streamed(model, units, 5) - whole).max() > 1e-4


def test_look_ahead_is_what_is_said(tmp_path):
    """All but the last `look_ahead` seconds have come, as soon as they can; and memory does not grow."""
    model, units = load_hifigan(make(tmp_path)), units_of(200)
    waiting, state = round(model.look_ahead * model.frame_rate), _Voice(model, 0, 0)
    parts, kept = [], []
    for k in range(len(units)):
        parts.append(state.push(units[k : k + 1]))
        kept.append(len(state.next.units))
    given = np.cumsum([len(part) for part in parts]) // model.hop
    assert (given >= np.arange(1, 201) - waiting).all()
    assert waiting == model.generator.halo + TOGETHER
    assert max(kept) <= 2 * model.generator.halo + TOGETHER


@pytest.mark.parametrize("size", [1, 4, 60])
def test_predicted_durations_are_streamed(tmp_path, size):
    model = load_hifigan(make(tmp_path, dur_predictor_params={"var_pred_hidden_dim": 6}))
    model.durations.project.bias.fill_(1.4)
    units = np.repeat(units_of(40), np.random.default_rng(2).integers(1, 3, size=40))
    literal = model.resynth(units, durations="predict")
    same(streamed(model, units, size, durations="predict"), literal, 1e-5)
    # a run that goes on in the next piece is one
    pieces = [Units(units[k : k + size], None, model.contract) for k in range(0, len(units), size)]
    joined = np.concatenate(list(model.stream(pieces, durations="predict")))
    same(joined, model.resynth(Units(units, None, model.contract), durations="predict"), 1e-5)
    assert model.hop * len(units) < len(literal) > len(joined)


@pytest.mark.parametrize(("halo", "differ"), [(2, False), (1, True), (0, True)])
def test_durations_depend_on_two_units_to_either_side(halo, differ):
    model, units = load_hifigan(GOLDEN / "codehifigan_duration.pt"), np.random.default_rng(0).integers(100, size=200)
    [whole] = model.predict_durations([units])
    predict = Overlapped(lambda row: model.predict_durations([row])[0], halo)
    parts = [predict(units[k : k + 1], False) for k in range(200)]
    lengths = np.concatenate([*parts, predict(units[:0], True)])
    assert len(lengths) == 200
    assert (lengths != whole).any() == differ
    assert PublishedDurations.halo == 2


# -------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("tile", [16, 24])
@pytest.mark.parametrize("kernel", [1, 3, 7, 11])
def test_few_products_are_a_correlation(tile, kernel):
    inputs, weights, outputs = few_products(tile, kernel)
    assert len(inputs) == len(weights) == outputs.shape[1] == 3 * tile // 2 - 1
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=tile), rng.normal(size=kernel)
    made = outputs.numpy() @ ((weights.numpy() @ w) * (inputs.numpy() @ x))
    np.testing.assert_allclose(made, np.correlate(x, w, "valid"), atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize(
    ("outside", "inside", "kernel", "tiled"),
    [(64, 70, 11, True), (70, 70, 7, True), (70, 70, 3, False), (1, 8, 7, False)],
)
def test_both_ways_of_a_convolution(outside, inside, kernel, tiled, dilation):
    torch.manual_seed(0)
    weight, bias = torch.randn(outside, inside, kernel), torch.randn(outside)
    convolution = Convolution(weight, bias, dilation=dilation)
    assert convolution.tiled == tiled
    for frames in (1, 2, 13, 14, 15, 70, 211):
        x = torch.randn(frames, inside)
        before = x.clone()
        y = F.conv1d(
            F.leaky_relu(x, 0.1).T[None].double(),
            weight.double(),
            bias.double(),
            padding=(kernel - 1) * dilation // 2,
            dilation=dilation,
        )
        torch.testing.assert_close(convolution(x), y[0].T.float(), atol=2e-6 * float(y.abs().max()), rtol=0)
        assert torch.equal(x, before)


@pytest.mark.parametrize(("rate", "kernel"), [(5, 11), (4, 8), (2, 4), (3, 3), (2, 8), (1, 3)])
def test_upsampling_is_a_transposed_convolution(rate, kernel):
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 4, kernel), torch.randn(4)
    for frames in (1, 2, 9):
        x = torch.randn(frames, 6)
        y = F.conv_transpose1d(F.leaky_relu(x, 0.1).T[None], weight, bias, stride=rate, padding=(kernel - rate) // 2)
        torch.testing.assert_close(Upsampling(weight, bias, rate)(x), y[0].T, atol=1e-5, rtol=0)


def test_a_row_in_pieces_is_the_row(tmp_path, monkeypatch):
    """Each piece is made with what it hears around it: whatever their size, no seam is left."""
    path = make(tmp_path)
    model, units = load_hifigan(path), units_of(90)
    whole, original, counts = Naive(path)(units), generator.pieces, []

    def small(total: int, size: int, halo: int):
        parts = list(original(total, min(size, 11), halo))
        counts.append(len(parts))
        return parts

    monkeypatch.setattr(generator, "pieces", small)
    same(model.resynth(units), whole, 1e-5)
    assert min(counts) > 1
    monkeypatch.setattr(generator, "pieces", lambda total, size, halo: original(total, min(size, 11), halo // 2))
    assert np.abs(model.resynth(units) - whole).max() > 1e-3, "half of the surroundings would do"


def test_a_row_does_not_hear_its_batch(tmp_path):
    model = load_hifigan(make(tmp_path, dur_predictor_params={"var_pred_hidden_dim": 6}))
    rows = [units_of(n, n) for n in (3, 40, 1, 23, 39)]
    for durations in ("given", "predict"):
        for row, audio in zip(rows, model.resynth(rows, durations=durations), strict=True):
            np.testing.assert_allclose(audio, model.resynth(row, durations=durations), atol=1e-5)
    for row, predicted in zip(rows, model.predict_durations(rows), strict=True):
        np.testing.assert_array_equal(predicted, model.predict_durations([row])[0])


# ---------------------------------------------------------------------------------------------------------- variants


@pytest.mark.parametrize(
    "names", [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
)
@pytest.mark.parametrize("kind", ["1", "2"])
def test_residual_blocks_and_weight_norm_of_either_kind(tmp_path, names, kind):
    path = make(tmp_path, names, kind, resblock=1)  # what the configuration says of the kind is not asked
    same(load_hifigan(path).resynth(units_of(30)), Naive(path)(units_of(30)))


def test_weights_without_weight_norm(tmp_path):
    path = make(tmp_path)
    naive = Naive(path)
    folded = {
        k.replace("weight_v", "weight"): naive.weight(k[:-9]).float() if k.endswith("weight_v") else v.float()
        for k, v in naive.s.items()
    }
    torch.save({"generator": {k: v for k, v in folded.items() if not k.endswith("weight_g")}}, path)
    same(load_hifigan(path).resynth(units_of(30)), naive(units_of(30)))


def test_speakers_and_styles(tmp_path):
    path = make(tmp_path, multispkr="from_input_file", multistyle="from_input_file")
    model, naive, units = load_hifigan(path), Naive(path), units_of(25)
    assert (model.speakers, model.styles) == (("0", "1", "2", "3", "4"), ("0", "1", "2"))
    for speaker, style in ((0, 0), (4, 1), (2, 2)):
        same(model.resynth(units, speaker=speaker, style=style), naive(units, speaker=speaker, style=style))
        np.testing.assert_array_equal(
            model.resynth(units, speaker=str(speaker), style=str(style)),
            model.resynth(units, speaker=speaker, style=style),
        )
    assert np.abs(naive(units, speaker=1) - naive(units, style=1)).max() > 0.1
    np.testing.assert_array_equal(model.resynth(units), model.resynth(units, speaker=0, style=0))
    (tmp_path / "speakers.txt").write_text("ann\nbob\ncee\n")
    (tmp_path / "styles.txt").write_text("sad\nvery happy\ncalm\n")
    named = load_hifigan(path)
    assert (named.speakers, named.styles) == (("ann", "bob", "cee"), ("sad", "very happy", "calm"))
    same(named.resynth(units, speaker="cee", style="very happy"), naive(units, speaker=2, style=1))
    with pytest.raises(ModelError, match=r"no style 'angry'; it has sad, very happy, calm, or 0 to 2"):
        named.resynth(units, style="angry")
    (tmp_path / "styles.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(ModelError, match=r"styles.txt.*4 names for 3 styles"):
        load_hifigan(path)


def test_a_single_speaker_in_a_table_of_many(tmp_path):
    """speech-resynthesis writes 200 rows for LJSpeech, of which one was trained."""
    assert load_hifigan(make(tmp_path, multispkr="single")).speakers == ("0",)


@pytest.mark.parametrize("hop", [20, 80])
def test_f0_as_it_is(tmp_path, hop):
    """One channel, at the rate of the units or at four times that; raw Hz would drown all else, so the weights see
    hundredths.
    """
    path = make(tmp_path, f0=True, multispkr="_", code_hop_size=hop)
    model, naive, units, k = load_hifigan(path), Naive(path), units_of(25), hop // 20
    assert model.f0.per_frame == k
    f0 = f0_of(25 * k) / 100
    same(model.resynth(units, f0=f0, speaker=2), naive(units, f0=f0, speaker=2))
    assert np.abs(naive(units, f0=f0, speaker=2) - naive(units, f0=f0 * 1.2, speaker=2)).max() > 0.05
    same(model.resynth(units, f0=f0[::k], speaker=1), naive(units, f0=np.repeat(f0[::k], k), speaker=1))
    for made, n in zip(model.resynth([units, units[:9]], f0=[f0, f0[: 9 * k]]), (25, 9), strict=True):
        same(made, naive(units[:n], f0=f0[: n * k]))


def test_f0_normalised_by_the_speaker(tmp_path):
    path = make(tmp_path, f0=True, multispkr="_", f0_normalize=True, f0_stats="datasets/VCTK/f0_stats.th")
    naive, units, f0 = Naive(path), units_of(25), f0_of(25)
    statistics = {"f0_mean": 150.0, "f0_std": np.float64(40.0), 1: {"f0_mean": torch.tensor(200.0), "f0_std": 50.0}}
    expected = {s: np.where(f0 == 0, 0, (f0 - m) / d).astype(np.float32) for s, m, d in ((0, 150, 40), (1, 200, 50))}
    model = load_hifigan(path)  # without the file of statistics
    same(model.resynth(units, f0=expected[0]), naive(units, f0=expected[0]))
    with pytest.raises(ModelError, match=r"over the deviation.*f0_stats of the configuration"):
        model.resynth(units, f0=f0)
    torch.save(statistics, tmp_path / "f0_stats.th")
    model = load_hifigan(path)
    for speaker in (0, 1):
        same(model.resynth(units, f0=f0, speaker=speaker), naive(units, f0=expected[speaker], speaker=speaker))
    torch.save({"f0_mean": 1.0}, tmp_path / "f0_stats.th")
    with pytest.raises(ModelError, match=r"f0_stats.th: does not hold"):
        load_hifigan(path)


def test_f0_in_bins(tmp_path):
    path = make(tmp_path, f0=True, f0_quant_num_bin=7, code_hop_size=40)
    model, units, bins = load_hifigan(path), units_of(25), np.random.default_rng(1).integers(7, size=50)
    same(model.resynth(units, f0=bins), Naive(path)(units, f0=bins))
    for wrong in (bins + 1, bins / 2, -bins):
        with pytest.raises(ModelError, match="bins, integers from 0 to 6"):
            model.resynth(units, f0=wrong)


def test_f0_in_codes(tmp_path):
    """Each code is of 8 values at 200 Hz, which are 2 units of 4; the last one may be half there."""
    path = make(tmp_path, multispkr="_", **CODES)
    model, naive, f0 = load_hifigan(path), Naive(path), f0_of(104) / 50
    assert model.f0.per_frame == 4
    same(model.resynth(units_of(26), f0=f0, speaker=3), naive(units_of(26), f0=f0, speaker=3))
    shorter = model.resynth(units_of(25), f0=f0[:100], speaker=3)
    f0[100:] = 0
    assert shorter.shape == (500,)
    reach = 20 * model.generator.halo
    np.testing.assert_allclose(shorter[:-reach], naive(units_of(26), f0=f0, speaker=3)[: 500 - reach], atol=1e-5)


def test_f0_that_is_not_there(tmp_path):
    model, units = load_hifigan(make(tmp_path, f0=True, code_hop_size=80)), units_of(5)
    with pytest.raises(
        ModelError, match=r"needs f0 \(Hz, 0 where unvoiced\): 5 values, one a unit, or 20; given: none"
    ):
        model.resynth(units)
    for wrong in (np.ones(7), np.ones((1, 5))):
        with pytest.raises(ModelError, match="given: shape"):
            model.resynth(units, f0=wrong)
    for wrong in (-np.ones(5), np.full(5, np.nan)):
        with pytest.raises(ModelError, match="not Hz"):
            model.resynth(units, f0=wrong)
    with pytest.raises(ModelError, match="1 rows but the units have 2"):
        model.resynth([units, units], f0=[np.ones(5)])
    with pytest.raises(ModelError, match="without F0"):
        load_hifigan(make(tmp_path / "without")).resynth(units, f0=np.ones(5))


def test_predicted_durations(tmp_path):
    path = make(
        tmp_path, dur_predictor_params={"encoder_embed_dim": 8, "var_pred_hidden_dim": 6, "var_pred_kernel_size": 3}
    )
    state = torch.load(path)["generator"]
    state["dur_predictor.proj.weight"] *= 0
    state["dur_predictor.proj.bias"] = torch.tensor([1.3])  # exp(1.3) - 1 = 2.67
    torch.save({"generator": state}, path)
    model = load_hifigan(path)
    units = Units(np.array([1, 4, 4, 2]), np.array([3, 1, 2, 5]), model.contract)
    # of Units the runs are joined (1, 4, 2), a bare array is taken literally
    np.testing.assert_array_equal(model.resynth(units, durations="predict"), model.resynth(np.repeat([1, 4, 2], 3)))
    np.testing.assert_array_equal(
        model.resynth([1, 4, 4, 2], durations="predict"), model.resynth(np.repeat([1, 4, 4, 2], 3))
    )
    np.testing.assert_array_equal(model.resynth(units), model.resynth(units.frames()))


# ---------------------------------------------------------------------------------------------------------- requests


@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_requests_that_cannot_be_met(tmp_path):
    model = load_hifigan(make(tmp_path, multispkr="_"))
    for speaker in ("eve", 5, -1):
        with pytest.raises(ModelError, match=r"no speaker .*; it has 0, 1, 2, 3, 4, or 0 to 4"):
            model.resynth([1, 2], speaker=speaker)
    with pytest.raises(ModelError, match="no style 'sad'; it has none"):
        model.resynth([1, 2], style="sad")
    for nothing in ([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), None, model.contract), [[1, 2], []]):
        with pytest.raises(ModelError, match="no units"):
            model.resynth(nothing)
    with pytest.raises(ModelError, match="durations is 'long'; known: given, predict"):
        model.resynth([1], durations="long")
    for outside in ([20], np.array([-1]), Units(np.array([20]))):
        with pytest.raises(ContractError, match="outside"):
            model.resynth(outside)
    with pytest.raises(ContractError, match=r"frame_rate is 100.0 in the units but 50.0 in the vocoder"):
        model.resynth(Units(np.array([1]), None, model.contract.with_(frame_rate=100.0)))
    with pytest.raises(ContractError, match="n_units"):
        model.resynth(Units(np.array([1]), None, UnitContract(n_units=100)))


# ------------------------------------------------------------------------------------------------------------- files


def test_where_the_configuration_is(tmp_path):
    path = make(tmp_path)
    config = tmp_path / "config.json"
    elsewhere = tmp_path / "other" / "c.json"
    elsewhere.parent.mkdir()
    for place in (elsewhere, path.with_suffix(".json")):
        config.rename(place)
        config = place
        assert load_hifigan(path, config if place == elsewhere else None).n_units == 20
    config.unlink()
    with pytest.raises(ModelError, match=r"configuration is missing \(.*config.json or .*g.json\); give"):
        load_hifigan(path)
    with pytest.raises(ModelError, match=r"configuration is missing \(.*c.json\)"):
        load_hifigan(path, elsewhere)
    with pytest.raises(ModelError, match="does not exist; check the path"):
        load_hifigan(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_embeddings": 21},
            r"dict.weight is \(20, 8\) where .*config.json asks for \(21, 8\); are they of one model",
        ),
        ({"upsample_initial_channel": 64}, r"conv_pre.weight is \(128, 8, 7\)"),
        ({"upsample_kernel_sizes": [11, 12]}, r"ups.1.weight is"),
        ({"resblock_kernel_sizes": [3, 7]}, r"resblocks.1.convs1.0.weight is \(64, 64, 11\)"),
        (
            {"resblock_dilation_sizes": [[1, 3], [1, 3, 5]]},
            r"has no resblocks.1.convs1.2.weight, for which .*config.json asks",
        ),
        (
            {"resblock_dilation_sizes": [[1, 3], [1]]},
            r"has resblocks.1.convs1.1.bias, for which .*config.json does not ask",
        ),
        ({"resblock_dilation_sizes": [[1, 3]]}, "not as many resblock_dilation_sizes"),
        ({"resblock_dilation_sizes": [[1, 3], 5]}, "resblock_dilation_sizes is '5' where a list of whole numbers"),
        ({"upsample_rates": [5, 2], "code_hop_size": 10, "upsample_kernel_sizes": [11, 7]}, "do not give whole"),
        ({"upsample_rates": [5, 0]}, r"upsample_rates is '\[5, 0\]' where a list"),
        ({"upsample_rates": "5, 4"}, "upsample_rates is '5, 4' where a list"),
        ({"code_hop_size": 320}, "code_hop_size is 320 but upsample_rates make 20 samples"),
        ({"embedding_dim": True}, "embedding_dim is 'True' where a whole number"),
        ({"multispkr": "_"}, "has no spkr.weight"),
        ({"dur_predictor_params": {"var_pred_hidden_dim": 6}}, "has no dur_predictor.conv1.0.weight"),
        ({"dur_predictor_params": [1]}, "dur_predictor_params is '.1.' where an object is wanted"),
        ({"embedder_params": {"x": 1}}, r"has embedder_params \(.*\), which is not supported"),
        ({"lambda_commit_code": 0.02}, "has lambda_commit_code .*not supported"),
        ({**CODES, "code_hop_size": 80}, "quantizer.encoder.level_blocks.0.model.0.0.weight"),
    ],
)
def test_configurations_of_another_model(tmp_path, changes, message):
    path = make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(ModelError, match=message) as e:
        load_hifigan(path)
    assert str(tmp_path) in str(e.value)
    assert "\n" not in str(e.value)


def test_f0_quantisers_that_do_not_fit(tmp_path):
    with pytest.raises(ModelError, match="not a whole number of units"):
        load_hifigan(make(tmp_path, **CODES, sampling_rate=1100))
    for changes in ({"downs_t": [3, 2]}, {"strides_t": [3]}, {"depth": 100_000, "dilation_growth_rate": 100_000}):
        quantiser = {**QUANTISER, "f0_encoder_params": {**QUANTISER["f0_encoder_params"], **changes}}
        path = make(tmp_path, **CODES)
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **CODES, "f0_quantizer": quantiser}))
        with pytest.raises(ModelError, match="not supported"):
            load_hifigan(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"num_embeddings": 20}'])
def test_damaged_configurations(tmp_path, content):
    path = make(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config.json: "):
        load_hifigan(path)


def test_damaged_checkpoints(tmp_path):
    path = make(tmp_path)
    whole, state = path.read_bytes(), torch.load(path)["generator"]
    for part in (whole[:5000], whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(part)
        with pytest.raises(ModelError, match=r"g.pt: "):
            load_hifigan(path)
    for content, message in (
        ({"model": state}, 'no "generator"'),
        ([state], 'no "generator"'),
        ({"generator": {**state, "dict.weight": [1, 2]}}, "dict.weight is not a tensor"),
        (
            {"generator": {**state, "dict.weight": state["dict.weight"] * float("nan")}},
            "dict.weight holds values that are not numbers",
        ),
        ({"generator": {**state, "f0_dict.weight": state["dict.weight"]}}, "has f0_dict.weight, for which"),
        ({"generator": {k: v for k, v in state.items() if k != "conv_post.bias"}}, "has no conv_post.bias"),
        (
            {"generator": {k: v for k, v in state.items() if k != "conv_pre.weight_v"}},
            "conv_pre.weight_v is missing or does not fit",
        ),
        ({"generator": {**state, "ups.0.weight_g": torch.ones(64, 1, 1)}}, "ups.0.weight_v is missing or does not fit"),
    ):
        torch.save(content, path)
        with pytest.raises(ModelError, match=message):
            load_hifigan(path)


class Foreign:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


def test_nothing_in_a_file_is_run(tmp_path):
    path, witness = make(tmp_path), tmp_path / "was run"
    state = torch.load(path)["generator"]
    for content in (
        Foreign(witness),
        {"generator": state, "steps": Foreign(witness)},
        {"generator": {**state, "dict.weight": Foreign(witness)}},
    ):
        torch.save(content, path)
        with pytest.raises(ModelError):
            load_hifigan(path)
    path = make(tmp_path, f0=True, f0_normalize=True, f0_stats="f0_stats.th")
    torch.save({"f0_mean": Foreign(witness), "f0_std": 1.0}, tmp_path / "f0_stats.th")
    with pytest.raises(ModelError):
        load_hifigan(path)
    assert not witness.exists()

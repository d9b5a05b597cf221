"""The contracts of `textless.types`, each held against every class of the package that fulfils it."""

import dataclasses
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
import torch
from sign_quantizer import SignQuantizer
from test_causal import text_model
from test_foreign import ONE_OF_EACH, build

import textless.lm
import textless.units
import textless.vocoder
from conftest import GOLDEN
from textless import types
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import AudioError, ContractError, ModelError
from textless.lm import from_causal, load_lm
from textless.steps import STEPS
from textless.types import UnitContract, Units
from textless.units import quantizers
from textless.units.dump import open_dump
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.load import load_encoder, save_projected
from textless.units.encoders.signal import SIGNAL
from textless.units.head import Head
from textless.units.kmeans import Codebook, fit_codebook
from textless.units.mfcc_lda.ladder import LadderEncoder
from textless.units.mfcc_lda.lda import DIM, LdaEncoder
from textless.units.mfcc_lda.vtln import DIM as VOICE_DIM
from textless.units.mfcc_lda.vtln import Voice
from textless.units.quantizers import load_codebook
from textless.units.smoothing import smoothing_of
from textless.units.tokenizer import Tokenizer

PEERS = {"minimal_hubert_base": "checkpoint_7.pt", "minimal_hubert_large": "checkpoint_7.pt", "spidr": "model.pt"}
PEERS["cpc"] = "cpc.pt"
NETWORKS = ["ours-logmel", "ours-voice", "ours-conv", "fairseq-base", "fairseq-large", *PEERS, *ONE_OF_EACH]
NAMES = [*SIGNAL, "lda", "ladder", "projected", *NETWORKS]


def implementations(room, *methods):
    """Classes of a package that have these methods, without protocols and without bases of others."""
    names = [m.name for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    classes = {c for n in names for _, c in inspect.getmembers(importlib.import_module(n), inspect.isclass)}
    able = {c for c in classes if c.__module__.startswith("textless.") and all(hasattr(c, m) for m in methods)}
    able = {c for c in able if not getattr(c, "_is_protocol", False)}
    return {c for c in able if not any(c in other.__mro__[1:] for other in able)}


# ------------------------------------------------------------------------------------------------------------ encoders


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """name → the encoder, freshly loaded."""
    sources = {"fairseq-base": GOLDEN / "hubert_base.pt", "fairseq-large": GOLDEN / "hubert_large.pt"}
    sources |= {n: n for n in SIGNAL} | {n: GOLDEN / "peers" / n / file for n, file in PEERS.items()}
    ours = {
        "conv_dim": 32,
        "dim": 64,
        "layers": 3,
        "heads": 4,
        "ffn_dim": 64,
        "pos_conv_kernel": 16,
        "pos_conv_groups": 4,
    }

    def source(name):
        if name not in sources:
            folder = sources[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            if name == "lda":
                LdaEncoder(np.random.default_rng(0).standard_normal((DIM, 20)).astype(np.float32)).save(folder)
            elif name == "ladder":
                LadderEncoder(Voice(torch.randn(VOICE_DIM, 20).T.contiguous().T, torch.randn(50, 20))).save(folder)
            elif name == "ours-voice":
                model = Hubert(dataclasses.replace(PRESETS["nano"], n_mels=80, voice_clusters=50, voice_dim=20))
                model.voice.load_state_dict(Voice(torch.randn(VOICE_DIM, 20), torch.randn(50, 20)).state_dict())
                save_encoder(folder, model)
            elif name == "projected":
                projection = np.random.default_rng(0).standard_normal((3 * PRESETS["nano"].dim, 20))
                save_projected(folder, source("ours-logmel"), projection.astype(np.float32), layer=2, context=1)
            elif name == "ours-logmel":
                save_encoder(folder, Hubert(PRESETS["nano"]))
            elif name == "ours-conv":
                save_encoder(folder, Hubert(type(PRESETS["base"])(**ours)))
            else:
                build(name, folder)
        return sources[name]

    return lambda name, layer=2, **options: load_encoder(source(name), layer, **options)


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder(load, clip, name):
    encoder = load(name)
    assert isinstance(encoder, types.Encoder)
    files = [clip[4000:12345], clip[20000:21000], (clip[:9000] * 1e-3).astype(np.float32), clip[30000:58000]]
    alone = [encoder.encode_one(f) for f in files]
    for file, frames in zip(files, alone, strict=True):
        assert frames.shape == (encoder.n_frames(len(file)), encoder.dim)
        assert frames.dtype == np.float32
        assert np.isfinite(frames).all()
        assert np.array_equal(encoder.encode_one(file), frames)
    # Not on its neighbours, nor on how it comes.
    for got, want in zip(encoder.encode(files), alone, strict=True):
        close(got, want)
    for got, want in zip(encoder.encode_batch(files[::-1]), alone[::-1], strict=True):
        close(got, want)
    close(
        np.concatenate(list(encoder.stream(lambda: (files[3][i : i + 999] for i in range(0, len(files[3]), 999))))),
        alone[3],
    )
    assert np.isfinite(encoder.encode_one(np.zeros(4000, np.float32))).all()
    for samples in range(16000, 16700, 53):
        assert len(encoder.encode_one(clip[:samples])) == encoder.n_frames(samples)
    assert encoder.encode(clip[4000:12345].tolist()).shape == alone[0].shape
    assert abs(encoder.n_frames(16000 * 1000) / 1000 - encoder.frame_rate) < 0.01

    contract = encoder.contract
    assert None not in (
        contract.encoder,
        contract.window,
        contract.normalisation,
        contract.sample_rate,
        contract.frame_rate,
    )
    assert contract.layer == (2 if name in (*NETWORKS, "projected") else None)
    assert (contract.n_units, contract.codebook) == (None, None)
    assert load(name).contract == contract
    few = {"cpc": 158, "w2v-bert": 559}.get(name, 399)
    with pytest.raises(
        AudioError, match=rf"^{few} samples are shorter than one frame \({few + 1} samples at 16 kHz\)$"
    ):
        encoder.encode_one(clip[:few])

    centroids = np.random.default_rng(0).standard_normal((7, encoder.dim)).astype(np.float32)
    tokenizer = Tokenizer(encoder, Codebook(centroids))
    units = tokenizer.encode(files[0])
    assert units.n_frames == len(alone[0])
    assert units.contract == contract.with_(transform="none", n_units=7, codebook=tokenizer.codebook.contract.codebook)
    assert tokenizer.encode_batch(files)[0] == units
    with pytest.raises(ContractError, match=f"dimensions but the encoder {encoder.dim}"):
        Tokenizer(encoder, Codebook(centroids[:, 1:]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(load, clip, name):
    encoder = load(name)
    layers = encoder.encode_layers(clip[:16000], [2, 1])
    assert list(layers) == [2, 1]
    close(layers[2], encoder.encode_one(clip[:16000]))
    close(layers[1], load(name, 1).encode_one(clip[:16000]))
    assert load(name, 1).contract.encoder != encoder.contract.encoder
    half = load(name, precision="bf16")
    assert half.contract == encoder.contract
    assert half.precision == "bf16"
    frames, want = half.encode_one(clip[:16000]), encoder.encode_one(clip[:16000])
    assert frames.dtype == np.float32
    assert 0 < np.abs(frames - want).max() < 0.1 * np.abs(want).max()
    assert load(name, precision="auto").precision in ("fp32", "bf16")
    with pytest.raises(ModelError, match=r"layer 9 does not exist: the encoder has layers 1 to \d"):
        load(name, 9)
    with pytest.raises(ModelError, match="layer 3 "):
        encoder.encode_layers(clip[:16000], [1, 3])
    with pytest.raises(ModelError, match="precision is 'fp8'; known: fp32, bf16, auto"):
        load(name, precision="fp8")


def test_every_encoder_is_here(load):
    assert {type(load(name)) for name in NAMES} == implementations(textless.units, "encode_one", "n_frames", "stream")


# ---------------------------------------------------------------------------------------------------------- quantizers

FRAMES = np.random.default_rng(1).standard_normal((500, 39)).astype(np.float32)
MFCC = load_encoder("mfcc").contract
QUANTIZERS = {
    "k-means": lambda: fit_codebook(FRAMES, 9, contract=MFCC)[0],
    "normalised": lambda: fit_codebook(FRAMES, 9, contract=MFCC, transform="layer_norm")[0],
    "unmeasured": lambda: Codebook(FRAMES[:9], MFCC),
    "head": lambda: Head(FRAMES[:9], FRAMES[0, :9], MFCC),
    "sign": lambda: SignQuantizer(np.random.default_rng(2).standard_normal((39, 4)), MFCC),
}


@pytest.fixture(params=QUANTIZERS)
def quantizer(request, monkeypatch):
    monkeypatch.setitem(quantizers.KINDS, "sign", SignQuantizer)
    return QUANTIZERS[request.param]()


def test_every_quantizer_is_here():
    ours = {type(make()) for make in QUANTIZERS.values()} - {SignQuantizer}
    assert ours == implementations(textless.units, "predict", "contract_for") == set(quantizers.KINDS.values())


def test_a_quantizer(quantizer, tmp_path):
    assert isinstance(quantizer, types.Quantizer)
    assert quantizer.dim == 39
    units = quantizer.predict(FRAMES)
    assert (units.shape, units.dtype) == ((500,), np.int64)
    assert 0 <= units.min() < units.max() < quantizer.n_units
    assert np.array_equal(np.concatenate([quantizer.predict(f[None]) for f in FRAMES]), units)
    assert quantizer.predict(FRAMES[:0]).shape == (0,)

    contract = quantizer.contract
    assert contract.n_units == quantizer.n_units
    assert len(contract.codebook) == 64
    assert contract == MFCC.with_(n_units=contract.n_units, codebook=contract.codebook, transform=contract.transform)
    assert quantizer.contract_for(MFCC) == contract
    with pytest.raises(ContractError, match="encoder is mfcc in the codebook but logmel in the encoder"):
        quantizer.contract_for(MFCC.with_(encoder="logmel"))
    for bad in (FRAMES[0], FRAMES[:, 1:], np.full((3, 39), np.nan, np.float32)):
        with pytest.raises(ModelError):
            quantizer.predict(bad)
    if isinstance(quantizer, types.MeasuringQuantizer):
        same, distances = quantizer.nearest(FRAMES)
        assert np.array_equal(same, units)
        assert (distances.shape, distances.dtype) == (units.shape, np.float32)
        assert distances.min() >= 0
        assert quantizer.is_far(1e9, 60.0) == (quantizer.distances is not None)
    if isinstance(quantizer, types.SmoothableQuantizer):
        squared = quantizer.squared_distances(FRAMES)
        assert (squared.shape, squared.dtype) == ((500, quantizer.n_units), np.float32)
        assert np.array_equal(squared.argmin(1), units)
        np.testing.assert_allclose(np.sqrt(squared.min(1)), distances, rtol=1e-5)
    else:
        with pytest.raises(ModelError, match="cannot be smoothed"):
            smoothing_of(quantizer, 0.1)

    assert isinstance(quantizer, quantizers.StoredQuantizer)
    quantizer.save(tmp_path)
    back = load_codebook(tmp_path)
    assert type(back) is type(quantizer)
    assert back.contract == contract
    assert np.array_equal(back.predict(FRAMES), units)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "contract": {"colour": 1}}))
    with pytest.raises(ModelError, match="unknown fields"):
        load_codebook(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": "hubert"}))
    with pytest.raises(ModelError, match=f"a model of kind 'hubert' where a {' or '.join(quantizers.KINDS)} is wanted"):
        load_codebook(tmp_path)


def test_from_speech_to_a_dump_by_any_quantizer(quantizer, speech, clip, tmp_path, textless_command):
    """Tokenizer, `textless encode` and the steps `encode`, `assign` and `lda` give the same units."""
    quantizer.save(tmp_path / "codebook")
    tokenizer = Tokenizer(load_encoder("mfcc"), quantizer)
    measured = isinstance(quantizer, types.MeasuringQuantizer)
    units, distance = tokenizer.measure([tokenizer.encoder.encode(clip)])
    assert units == tokenizer.encode(clip)
    assert units.contract == quantizer.contract
    assert (distance is not None) == measured

    options = "-v", "--encoder", "mfcc", "--codebook", tmp_path / "codebook"
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "dump", *options, model=None)
    assert code == 0
    assert err.count(" units, distance ") == (3 if measured else 0)
    assert err.count(" s, ") == 3
    (tmp_path / "p.yaml").write_text(
        f"""steps:
  corpus: {{manifest: {speech}}}
  model:  {{step: model, file: {tmp_path / "codebook"}}}
  mfcc:   {{step: frames, audio: $corpus, encoder: mfcc}}
  encode: {{audio: $corpus, encoder: mfcc, codebook: $model}}
  assign: {{frames: $mfcc, codebook: $model}}
  lda:    {{frames: $mfcc, codebook: $model, dim: 2}}
"""
    )
    pipeline, store = load_pipeline(tmp_path / "p.yaml", STEPS), Store(tmp_path / "store")
    pipeline.run(store)
    assert load_encoder(store.folder(pipeline.steps["lda"])).dim == 2
    dumps = [
        open_dump(f) for f in (tmp_path / "dump", *(store.folder(pipeline.steps[n]) for n in ("encode", "assign")))
    ]
    for dump in dumps:
        assert dump.contract == quantizer.contract
        assert {row.id: row.units for row in dump} == {row.id: row.units for row in dumps[0]}
    assert {row.id for row in dumps[0]} == {"a", "b", "c"}


# --------------------------------------------------------------------------------------------------- language models

KNOWN = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=23, codebook="a" * 64)
FOREIGN = ["slamkit_qwen2", "slamkit_opt", "twist_opt"]
DECODERS = ["ours", "transformers", "gslm", *FOREIGN]


@pytest.fixture(scope="module")
def decoders(model_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    from_causal(text_model("llama"), KNOWN, max_duration=6).save(folder)
    gslm = load_lm(GOLDEN / "ulm.pt", dictionary=GOLDEN / "ulm_dict.txt")
    others = [load_lm(GOLDEN / "peers" / name) for name in FOREIGN]
    return dict(zip(DECODERS, (load_lm(model_set / "lm"), load_lm(folder), gslm, *others), strict=True))


@pytest.mark.parametrize("name", DECODERS)
def test_a_language_model(decoders, name):
    lm = decoders[name]
    assert isinstance(lm, types.UnitDecoder)
    assert lm.contract.n_units == lm.n_units
    some = np.random.default_rng(0).permutation(lm.n_units)[:9]
    units = Units(some, None, lm.contract)
    nll = lm.nll(units)
    assert (nll.shape, nll.dtype) == ((9 + lm.ends,), np.float64)
    assert (nll > 0).all()
    assert np.array_equal(lm.nll(some), nll)
    assert np.array_equal(lm.nll(some.tolist()), nll)
    np.testing.assert_allclose(
        lm.nll(units.between(0, 0.1) if lm.contract.frame_rate else some[:5])[:5], nll[:5], atol=1e-5
    )

    longer = lm.continue_units(units, max_new_units=5, seed=3)
    assert isinstance(longer, Units)
    assert longer.contract == lm.contract
    assert longer.units[:9].tolist() == some.tolist()
    assert 9 <= len(longer) <= 14
    assert lm.continue_units(units, max_new_units=5, seed=3) == longer
    several = lm.continue_units([units, units], max_new_units=5, seed=3)
    assert isinstance(several, list)
    assert several[0] == longer
    new = lm.continue_units(units, max_new_units=5, seed=3, only_new=True)
    assert new.units.tolist() == longer.units[9:].tolist()
    with pytest.raises(ValueError, match="seconds"):
        lm.continue_units(units)
    for wrong in (np.array([lm.n_units]), Units(some, None, lm.contract.with_(n_units=lm.n_units + 1))):
        with pytest.raises(ContractError):
            lm.nll(wrong)
        with pytest.raises(ContractError):
            lm.continue_units(wrong, max_new_units=5)


def test_every_language_model_is_here(decoders):
    assert {type(lm) for lm in decoders.values()} == implementations(textless.lm, "nll", "continue_units")

"""What every encoder promises, held against each of them."""

import dataclasses

import numpy as np
import pytest
import torch
from test_foreign import ONE_OF_EACH, build

from conftest import GOLDEN
from textless.errors import AudioError, ContractError, ModelError
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.load import load_encoder
from textless.units.encoders.signal import SIGNAL
from textless.units.kmeans import Codebook
from textless.units.mfcc_lda.ladder import LadderEncoder
from textless.units.mfcc_lda.lda import DIM, LdaEncoder
from textless.units.mfcc_lda.vtln import DIM as VOICE_DIM
from textless.units.mfcc_lda.vtln import Voice
from textless.units.tokenizer import Tokenizer

NETWORKS = ["ours-logmel", "ours-voice", "ours-conv", "fairseq-base", "fairseq-large", *ONE_OF_EACH]
NAMES = [*SIGNAL, "lda", "ladder", *NETWORKS]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """name → the encoder, loaded anew."""
    sources = {"fairseq-base": GOLDEN / "hubert_base.pt", "fairseq-large": GOLDEN / "hubert_large.pt"} | {
        n: n for n in SIGNAL
    }
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
    assert contract.layer == (2 if name in NETWORKS else None)
    assert (contract.n_units, contract.codebook) == (None, None)
    assert load(name).contract == contract
    with pytest.raises(AudioError, match=r"^399 samples are shorter than one frame \(\d+ samples at 16 kHz\)$"):
        encoder.encode_one(clip[:399])

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
    with pytest.raises(ModelError, match="precision 'fp8' is unknown; known: fp32, bf16, auto"):
        load(name, precision="fp8")

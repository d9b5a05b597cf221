import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: small work is slower on many threads, and results depend on the count
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

GOLDEN = Path(__file__).parent / "data" / "golden"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden():
    """What fairseq 0.12.2 computes from `clip`; see data/golden/README.md."""
    return lambda name: np.load(GOLDEN / name)


@pytest.fixture(scope="session")
def clip():
    """Seven seconds of espeak-ng, (samples,) float32."""
    return soundfile.read(GOLDEN / "clip.flac", dtype="float32")[0]


@pytest.fixture
def speech(tmp_path):
    """A folder of three short noises that differ: a.wav, b.wav, c.wav."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for k, name in enumerate("abc"):
        rng = np.random.default_rng(k)
        t = np.arange(16000 + 3000 * k) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * k) * t * (1 + 0.3 * np.sin(3 * t))) + 0.02 * rng.standard_normal(
            len(t)
        )
        soundfile.write(folder / f"{name}.wav", wave.astype(np.float32), 16000, subtype="PCM_16")
    return folder


def build_set(root):
    """A whole set with random weights below `root`: the folder that `--model` and `textless.load` take."""
    import torch

    from textless.lm.model import PRESETS as LM
    from textless.lm.model import LMConfig, UnitLM
    from textless.model import bundle
    from textless.model_io import round_half
    from textless.units.encoders.hubert import PRESETS, Hubert
    from textless.units.encoders.hubert_encoder import HubertEncoder, save_encoder
    from textless.units.kmeans import Codebook
    from textless.vocoder.model import UnitVocoder, VocoderConfig

    torch.manual_seed(0)
    encoder = Hubert(PRESETS["nano"]).eval()
    encoder.load_state_dict(round_half(encoder.state_dict()))
    save_encoder(root / "encoder", encoder)
    frames = HubertEncoder(encoder, 2)
    noise = np.random.default_rng(0).standard_normal((20, frames.dim)).astype(np.float32)
    codebook = Codebook(noise, frames.contract.with_(transform="layer_norm"))
    codebook.save(root / "codebook")
    lm = UnitLM(LMConfig(n_units=20, **{**LM["nano"], "context": 128}), codebook.contract)
    lm.load_state_dict(round_half(lm.state_dict()))
    lm.save(root / "lm")
    vocoder = UnitVocoder(
        VocoderConfig.of(codebook.contract, speakers=["amy", "ben"], preset="nano"), codebook.contract
    )
    vocoder.load_state_dict(round_half(vocoder.state_dict()))
    vocoder.save(root / "vocoder")
    bundle(root / "set", **{name: root / name for name in ("encoder", "codebook", "lm", "vocoder")})
    return root / "set"


@pytest.fixture(scope="session")
def model_set(tmp_path_factory):
    return build_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def textless_command(monkeypatch, capsys, model_set):
    """Run a command; returns (exit code, stdout, stderr). Models default to the small random set."""

    from textless.cli import app as cli

    def run(*args, stdin="", model=model_set):
        args = [str(a) for a in args]
        if args[0] in ("encode", "continue", "resynth", "score") and model:
            args += ["--model", str(model)]
        monkeypatch.setattr(sys, "argv", ["textless", *args])
        data = io.BytesIO(stdin) if isinstance(stdin, bytes) else io.BytesIO(stdin.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, encoding="utf-8"))
        with pytest.raises(SystemExit) as e:
            cli.main()
        out = capsys.readouterr()
        return e.value.code or 0, out.out, out.err

    return run

"""Waveforms → frames → units: encoders behind one protocol, and the tokenizer that adds a codebook."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from textless.corpus import Row, read_rows
from textless.errors import AudioError, ContractError, ModelError
from textless.units import hubert_frames, lda, mfcc
from textless.units.dump import UnitRow
from textless.units.kmeans import Codebook
from textless.units.types import UnitContract, Units
from textless.weights import from_torch, kind_of, load_model, save_model, to_torch


class Encoder(Protocol):
    """Frames from waveforms.

    Attributes:
        sample_rate: Hz. frame_rate: frames a second. dim: D. contract: of the frames, without a codebook.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    contract: UnitContract

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) float32 in [-1, 1] → (T, D) float32. Raises AudioError when shorter than one frame."""

    def n_frames(self, samples: int) -> int:
        """T of a file of so many samples."""


def _log_mel(waveform: np.ndarray) -> np.ndarray:
    import torch

    from textless.units.logmel import log_mel, normalise

    return normalise(log_mel(torch.as_tensor(waveform, dtype=torch.float32))).numpy()


class SignalEncoder:
    """A front end without parameters: `mfcc` (39 at 100 Hz), `logmel` (80 at 100 Hz, normalised), `context_mfcc` (91 at 50 Hz)."""

    sample_rate = mfcc.SAMPLE_RATE

    def __init__(self, name: str) -> None:
        self.encode_one, self.n_frames, self.frame_rate, self.dim = {
            "mfcc": (mfcc.mfcc, mfcc.n_frames, mfcc.FRAME_RATE, mfcc.DIM),
            "logmel": (_log_mel, mfcc.n_frames, mfcc.FRAME_RATE, 80),
            "context_mfcc": (lda.context_mfcc, hubert_frames.n_frames, hubert_frames.FRAME_RATE, lda.DIM),
        }[name]
        self.contract = UnitContract(
            encoder=name, window=0.0, normalisation="none", sample_rate=self.sample_rate, frame_rate=self.frame_rate
        )

    def encode(self, waveform):
        """One waveform (samples,) float32 → frames (T, D) float32; a list → a list."""
        return _one_or_many(self, waveform)


SIGNAL = ("mfcc", "logmel", "context_mfcc")


class HubertEncoder:
    """A HuBERT up to one of its layers."""

    def __init__(self, model, layer: int, *, device: str = "cpu") -> None:
        if not 1 <= layer <= model.config.layers:
            raise ModelError(f"layer {layer} does not exist: the encoder has layers 1 to {model.config.layers}")
        self.model = model.truncate(layer).fold_weight_norm().eval().to(device)
        self.layer = layer
        self.dim = model.config.dim
        self.sample_rate = model.config.sample_rate
        self.frame_rate = hubert_frames.FRAME_RATE
        self.n_frames = hubert_frames.n_frames
        self.contract = UnitContract(
            encoder=encoder_hash(model),
            layer=layer,
            window=0.0,
            normalisation=model.config.normalisation,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return self.model.extract(waveform, self.layer)

    def encode(self, waveform):
        """One waveform (samples,) float32 → frames (T, D) float32; a list → a list. A file's frames never depend on its neighbours."""
        return _one_or_many(self, waveform)


def _one_or_many(encoder: Encoder, waveform):
    if isinstance(waveform, Sequence) and not np.isscalar(waveform[0]):
        return [encoder.encode_one(np.asarray(w)) for w in waveform]
    return encoder.encode_one(np.asarray(waveform, np.float32))


def encoder_hash(model) -> str:
    """sha256 over names and float32 bytes of every parameter that the output depends on, weight norm folded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(from_torch(model.state_dict()).items()):
        if name != "masked_spec_embed":
            digest.update(name.encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()


def save_encoder(folder: Path | str, model) -> None:
    """Write a HuBERT as a model folder."""
    save_model(folder, kind="hubert", config=model.config.to_dict(), tensors=from_torch(model.state_dict()))


def load_encoder(source: Path | str, layer: int | None = None, *, device: str = "cpu") -> Encoder:
    """An encoder.

    Args:
        source: `mfcc`, `logmel`, `context_mfcc`, or a folder of ours (HuBERT, LDA).
        layer: 1-based, the output of that block before any final norm; None is the last. Nothing above it is run.

    Raises:
        ModelError: not an encoder, or no such layer.
    """
    if str(source) in SIGNAL:
        return SignalEncoder(str(source))
    if kind_of(source) == "lda":
        return lda.LdaEncoder.load(source)
    return HubertEncoder(*_load_hubert(source, layer), device=device)


def _load_hubert(source: Path | str, layer: int | None):
    from textless.units.hubert import Hubert, HubertConfig

    config, tensors = load_model(source, kind="hubert")
    try:
        model = Hubert(HubertConfig(**config))
        model.load_state_dict(to_torch(tensors))
    except (TypeError, RuntimeError) as e:
        raise ModelError(f"{source}: weights do not fit the architecture ({str(e).splitlines()[0]})") from None
    return model, model.config.layers if layer is None else layer


class Tokenizer:
    """Encoder and codebook: waveform → units. `contract` is what its units carry."""

    def __init__(self, encoder: Encoder, codebook: Codebook) -> None:
        """Raises ContractError when the codebook was made on frames of another encoder, layer or dimension."""
        if codebook.centroids.shape[1] != encoder.dim:
            raise ContractError(f"the codebook has {codebook.centroids.shape[1]} dimensions but the encoder {encoder.dim}; use a pair")
        self.encoder, self.codebook = encoder, codebook
        self.contract = codebook.contract_for(encoder.contract)

    def encode(self, waveform: np.ndarray) -> Units:
        """(samples,) float32 in [-1, 1] → Units, deduplicated. Raises AudioError when shorter than one frame."""
        return Units.from_frames(self.codebook.predict(self.encoder.encode_one(waveform)), self.contract)


def tokenize(rows: Iterable[Row], tokenizer: Tokenizer) -> Iterator[tuple[Row, UnitRow | AudioError]]:
    """Units of every row, or why there are none, in order; files are decoded ahead in threads."""
    for row, waveform in read_rows(rows):
        if isinstance(waveform, AudioError):
            yield row, waveform
            continue
        try:
            units = tokenizer.encode(waveform)
        except AudioError as e:
            yield row, AudioError(f"{row.path}: {e}")
            continue
        yield (
            row,
            UnitRow(id=row.id, units=units, speaker=row.speaker, source=Path(row.path).name, offset=row.offset, samples=len(waveform)),
        )

"""The unit vocoder: units, speaker and pitch at the frame rate → ConvNeXt trunk → filters → iSTFT (Vocos, Siuzdak 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from textless import model_io as weights
from textless.checks import Between, Count, OneOf, Size, check_fields
from textless.errors import ModelError
from textless.types import UnitContract, Units
from textless.vocoder.backbone import Backbone, FrameConv, initialise, padded, present
from textless.vocoder.base import check_units, index_of, is_one
from textless.vocoder.data import batches, pad
from textless.vocoder.excitation import Excitation
from textless.vocoder.head import SpectrumHead
from textless.vocoder.predictors import (
    F0_BINS,
    DurationPredictor,
    PitchPredictor,
    dequantise_f0,
    predicted_f0,
    quantise_f0,
)

SAMPLE_RATE = 16_000  # Hz, where the contract does not say
QUIET = -4.0  # log-gain that filters begin with


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder.

    Attributes:
        n_units: size of the codebook.
        speakers: names; a speaker's index is its position.
        dim: channels of the trunk.
        ffn_dim: hidden channels of each block's MLP.
        layers: ConvNeXt blocks.
        kernel: of every convolution, frames, odd. An output frame sees (layers + 1) * (kernel - 1) / 2 frames to either side.
        duration_dim: channels of the duration predictor.
        hop: samples of a frame.
        n_fft: of the iSTFT, samples.
        sample_rate: Hz.
        f0: whether the voice is filtered from pulses at a fundamental frequency, given or predicted from the units, and from noise.
        pitch_dim, pitch_layers: of its predictor.
        upsample: always 1; a field of the configurations that versions before 0.2 wrote.
        causal: whether convolutions see the past only.

    Raises ModelError that names a field whose value has another type or makes no sense.
    """

    n_units: Size
    speakers: tuple[str, ...]
    dim: Size
    ffn_dim: Size
    layers: Count
    kernel: Size = 7
    duration_dim: Size = 128
    hop: Annotated[int, Between(1, 2**14)] = 320
    n_fft: Annotated[int, Between(2, 2**16)] = 1280
    sample_rate: Annotated[int, Between(1000, 768_000)] = SAMPLE_RATE
    f0: bool = False
    pitch_dim: Size = 128
    pitch_layers: Count = 3
    upsample: Annotated[int, OneOf(1)] = 1
    causal: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, contract: UnitContract, *, speakers: Sequence[str], preset: str, **fields: Any) -> VocoderConfig:
        """The configuration of a preset for these units, `fields` changed: hop = sample rate / frame rate, n_fft = 4 * hop.

        Raises ModelError for an unknown preset, a contract without n_units or frame rate, and a hop that is not a whole number.
        """
        if preset not in PRESETS:
            raise ModelError(f"no vocoder preset {preset!r}; there are {', '.join(PRESETS)}")
        if contract.n_units is None or contract.frame_rate is None:
            raise ModelError("a vocoder needs the number of units and the frame rate; declare them with --contract")
        sample_rate = contract.sample_rate or SAMPLE_RATE
        hop = round(sample_rate / contract.frame_rate)
        if hop * contract.frame_rate != sample_rate:
            raise ModelError(
                f"{sample_rate} Hz is not a whole number of samples a frame at {contract.frame_rate:g} frames per second"
            )
        return cls(
            n_units=contract.n_units,
            speakers=tuple(speakers),
            hop=hop,
            n_fft=4 * hop,
            sample_rate=sample_rate,
            **{**PRESETS[preset], **fields},
        )


PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "dim": 64,
        "ffn_dim": 192,
        "layers": 4,
        "duration_dim": 64,
        "pitch_dim": 64,
    },  # 0.4 M parameters: smoke tests
    "small": {"dim": 256, "ffn_dim": 768, "layers": 6},  # 3.9 M with F0
    "base": {"dim": 512, "ffn_dim": 1536, "layers": 8},  # 16 M
}


class UnitVocoder(nn.Module):
    """Speech from discrete units, for one or several speakers.

    Args:
        config: the shape.
        contract: of the units that it speaks; n_units and frame rate must be known.

    Raises:
        ModelError: contract and configuration do not fit together, or there is no speaker.
    """

    def __init__(self, config: VocoderConfig, contract: UnitContract):
        super().__init__()
        if contract.n_units != config.n_units:
            raise ModelError(f"the vocoder has {config.n_units} units but its contract {contract.n_units}")
        if contract.frame_rate is None or contract.frame_rate * config.hop != config.sample_rate:
            raise ModelError(
                f"the contract has {contract.frame_rate} frames per second, "
                f"but the vocoder makes {config.hop} samples a frame at {config.sample_rate} Hz"
            )
        if config.n_fft % config.hop or (config.n_fft - config.hop) % 2 or config.kernel % 2 == 0:
            raise ModelError(
                f"n_fft {config.n_fft} must be a multiple of hop {config.hop} and differ from it by an even number, "
                f"and kernel {config.kernel} be odd"
            )
        if not config.speakers or len(set(config.speakers)) != len(config.speakers):
            raise ModelError("a vocoder needs at least one speaker, and each name once")
        self.config, self.contract = config, contract
        n_speakers, n_fft, hop = len(config.speakers), config.n_fft, config.hop
        self.unit_embedding = nn.Embedding(config.n_units, config.dim)
        self.speaker_embedding = nn.Embedding(n_speakers, config.dim)
        self.trunk = Backbone(config.dim, config.ffn_dim, config.layers, config.kernel, causal=config.causal)
        self.head = SpectrumHead(config.dim, n_fft, hop, excited=config.f0)
        initialise(self.trunk)
        initialise(self.head)
        if config.f0:
            self.f0_embedding = nn.Embedding(F0_BINS, config.dim)
            self.excitation = Excitation(n_fft, hop, config.sample_rate)
            self.pitch = PitchPredictor(
                config.n_units, n_speakers, config.pitch_dim, config.pitch_layers, config.kernel, causal=config.causal
            )
            with torch.no_grad():
                self.head.project.bias[: n_fft // 2 + 1] = self.head.project.bias[-(n_fft // 2 + 1) :] = QUIET
        self.durations = DurationPredictor(config.n_units, n_speakers, config.duration_dim)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.config.sample_rate / self.config.hop

    @property
    def n_units(self) -> int:
        return self.config.n_units

    @property
    def speakers(self) -> tuple[str, ...]:
        return self.config.speakers

    def forward(
        self, units: Tensor, speakers: Tensor, lengths: Tensor, f0: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Waveforms of frame units.

        Args:
            units: (B, T) int64, one unit a frame; anything in the codebook after a row's length.
            speakers: (B,) int64.
            lengths: (B,) int64, frames of each row, at most T.
            f0: (B, T) int64, of `quantise_f0`; None = predicted. A vocoder without F0 does not look at it.
            noise: (B,) int64 frame of the noise to begin with; None = 0.

        Returns:
            (B, T * hop) float32, zero after a row's end. A row does not depend on the others, nor on its padding.
        """
        mask = present(lengths, units.shape[1]).float()
        column = mask[..., None]
        sources = ()
        if self.config.f0:
            f0 = (predicted_f0(self.pitch(units, speakers, column)) if f0 is None else f0) * mask.long()
            sources = self._excite(f0, mask, noise)
        x = self.embed(units, speakers, f0)
        column = column.to(x.dtype)
        x = self.trunk(x * column, column)
        return self.head(x, mask, *sources)

    def embed(self, units: Tensor, speakers: Tensor, f0: Tensor | None) -> Tensor:
        """What the trunk sees of (B, T) frames: (B, T, dim), in its precision."""
        x = self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]
        x = x + self.f0_embedding(f0) if self.config.f0 else x
        return x.to(self.trunk.enter.weight.dtype)

    def _excite(self, f0: Tensor, mask: Tensor, noise: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        source, rows = self.excitation, len(f0)
        samples, _ = source.pulses(
            padded(dequantise_f0(f0), source.f0_sides), torch.zeros(rows, dtype=torch.float64, device=f0.device)
        )
        samples = samples * mask.repeat_interleave(self.config.hop, 1)
        first = torch.zeros(rows, dtype=torch.int64, device=f0.device) if noise is None else noise
        beyond = (source.sides[0] * source.hop, source.sides[1] * source.hop)
        return source.spectra(padded(samples, beyond)), source.noise(first, f0.shape[1])

    def resynth(
        self,
        units: Units | np.ndarray | Sequence[Any],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        f0: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Speak units.

        Args:
            units: Units or (N,) integers, or a list of those. A bare array is taken literally: each unit is one frame, or has
                a duration of its own if durations are predicted.
            speaker: name or index; None is the first. A string that is a name and a number is the name, an integer that is both the
                index.
            durations: "given": those of the units, one frame each where there are none. "predict": predicted from the units,
                for Units with their runs joined: max(1, round(exp(d))) frames, d the predicted log-duration.
            f0: fundamental frequency to follow, (frames,) Hz, 0 where unvoiced (see `track_f0`), or a list of those; None is predicted.

        Returns:
            (frames * hop,) float32 at `sample_rate`, or a list of them.

        Raises:
            ContractError: units of another kind, or outside the codebook.
            ModelError: no units, no such speaker, or an F0 of another length or for a vocoder without it.
        """
        one = is_one(units)
        if durations not in ("given", "predict"):
            raise ModelError(f'durations must be "given" or "predict", not {durations!r}')
        index = self.speaker_index(speaker)
        rows = [self.checked(u) for u in ([units] if one else units)]
        if durations == "predict":
            joined = [
                u.deduplicated().units if isinstance(given, Units) else u.units
                for u, given in zip(rows, [units] if one else units, strict=True)
            ]
            frames = [
                np.repeat(u, d) for u, d in zip(joined, self.predict_durations(joined, speaker=index), strict=True)
            ]
        else:
            frames = [u.frames() for u in rows]
        waveforms = self._speak(frames, index, None if f0 is None else self._checked_f0([f0] if one else f0, frames))
        return waveforms[0] if one else waveforms

    def stream(
        self, pieces: Iterable[Units | np.ndarray], *, speaker: str | int | None = None, durations: str = "given"
    ) -> Iterator[np.ndarray]:
        """Speak one row of units while it comes.

        Args:
            pieces: of the row, in order, such as what `UnitDecoder.stream` yields.
            speaker, durations: as for `resynth`.

        Yields:
            (samples,) float32, together what `resynth` makes of the whole row, to 1e-5. A sample comes when the units of `look_ahead`
            seconds after it are there; memory does not grow.

        Raises:
            ContractError, ModelError: as `resynth`.
        """
        from textless.vocoder.stream import stream

        return stream(self, pieces, speaker=speaker, durations=durations)

    @property
    def look_ahead(self) -> float:
        """Seconds of units after a sample that `stream` waits for, predicted durations apart, which look two units ahead."""
        config = self.config
        frames = [m.sides[1] for m in self.trunk.modules() if isinstance(m, FrameConv)]
        istft, pitch, source = self.head.istft.sides[1], 0, 0
        if config.f0:
            pitch = sum(m.sides[1] for m in self.pitch.modules() if isinstance(m, FrameConv))
            source = self.excitation.f0_sides[1] + self.excitation.sides[1] + istft
        return (pitch + max(sum(frames) + istft, source) + 1) / self.frame_rate

    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit: max(1, round(exp(d))).

        Args:
            units: sequences (N,) int64 in the codebook, runs already joined.

        Returns:
            a list of (N,) int64.
        """
        index, result = self.speaker_index(speaker), [np.zeros(0, np.int64)] * len(units)
        for rows in batches([len(u) for u in units]):
            batch, lengths = (x.to(self._device) for x in pad([units[i] for i in rows]))
            with torch.inference_mode():
                predicted = self.durations(batch, torch.full_like(lengths, index), lengths)
                predicted = predicted.exp().round().clamp(min=1).long().cpu().numpy()
            for i, row in zip(rows, predicted, strict=True):
                result[i] = row[: len(units[i])]
        return result

    @torch.inference_mode()
    def predict_f0(self, units: np.ndarray, *, speaker: str | int | None = None) -> np.ndarray:
        """The fundamental frequency that frame units are spoken with where none is given: (T,) int64 → (T,) float32 Hz, 0 unvoiced."""
        rows = torch.from_numpy(np.asarray(units, np.int64))[None].to(self._device)
        index = torch.tensor([self.speaker_index(speaker)], device=self._device)
        steps = predicted_f0(self.pitch(rows, index, torch.ones(*rows.shape, 1, device=self._device)))
        return dequantise_f0(steps)[0].float().cpu().numpy()

    def speaker_index(self, speaker: str | int | None) -> int:
        """Position of a speaker, given by name or index; see `base.index_of`. Raises ModelError for one that is not there."""
        return index_of("speaker", speaker, self.speakers)

    def lower(self) -> UnitVocoder:
        """Trunk and filters in bfloat16 from here on: several times as fast on a CPU with matrix units for it. F0 is what it was."""
        self.trunk.to(torch.bfloat16)
        self.head.project.to(torch.bfloat16)
        return self

    def save(self, folder: Path | str) -> None:
        """Write a model folder (kind `vocoder`) that `load_vocoder` reads."""
        config = {**asdict(self.config), "contract": self.contract.to_dict()}
        weights.save_model(folder, kind="vocoder", config=config, tensors=weights.from_torch(self.state_dict()))

    @property
    def _device(self) -> torch.device:
        return self.unit_embedding.weight.device

    def checked(self, units: Any) -> Units:
        """Units, or a bare array of them, as Units of this vocoder. Raises ContractError and ModelError as `resynth` does."""
        return check_units(units, self.contract, self.n_units)

    def _checked_f0(self, f0: Any, frames: list[np.ndarray]) -> list[np.ndarray]:
        if not self.config.f0:
            raise ModelError("this vocoder was trained without F0, and cannot follow one")
        try:
            f0 = [np.asarray(row, np.float32) for row in f0]
        except (TypeError, ValueError):
            raise ModelError("F0 must be (frames,) numbers, or a list of those") from None
        if [row.shape for row in f0] != [row.shape for row in frames]:
            given, wanted = ([len(r) if r.ndim else 0 for r in rows] for rows in (f0, frames))
            rate = sum(given) / max(1, sum(wanted)) * self.frame_rate
            raise ModelError(
                f"F0 has {given} frames, but the units {wanted} ({rate:.4g} a second to {self.frame_rate:g}); one value a frame is needed"
            )
        if not all(np.isfinite(row).all() and (row >= 0).all() for row in f0):
            raise ModelError("F0 must be in Hz, and 0 where there is no voice")
        return [quantise_f0(torch.from_numpy(row)).numpy() for row in f0]

    @torch.inference_mode()
    def _speak(self, frames: list[np.ndarray], speaker: int, f0: list[np.ndarray] | None) -> list[np.ndarray]:
        result = [np.zeros(0, np.float32)] * len(frames)
        for rows in batches([len(f) for f in frames]):
            units, lengths = (x.to(self._device) for x in pad([frames[i] for i in rows]))
            pitch = None if f0 is None else pad([f0[i] for i in rows])[0].to(self._device)
            audio = self(units, torch.full_like(lengths, speaker), lengths, pitch).cpu().numpy()
            for i, row in zip(rows, audio, strict=True):
                result[i] = row[: len(frames[i]) * self.config.hop].copy()
        return result

"""The unit vocoder: units, speaker and F0 at the frame rate → ConvNeXt backbone → filters → iSTFT.

After Vocos (Siuzdak 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from textless import model_io as weights
from textless.audio.pitch import mean_octaves, pitch_hz
from textless.checks import Between, Count, OneOf, Size, check, check_fields, read_fields
from textless.devices import dtype_of
from textless.errors import ContractError, ModelError
from textless.types import UnitContract, Units, UnitsLike
from textless.vocoder.backbone import Backbone, FrameConv, initialise, padded, present
from textless.vocoder.base import BaseVocoder, check_durations
from textless.vocoder.data import batches, pad
from textless.vocoder.excitation import Excitation
from textless.vocoder.head import Sources, SpectrumHead
from textless.vocoder.predictors import (
    F0_BINS,
    MIDDLE,
    DurationPredictor,
    PitchPredictor,
    dequantise_f0,
    predicted_f0,
    quantise_f0,
)

if TYPE_CHECKING:
    from textless.types import StreamingVocoder

SAMPLE_RATE = 16_000  # Hz, where the contract does not say
QUIET = -4.0  # log-gain that filters begin with


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder.

    Attributes:
        n_units: size of the codebook.
        speakers: names; a speaker's index is its position.
        dim: channels of the backbone.
        ffn_dim: hidden channels of each block's MLP (Vocos: 3 * dim).
        layers: ConvNeXt blocks (Vocos: 8).
        kernel: of every convolution, frames, odd (Vocos: 7). An output frame sees (layers + 1) * (kernel - 1) / 2
            frames to either side.
        duration_dim: channels of the duration predictor (FastSpeech 2, Ren 2021).
        hop: samples of a frame; 320 is HuBERT's 20 ms at 16 kHz.
        n_fft: window of the iSTFT, samples; a multiple of `hop` (Vocos: 4 * hop).
        sample_rate: Hz.
        f0: whether the voice is filtered from pulses and noise (HiFTNet, Li 2023), the pulses at a fundamental
            frequency from 60 to 550 Hz in steps of 25 cents (see `quantise_f0`), given or predicted from the units.
            Without it there are no pulses.
        pitch_dim, pitch_layers: channels and ConvNeXt blocks of the F0 predictor; its MLPs have 3 * pitch_dim.
        upsample: always 1; a field of the configurations that versions before 0.2 wrote.
        causal: whether convolutions see the past only, so that `stream` waits for 0.14 s of units at 50 Hz with F0,
            0.06 s without.

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
        """The configuration of a preset for these units, `fields` changed.

        hop = sample rate / frame rate, n_fft = 4 * hop.

        Raises ModelError for an unknown preset, a contract without n_units or frame rate, and a hop that is not a whole
        number.
        """
        if preset not in PRESETS:
            raise ModelError(f"no vocoder preset {preset!r}; there are {', '.join(PRESETS)}")
        if contract.n_units is None or contract.frame_rate is None:
            raise ModelError("a vocoder needs the number of units and the frame rate; declare them with --contract")
        sample_rate = contract.sample_rate or SAMPLE_RATE
        hop = round(sample_rate / contract.frame_rate)
        if hop * contract.frame_rate != sample_rate:
            raise ModelError(
                f"{sample_rate} Hz is not a whole number of samples a frame "
                f"at {contract.frame_rate:g} frames per second"
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


class UnitVocoder(BaseVocoder):
    """Speech from discrete units, for one or several speakers.

    `f0` of `resynth` is (frames,) Hz, 0 where unvoiced (see `track_f0`). Its contract has no pitch: the pitch of units
    is followed whatever it is relative to.

    Args:
        config: the shape.
        contract: of the units that it speaks; n_units and frame rate must be known.

    Raises:
        ModelError: contract and configuration do not fit together, or there is no speaker.
    """

    def __init__(self, config: VocoderConfig, contract: UnitContract):
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
        super().__init__(
            contract.with_(pitch=None),
            n_units=config.n_units,
            sample_rate=config.sample_rate,
            hop=config.hop,
            speakers=config.speakers,
        )
        self.config, n_speakers = config, len(config.speakers)
        self.unit_embedding = nn.Embedding(config.n_units, config.dim)
        self.speaker_embedding = nn.Embedding(n_speakers, config.dim)
        self.trunk = Backbone(config.dim, config.ffn_dim, config.layers, config.kernel, causal=config.causal)
        self.head = SpectrumHead(config.dim, config.n_fft, config.hop, excited=config.f0)
        initialise(self.trunk)
        initialise(self.head)
        if config.f0:
            self.f0_embedding = nn.Embedding(F0_BINS, config.dim)
            self.excitation = Excitation(config.n_fft, config.hop, config.sample_rate)
            self.pitch = PitchPredictor(
                config.n_units, n_speakers, config.pitch_dim, config.pitch_layers, config.kernel, causal=config.causal
            )
            bins = config.n_fft // 2 + 1
            with torch.no_grad():
                self.head.project.bias[:bins] = self.head.project.bias[-bins:] = QUIET
        self.durations = DurationPredictor(config.n_units, n_speakers, config.duration_dim)

    def forward(
        self, units: Tensor, speakers: Tensor, lengths: Tensor, f0: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Waveforms of frame units.

        Args:
            units: (B, T) int64, one unit a frame; anything in the codebook after a row's length.
            speakers: (B,) int64.
            lengths: (B,) int64, frames of each row, at most T.
            f0: (B, T) int64, of `quantise_f0`; None = predicted. Ignored by a vocoder without F0.
            noise: (B,) int64 first frame of the noise (see `Excitation.noise`); None = 0.

        Returns:
            (B, T * hop) float32, zero after a row's end. A row does not depend on the others, nor on its padding.
        """
        mask = present(lengths, units.shape[1]).float()
        column = mask[..., None]
        sources: Sources | None = None
        if self.config.f0:
            f0 = (predicted_f0(self.pitch(units, speakers, column)) if f0 is None else f0) * mask.long()
            sources = self._excite(f0, mask, noise)
        x = self.embed(units, speakers, f0)
        column = column.to(x.dtype)
        x = self.trunk(x * column, column)
        return self.head(x, mask, sources)

    def embed(self, units: Tensor, speakers: Tensor, f0: Tensor | None) -> Tensor:
        """Input of the backbone for (B, T) frames: (B, T, dim), in its precision."""
        x = self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]
        x = x + self.f0_embedding(f0) if self.config.f0 else x
        return x.to(self.trunk.enter.weight.dtype)

    def _excite(self, f0: Tensor, mask: Tensor, noise: Tensor | None) -> Sources:
        source, rows = self.excitation, len(f0)
        samples, _ = source.pulses(
            padded(dequantise_f0(f0), source.f0_sides), torch.zeros(rows, dtype=torch.float64, device=f0.device)
        )
        samples = samples * mask.repeat_interleave(self.config.hop, 1)
        first = torch.zeros(rows, dtype=torch.int64, device=f0.device) if noise is None else noise
        beyond = (source.sides[0] * source.hop, source.sides[1] * source.hop)
        return source.spectra(padded(samples, beyond)), source.noise(first, f0.shape[1])

    def stream(
        self,
        pieces: Iterable[UnitsLike],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        style: str | int | None = None,
        level: str | None = None,
    ) -> Iterator[np.ndarray]:
        """Speak one row of units while it comes.

        Args:
            pieces: of the row, in order, such as what `UnitDecoder.stream` yields.
            speaker, durations, style, level: as for `resynth`; the level `peak` is refused.

        Yields:
            (samples,) float32; concatenated, what `resynth` makes of the whole row, to 1e-5. A sample is yielded once
            the units of the `look_ahead` seconds after it have come; memory does not grow.

        Raises:
            ContractError, ModelError: as `resynth`.
        """
        from textless.vocoder.stream import Durations, Lengths, Speaking, stream

        check_durations(durations)
        self._level(level, stream=True)
        self.style_index(style)
        lengths = Lengths(Durations(self, speaker=speaker)) if durations == "predict" else None
        return stream(self, pieces, Speaking(self, speaker=speaker), lengths)

    @property
    def look_ahead(self) -> float:
        """Seconds of units after a sample that `stream` waits for; predicted durations wait for two more units."""
        config = self.config
        frames = [m.sides[1] for m in self.trunk.modules() if isinstance(m, FrameConv)]
        istft, pitch, source = self.head.istft.sides[1], 0, 0
        if config.f0:
            pitch = sum(m.sides[1] for m in self.pitch.modules() if isinstance(m, FrameConv))
            source = self.excitation.f0_sides[1] + self.excitation.sides[1] + istft
        return (pitch + max(sum(frames) + istft, source) + 1) / self.frame_rate

    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit: max(1, round(exp(d))), d the predicted log-duration.

        A list of (N,) int64, runs already joined → a list of (N,) int64.
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
        """F0 that frame units are spoken with if none is passed: (T,) int64 → (T,) float32 Hz, 0 where unvoiced."""
        rows = torch.from_numpy(np.asarray(units, np.int64))[None].to(self._device)
        index = torch.tensor([self.speaker_index(speaker)], device=self._device)
        steps = predicted_f0(self.pitch(rows, index, torch.ones(*rows.shape, 1, device=self._device)))
        return dequantise_f0(steps)[0].float().cpu().numpy()

    def lower(self) -> UnitVocoder:
        """Convert backbone and filters to bfloat16, several times as fast on a CPU with matrix units for it.

        F0 is unchanged.
        """
        self.trunk.to(torch.bfloat16)
        self.head.project.to(torch.bfloat16)
        return self

    def save(self, folder: Path | str) -> None:
        """Write a model folder (kind `vocoder`) that `load_vocoder` reads."""
        config = {**asdict(self.config), "contract": self.contract.to_dict()}
        weights.save_model(folder, kind="vocoder", config=config, tensors=weights.from_torch(self.state_dict()))

    def _melody(self, rows: Sequence[Units], speaker: int) -> list[np.ndarray] | None:
        """Each unit's pitch above the level of the voice, which is the mean of the contour that it predicts for the
        row; of rows without pitch that contour."""
        if not self.config.f0 or all(units.pitch is None for units in rows):
            return super()._melody(rows, speaker)
        contours = []
        for units in rows:
            f0, pitch = self.predict_f0(units.frames(), speaker=speaker), units.pitch_frames()
            level = mean_octaves([f0]) if f0.any() else math.log2(MIDDLE)
            contours.append(f0 if pitch is None else pitch_hz(pitch, level))
        return contours

    @property
    def _device(self) -> torch.device:
        return self.unit_embedding.weight.device

    def _contours(
        self, f0: Sequence[np.ndarray] | None, frames: list[np.ndarray], speaker: int
    ) -> list[np.ndarray] | None:
        """(T,) int64 of `quantise_f0` of each row, or None for F0 that is predicted."""
        if f0 is None or not self.config.f0:
            return super()._contours(f0, frames, speaker)
        try:
            rows = [np.asarray(row, np.float32) for row in f0]
        except (TypeError, ValueError):
            raise ModelError("F0 must be (frames,) numbers, or a list of those") from None
        if [row.shape for row in rows] != [row.shape for row in frames]:
            lengths, expected = ([len(r) if r.ndim else 0 for r in group] for group in (rows, frames))
            rate = sum(lengths) / max(1, sum(expected)) * self.frame_rate
            raise ModelError(
                f"F0 has {lengths} frames, but the units {expected} ({rate:.4g} a second to {self.frame_rate:g}); "
                "one value a frame is needed"
            )
        highest = self.sample_rate / 2
        if not all(((row >= 0) & (row <= highest)).all() for row in rows):
            raise ModelError(f"F0 must be in Hz, up to {highest:g}, and 0 where unvoiced")
        return [quantise_f0(torch.from_numpy(row)).numpy() for row in rows]

    @torch.inference_mode()
    def _speak(
        self, frames: list[np.ndarray], contours: list[np.ndarray] | None, speaker: int, style: int
    ) -> list[np.ndarray]:
        result = [np.zeros(0, np.float32)] * len(frames)
        for rows in batches([len(f) for f in frames]):
            units, lengths = (x.to(self._device) for x in pad([frames[i] for i in rows]))
            f0 = None if contours is None else pad([contours[i] for i in rows])[0].to(self._device)
            audio = self(units, torch.full_like(lengths, speaker), lengths, f0).cpu().numpy()
            for i, row in zip(rows, audio, strict=True):
                result[i] = row[: len(frames[i]) * self.hop].copy()
        return result


if TYPE_CHECKING:
    _CONTRACT: type[StreamingVocoder] = UnitVocoder  # that mypy compares the two


def load_unit_vocoder(folder: Path | str, *, precision: str = "fp32") -> UnitVocoder:
    """Read a folder that `UnitVocoder.save` wrote; see `load_vocoder`. Raises ModelError."""
    dtype = dtype_of(precision)
    entries, tensors = weights.load_model(folder, kind="vocoder")
    place = Path(folder) / weights.CONFIG
    try:
        contract = UnitContract.from_dict(check(entries.pop("contract", {}), dict, f"{place}: contract"))
        config = read_fields(VocoderConfig, entries, str(place))
    except ContractError as e:
        raise ModelError(f"{place}: {e}") from None
    weights.check_blocks(folder, "layers", config.layers, tensors, "trunk.blocks.")
    if config.f0:
        weights.check_blocks(folder, "pitch_layers", config.pitch_layers, tensors, "pitch.trunk.blocks.")
    try:
        with torch.device("meta"):  # of any size at once
            empty = UnitVocoder(config, contract)
    except ModelError as e:
        raise ModelError(f"{place}: {e}") from None
    weights.check_shapes(folder, empty.state_dict(), {name: t.shape for name, t in tensors.items()})
    model = UnitVocoder(config, contract)
    model.load_state_dict(weights.to_torch(tensors))
    return model.eval().lower() if dtype == torch.bfloat16 else model.eval()

"""The unit vocoder: units at the frame rate → ConvNeXt trunk → magnitude and phase → iSTFT (Vocos, Siuzdak 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textless import weights
from textless.errors import ContractError, ModelError
from textless.units.types import UnitContract, Units
from textless.vocoder.duration import DurationPredictor
from textless.vocoder.istft import ISTFT

SAMPLE_RATE = 16_000  # Hz, where the contract does not say
BATCH_FRAMES = 12_000  # frames (4 minutes at 50 Hz) that are synthesised at once, padding included


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder.

    Attributes:
        n_units: size of the codebook.
        speakers: names; a speaker's index is its position.
        dim: channels of the trunk.
        ffn_dim: hidden channels of each block's MLP.
        layers: ConvNeXt blocks.
        kernel: of every convolution of the trunk, frames, odd. An output frame sees (layers + 1) * (kernel - 1) / 2 frames to
            either side, and the iSTFT one or two more.
        duration_dim: channels of the duration predictor.
        hop: samples of a frame.
        n_fft: of the iSTFT, samples.
        sample_rate: Hz.
    """

    n_units: int
    speakers: tuple[str, ...]
    dim: int
    ffn_dim: int
    layers: int
    kernel: int = 7
    duration_dim: int = 128
    hop: int = 320
    n_fft: int = 1280
    sample_rate: int = SAMPLE_RATE

    @classmethod
    def of(cls, contract: UnitContract, *, speakers: Sequence[str], preset: str) -> VocoderConfig:
        """The configuration of a preset for these units: hop = sample rate / frame rate, n_fft = 4 * hop.

        Raises ModelError for an unknown preset, a contract without n_units or frame rate, and a hop that is not a whole number.
        """
        if preset not in PRESETS:
            raise ModelError(f"no vocoder preset {preset!r}; there are {', '.join(PRESETS)}")
        if contract.n_units is None or contract.frame_rate is None:
            raise ModelError("a vocoder needs the number of units and the frame rate; declare them with --contract")
        sample_rate = contract.sample_rate or SAMPLE_RATE
        hop = round(sample_rate / contract.frame_rate)
        if hop * contract.frame_rate != sample_rate:
            raise ModelError(f"{sample_rate} Hz is not a whole number of samples a frame at {contract.frame_rate:g} frames per second")
        return cls(
            n_units=contract.n_units,
            speakers=tuple(speakers),
            hop=hop,
            n_fft=4 * hop,
            sample_rate=sample_rate,
            **PRESETS[preset],
        )


PRESETS: dict[str, dict[str, int]] = {
    "nano": {"dim": 64, "ffn_dim": 192, "layers": 4, "duration_dim": 64},  # 0.3 M parameters: smoke tests
    "small": {"dim": 256, "ffn_dim": 768, "layers": 8, "duration_dim": 128},  # 4.1 M
}


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, MLP with GELU, layer scale, residual (Liu 2022, in one dimension as in Vocos).

    Shape: (B, T, dim), mask (B, T, 1) → (B, T, dim), zero where the mask is.
    """

    def __init__(self, dim: int, ffn_dim: int, kernel: int, scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Linear(dim, ffn_dim)
        self.narrow = nn.Linear(ffn_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        y = self.narrow(F.gelu(self.widen(self.norm(y))))
        return (x + self.scale * y) * mask


class Trunk(nn.Module):
    """Convolution, LayerNorm, ConvNeXt blocks, LayerNorm; all at the frame rate, nothing normalised over time or batch.

    Shape: (B, T, dim) zero where the mask is, mask (B, T, 1) → (B, T, dim).
    """

    def __init__(self, dim: int, ffn_dim: int, layers: int, kernel: int):
        super().__init__()
        self.enter = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.enter_norm = nn.LayerNorm(dim, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim, ffn_dim, kernel, scale=1 / layers) for _ in range(layers))
        self.leave_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.enter_norm(self.enter(x.transpose(1, 2)).transpose(1, 2)) * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.leave_norm(x)


class SpectrumHead(nn.Module):
    """Log-magnitude and phase of each frame, then the iSTFT (Vocos, section 3.2): any real number is a phase, cos and sin wrap it.

    Shape: (B, T, dim), mask (B, T) → (B, T * hop).
    """

    def __init__(self, dim: int, n_fft: int, hop: int):
        super().__init__()
        self.project = nn.Linear(dim, n_fft + 2)
        self.istft = ISTFT(n_fft, hop)
        # Vocos clips at 1e2; a sine of full scale has n_fft / 4 under the Hann window, and nothing sensible is louder.
        self.loudest = float(np.log(n_fft / 4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        log_magnitude, phase = self.project(x).float().chunk(2, -1)
        magnitude = torch.exp(log_magnitude.clamp(max=self.loudest))
        return self.istft(torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase)), mask)


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
        self.unit_embedding = nn.Embedding(config.n_units, config.dim)
        self.speaker_embedding = nn.Embedding(len(config.speakers), config.dim)
        self.trunk = Trunk(config.dim, config.ffn_dim, config.layers, config.kernel)
        self.head = SpectrumHead(config.dim, config.n_fft, config.hop)
        self.durations = DurationPredictor(config.n_units, len(config.speakers), config.duration_dim)
        for module in (self.trunk, self.head):
            for part in module.modules():
                if isinstance(part, nn.Conv1d | nn.Linear):
                    nn.init.trunc_normal_(part.weight, std=0.02)
                    nn.init.zeros_(part.bias)

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

    def forward(self, units: Tensor, speakers: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms of frame units.

        Args:
            units: (B, T) int64, one unit a frame; anything in the codebook after a row's length.
            speakers: (B,) int64.
            lengths: (B,) int64, frames of each row, at most T.

        Returns:
            (B, T * hop) float32, zero after a row's end. A row does not depend on the others, nor on its padding.
        """
        mask = (torch.arange(units.shape[1], device=units.device) < lengths[:, None]).to(torch.float32)
        x = (self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]) * mask[..., None]
        return self.head(self.trunk(x, mask[..., None]), mask)

    def resynth(
        self,
        units: Units | np.ndarray | Sequence[Any],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
    ) -> np.ndarray | list[np.ndarray]:
        """Speak units.

        Args:
            units: Units or (N,) integers, or a list of those. A bare array is taken literally: each unit is one frame, or has
                a duration of its own if durations are predicted.
            speaker: name or index; None is the first.
            durations: "given": those of the units, one frame each where there are none. "predict": predicted from the units,
                for Units with their runs joined: max(1, round(exp(d))) frames, d the predicted log-duration.

        Returns:
            (frames * hop,) float32 at `sample_rate`, or a list of them.

        Raises:
            ContractError: units of another kind, or outside the codebook.
            ModelError: no units, or no such speaker.
        """
        one = isinstance(units, Units | np.ndarray) or not units or isinstance(units[0], int | np.integer)
        if durations not in ("given", "predict"):
            raise ModelError(f'durations must be "given" or "predict", not {durations!r}')
        index = self.speaker_index(speaker)
        rows = [self._checked(u) for u in ([units] if one else units)]
        if durations == "predict":
            joined = [
                u.deduplicated().units if isinstance(given, Units) else u.units
                for u, given in zip(rows, [units] if one else units, strict=True)
            ]
            frames = [np.repeat(u, d) for u, d in zip(joined, self.predict_durations(joined, speaker=index), strict=True)]
        else:
            frames = [u.frames() for u in rows]
        waveforms = self._speak(frames, index)
        return waveforms[0] if one else waveforms

    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit: max(1, round(exp(d))).

        Args:
            units: sequences (N,) int64 in the codebook, runs already joined.

        Returns:
            a list of (N,) int64.
        """
        index, result = self.speaker_index(speaker), [np.zeros(0, np.int64)] * len(units)
        for rows in _batches([len(u) for u in units]):
            batch, lengths = _pad([units[i] for i in rows], self._device)
            with torch.inference_mode():
                predicted = self.durations(batch, torch.full_like(lengths, index), lengths)
                predicted = predicted.exp().round().clamp(min=1).long().cpu().numpy()
            for i, row in zip(rows, predicted, strict=True):
                result[i] = row[: len(units[i])]
        return result

    def speaker_index(self, speaker: str | int | None) -> int:
        """Position of a speaker, given by name or index; None is the first. Raises ModelError for one that is not there."""
        names = self.speakers
        if speaker is None:
            return 0
        if isinstance(speaker, str) and speaker in names:
            return names.index(speaker)
        if isinstance(speaker, int | np.integer) and 0 <= speaker < len(names):
            return int(speaker)
        shown = ", ".join(names[:20]) + (f" … ({len(names)} in all)" if len(names) > 20 else "")
        raise ModelError(f"the vocoder has no speaker {speaker!r}; it has {shown}, or 0 to {len(names) - 1}")

    def save(self, folder: Path | str) -> None:
        """Write a model folder (kind `vocoder`) that `load_vocoder` reads."""
        config = {**asdict(self.config), "contract": self.contract.to_dict()}
        weights.save_model(folder, kind="vocoder", config=config, tensors=weights.from_torch(self.state_dict()))

    @property
    def _device(self) -> torch.device:
        return self.unit_embedding.weight.device

    def _checked(self, units: Any) -> Units:
        if isinstance(units, Units):
            self.contract.check(units.contract, mine="the vocoder", theirs="the units")
            if len(units) and units.units.max() >= self.n_units:
                raise ContractError(f"unit {units.units.max()} is outside the vocoder's codebook of {self.n_units} units")
        else:
            units = Units.of(units, self.contract)
        if not len(units):
            raise ModelError("there are no units to speak")
        return units

    @torch.inference_mode()
    def _speak(self, frames: list[np.ndarray], speaker: int) -> list[np.ndarray]:
        result = [np.zeros(0, np.float32)] * len(frames)
        for rows in _batches([len(f) for f in frames]):
            units, lengths = _pad([frames[i] for i in rows], self._device)
            audio = self(units, torch.full_like(lengths, speaker), lengths).cpu().numpy()
            for i, row in zip(rows, audio, strict=True):
                result[i] = row[: len(frames[i]) * self.config.hop].copy()
        return result


def load_vocoder(path: Path | str) -> UnitVocoder:
    """Read a model folder written by `UnitVocoder.save`, ready for `resynth`.

    Raises ModelError when the folder is missing, damaged, or holds something else.
    """
    config, tensors = weights.load_model(path, kind="vocoder")
    contract = UnitContract.from_dict(config.pop("contract", {}))
    if unknown := sorted(set(config) - {f.name for f in fields(VocoderConfig)}):
        raise ModelError(f"{path}: unknown fields {', '.join(unknown)}; was it written by a newer textless?")
    try:
        model = UnitVocoder(VocoderConfig(**{**config, "speakers": tuple(config["speakers"])}), contract)
        model.load_state_dict(weights.to_torch(tensors))
    except (KeyError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: configuration and weights do not fit together ({' '.join(str(e).split())[:200]})") from None
    return model.eval()


def _pad(rows: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (N_i,) as (B, max N) int64 with zeros after each, and their lengths (B,) int64."""
    lengths = torch.tensor([len(r) for r in rows])
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(r, np.int64)) for r in rows], batch_first=True)
    return padded.to(device), lengths.to(device)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in batches of like lengths whose padded size stays below BATCH_FRAMES; a longer row stands alone."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= BATCH_FRAMES:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches

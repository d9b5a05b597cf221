"""Published unit HiFi-GANs: `config.json` and a checkpoint, from speech-resynthesis, fairseq or textlesslib.

The generator is HiFi-GAN's on embeddings instead of spectra (Polyak et al. 2021, arXiv:2104.00355). Each frame's input
is, in this order: its unit, F0, speaker, style (Nguyen et al. 2023, arXiv:2308.05725).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.devices import dtype_of
from textless.errors import ModelError
from textless.model_io import read_json
from textless.pickles import load_torch, plain
from textless.types import UnitContract, Units, UnitsLike
from textless.vocoder.base import BaseVocoder, check_durations
from textless.vocoder.hifigan.checkpoint import Settings, Weights
from textless.vocoder.hifigan.generator import Generator
from textless.vocoder.stream import Lengths, Overlapped, stream

TOGETHER = 25  # frames that `stream` computes at a time: with the frames around them three times the work of a row
F0_RATE = 200  # values a second that the published F0 quantisers were trained on (YAAPT every 5 ms)
LARGEST = 20.0  # normalised F0 is never larger, F0 in Hz never smaller
Statistics = dict[Any, tuple[float, float]]  # mean and deviation of F0, Hz, by speaker; None for all others
UNSUPPORTED = {
    "embedder_params": "speakers are given as vectors of an embedder",
    "lambda_commit_code": "its units are of its own VQ-VAE",
    "lambda_commit": "its F0 encoder was trained with it",
    "f0_feats": "statistics of F0 are an input",
    "f0_median": "unvoiced frames have the median F0",
    "num_f0_tokens": "F0 is given as tokens",
    "num_style_tokens": "style is given as tokens",
}


class PublishedDurations(nn.Module):
    """Frames of each unit of a sequence without repetitions, from the units' embeddings.

    Lee et al. 2022, arXiv:2107.05604, section 3.3: FastSpeech 2's predictor, trained to d = log(frames + 1);
    `DurationPredictor` is trained to log(frames).

    Shape: (N, dim) → (N,) int64, max(1, round(exp(d) - 1)).
    """

    halo = 2  # units to either side that a duration depends on, one for each convolution

    def __init__(self, weights: Weights, dim: int, hidden: int) -> None:
        super().__init__()
        sizes = ((1, dim), (2, hidden))
        self.convolutions = nn.ModuleList(
            weights.fill(f"dur_predictor.conv{i}.0", nn.Conv1d, n, hidden, 3, padding=1) for i, n in sizes
        )
        self.norms = nn.ModuleList(weights.fill(f"dur_predictor.ln{i}", nn.LayerNorm, hidden) for i, _ in sizes)
        self.project = weights.fill("dur_predictor.proj", nn.Linear, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(F.relu(convolution(x.T[None])[0].T))
        return (self.project(x)[:, 0].exp() - 1).round().clamp(min=1).long()


class F0Codes(nn.Module):
    """A contour of F0 → embeddings of the codes nearest to its encoding, one per `stride` values.

    Polyak et al. 2021, section 2.1. The encoder is Jukebox's (Dhariwal et al. 2020, arXiv:2005.00341, appendix B.1)
    with one level.

    Shape: (T,) with T a multiple of `stride` → (T / stride, dim).
    """

    codes: Tensor

    def __init__(self, settings: Settings, weights: Weights, dim: int) -> None:
        super().__init__()
        encoder, codes = settings.inner("f0_encoder_params"), settings.inner("f0_vq_params").whole("l_bins")
        width, depth, growth = encoder.whole("width"), encoder.whole("depth"), encoder.whole("dilation_growth_rate")
        (steps, *others), (step, *more), out = (
            encoder.wholes("downs_t"),
            encoder.wholes("strides_t"),
            encoder.whole("output_emb_width"),
        )
        if others or more or step % 2 or max(steps, step, depth, growth) > 8:  # 4, 2, 4 and 3 in all published ones
            raise settings.error("has an f0_quantizer of several levels, odd strides or unusual size; not supported")
        self.stride, name = step**steps, "quantizer.encoder.level_blocks.0.model"
        self.downs, self.dilated, self.pointwise = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i in range(steps):
            self.downs.append(
                weights.fill(f"{name}.{i}.0", nn.Conv1d, width if i else 1, width, 2 * step, step, step // 2)
            )
            layers = [(f"{name}.{i}.1.model.{j}.model", growth**j) for j in range(depth)]
            dilated = [weights.fill(f"{n}.1", nn.Conv1d, width, width, 3, padding=d, dilation=d) for n, d in layers]
            self.dilated.append(nn.ModuleList(dilated))
            self.pointwise.append(nn.ModuleList(weights.fill(f"{n}.3", nn.Conv1d, width, width, 1) for n, _ in layers))
        self.last = weights.fill(f"{name}.{steps}", nn.Conv1d, width, out, 3, padding=1)
        self.register_buffer("codes", weights.take("quantizer.vq.level_blocks.0.k", codes, out))
        self.embedding = weights.table("f0_dict", codes, dim)
        for name in [n for n in weights.left if n.startswith("quantizer.decoder.")]:
            del weights.left[name]  # of use in training only

    def forward(self, f0: Tensor) -> Tensor:
        x = f0[None, None]
        for down, *layers in zip(self.downs, self.dilated, self.pointwise, strict=True):
            x = down(x)
            for dilated, pointwise in zip(*layers, strict=True):
                x = x + pointwise(F.relu(dilated(F.relu(x))))
        return self.embedding(torch.cdist(self.last(x)[0].T, self.codes).argmin(1))


class F0Input(nn.Module):
    """F0 as an input of the generator: values (one channel), embeddings of their bins, or of codes of the contour.

    Args:
        hop, sample_rate: samples of a unit; Hz.
        rate: samples that the generator makes of one of its inputs.
        statistics: None where the file is missing.

    Attributes:
        per_frame: values a unit.
        form: the unit of these values, in words.
    """

    def __init__(
        self,
        settings: Settings,
        weights: Weights,
        dim: int,
        hop: int,
        rate: int,
        sample_rate: int,
        statistics: Statistics | None,
    ) -> None:
        super().__init__()
        self.codes: F0Codes | None = None
        self.bins: nn.Embedding | None = None
        self.per_frame, self.channels, self.form = hop // rate, 1, "Hz, 0 where unvoiced"
        self.statistics = statistics if settings.get("f0_normalize") else None
        self.raw = not settings.get("f0_normalize") or statistics is not None
        if not self.raw:
            self.form = "Hz, where voiced less the speaker's mean and over the deviation, 0 where unvoiced"
        if settings.get("f0_quantizer_path"):
            self.codes, self.channels = F0Codes(settings.inner("f0_quantizer"), weights, dim), dim
            self.per_frame = hop * F0_RATE // sample_rate
            if hop != rate or not self.per_frame or hop * F0_RATE % sample_rate or self.codes.stride % self.per_frame:
                raise settings.error(
                    f"codes of {self.codes.stride} values of F0 at {F0_RATE} Hz are not a whole number of units"
                )
        elif settings.get("f0_quant_num_bin"):
            self.bins, self.channels = weights.table("f0_quant_embed", settings.whole("f0_quant_num_bin"), dim), dim
            self.form = f"bins, integers from 0 to {self.bins.num_embeddings - 1}"

    def check(self, f0: np.ndarray | None, frames: int, speaker: int) -> np.ndarray:
        """F0 that a caller passes → (frames * per_frame,) float32, or int64 of bins.

        Raises ModelError that says what is expected.
        """
        sizes = f"{frames} values, one a unit" + (f", or {frames * self.per_frame}" if self.per_frame > 1 else "")
        if f0 is None or (f0 := np.asarray(f0)).shape not in ((frames,), (frames * self.per_frame,)):
            shape = "none" if f0 is None else f"shape {f0.shape}"
            raise ModelError(f"the vocoder needs f0 ({self.form}): {sizes}; given: {shape}")
        f0 = np.repeat(f0, frames * self.per_frame // len(f0))
        if self.bins is not None:
            if not np.issubdtype(f0.dtype, np.integer) or f0.min() < 0 or f0.max() >= self.bins.num_embeddings:
                raise ModelError(f"f0 must be {self.form}")
            return f0.astype(np.int64)
        f0 = f0.astype(np.float32)
        if not np.isfinite(f0).all() or (self.raw and f0.min() < 0):
            raise ModelError(f"f0 holds values that are not {self.form}")
        if not self.raw and np.abs(f0).max() > LARGEST:
            raise ModelError(
                f"f0 must be {self.form}, but holds {np.abs(f0).max():.0f}; "
                "copy the file named in f0_stats of the configuration next to the checkpoint to give Hz"
            )
        if self.statistics is not None:
            mean, deviation = self.statistics.get(speaker, self.statistics[None])
            f0 = np.where(f0 == 0, 0, (f0 - mean) / deviation).astype(np.float32)
        return f0

    def forward(self, f0: Tensor) -> Tensor:
        """Output of `check` → (inputs of the generator, channels), with a few more at the end where there are codes."""
        if self.codes is not None:
            codes = self.codes(F.pad(f0, (0, -len(f0) % self.codes.stride)))  # the end of the last code is unvoiced
            return codes.repeat_interleave(self.codes.stride // self.per_frame, 0)
        return f0[:, None] if self.bins is None else self.bins(f0)


class UnitHifiGan(BaseVocoder):
    """Speech from discrete units by a published HiFi-GAN. For inference.

    Models with F0 need `f0` of `resynth`: a value for each frame, or `.f0.per_frame` values, or a list of such arrays.
    (T,) Hz, 0 where unvoiced; bins, where the configuration has f0_quant_num_bin; where it has f0_normalize and the
    file named in its f0_stats is missing, voiced values less the mean over the deviation.

    Args:
        settings, weights: of one model; all weights are taken.
        speakers, styles: names of the first rows of the tables; empty for their numbers.
        f0_statistics: see `F0Input`.
        precision: `fp32`, or `bf16`, which is faster on a CPU with matrix units for it, and adds noise of about -40 dB.

    Attributes:
        speakers, styles: names, or "0", "1", …; `styles` is empty where there are none.
        contract: of its units: their number, sample rate and frame rate are known, their encoder and codebook are not.

    Raises:
        ModelError: settings and weights do not match, or are of a variant that is not supported.
    """

    def __init__(
        self,
        settings: Settings,
        weights: Weights,
        *,
        speakers: Sequence[str] = (),
        styles: Sequence[str] = (),
        f0_statistics: Statistics | None = None,
        precision: str = "fp32",
    ) -> None:
        dtype = dtype_of(precision)
        for key, why in UNSUPPORTED.items():
            if settings.get(key):
                raise settings.error(f"has {key} ({why}), which is not supported")
        n_units, dim = settings.whole("num_embeddings"), settings.whole("embedding_dim")
        rate = math.prod(settings.wholes("upsample_rates"))
        sample_rate, hop = settings.rate("sampling_rate", 16000), settings.whole("code_hop_size", rate)
        contract = UnitContract(n_units=n_units, sample_rate=sample_rate, frame_rate=sample_rate / hop)
        super().__init__(contract, n_units=n_units, sample_rate=sample_rate, hop=hop, speakers=("0",))
        self.repeats = hop // rate  # units are repeated where F0 has more values
        if hop % rate or (self.repeats > 1 and not settings.get("f0")):
            raise settings.error(f"code_hop_size is {hop} but upsample_rates make {rate} samples of a unit")

        self.unit_embedding = weights.table("dict", n_units, dim)
        self.f0: F0Input | None = None
        self.speaker_embedding: nn.Embedding | None = None
        self.style_embedding: nn.Embedding | None = None
        self.durations: PublishedDurations | None = None
        channels = dim
        if settings.get("f0"):
            self.f0 = F0Input(settings, weights, dim, hop, rate, sample_rate, f0_statistics)
            channels += self.f0.channels
        if kind := settings.get("multispkr"):
            self.speaker_embedding = weights.table("spkr", None, dim)
            # speech-resynthesis makes a table of 200 for a single speaker, too
            rows = 1 if kind == "single" else self.speaker_embedding.num_embeddings
            self.speakers = _names("speakers", speakers, rows)
            channels += dim
        if settings.get("multistyle"):
            self.style_embedding = weights.table("style", None, dim)
            self.styles = _names("styles", styles, self.style_embedding.num_embeddings)
            channels += dim
        if settings.get("dur_predictor_params"):
            hidden = settings.inner("dur_predictor_params").whole("var_pred_hidden_dim")
            self.durations = PublishedDurations(weights, dim, hidden)
        self.generator = Generator(settings, weights, channels, dtype)
        weights.close()
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit: max(1, round(exp(d) - 1)), d the predicted log-duration; the same for every speaker.

        A list of (N,) int64, runs already joined → a list of (N,) int64. Raises ModelError without a predictor.
        """
        if self.durations is None:
            return super().predict_durations(units, speaker=speaker)
        return [self.durations(self.unit_embedding(self._tensor(np.asarray(u, np.int64)))).cpu().numpy() for u in units]

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
            (samples,) float32; concatenated, what `resynth` makes of the whole row, to 1e-5 in fp32. A sample is
            yielded once the units of the `look_ahead` seconds after it have come; memory does not grow.

        Raises:
            ContractError, ModelError: as `resynth`; ModelError for a model that needs F0.
        """
        check_durations(durations)
        self._level(level, stream=True)
        if self.f0 is not None:
            raise ModelError("the vocoder needs f0 for whole rows, so it does not stream; give rows and f0 to resynth")
        lengths = None
        if durations == "predict":
            if self.durations is None:
                self.predict_durations([])  # says that there is no predictor
            lengths = Lengths(Overlapped(lambda u: self.predict_durations([u])[0], PublishedDurations.halo))
        return stream(self, pieces, _Voice(self, self.speaker_index(speaker), self.style_index(style)), lengths)

    @property
    def look_ahead(self) -> float:
        """Seconds of units after a sample that `stream` waits for; predicted durations wait for two more units."""
        return (self.generator.halo + TOGETHER) / self.frame_rate

    def _melody(self, rows: Sequence[Units], speaker: int) -> list[np.ndarray] | None:
        """None: pitch is not followed, and where F0 is needed `_contours` asks for it."""
        return super()._melody(rows, speaker) if self.f0 is None else None

    def _contours(
        self, f0: Sequence[np.ndarray] | None, frames: list[np.ndarray], speaker: int
    ) -> list[np.ndarray] | None:
        """Output of `F0Input.check` for each row."""
        if self.f0 is None:
            return super()._contours(f0, frames, speaker)
        rows = [None] * len(frames) if f0 is None else list(f0)
        if len(rows) != len(frames):
            raise ModelError(f"f0 has {len(rows)} rows but the units have {len(frames)}")
        return [self.f0.check(row, len(units), speaker) for row, units in zip(rows, frames, strict=True)]

    @torch.inference_mode()
    def _speak(
        self, frames: list[np.ndarray], contours: list[np.ndarray] | None, speaker: int, style: int
    ) -> list[np.ndarray]:
        # One by one: a row keeps a CPU busy, and rows of several lengths would need a mask before each of 90
        # convolutions.
        waveforms = []
        for n, units in enumerate(frames):
            parts = [self.unit_embedding(self._tensor(units)).repeat_interleave(self.repeats, 0)]
            if self.f0 is not None and contours is not None:
                parts.append(self.f0(self._tensor(contours[n]))[: len(parts[0])])
            for table, row in ((self.speaker_embedding, speaker), (self.style_embedding, style)):
                if table is not None:
                    parts.append(table.weight[row].expand(len(parts[0]), -1))
            waveforms.append(self.generator(torch.cat(parts, 1)).cpu().numpy())
        return waveforms

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.unit_embedding.weight.device)


class _Voice:
    """`textless.vocoder.stream.Voice` of a HiFi-GAN."""

    def __init__(self, vocoder: UnitHifiGan, speaker: int, style: int) -> None:
        self.next = Overlapped(
            lambda units: vocoder._speak([units], None, speaker, style)[0],
            vocoder.generator.halo,
            rate=vocoder.hop,
            least=TOGETHER,
        )

    def push(self, units: np.ndarray) -> np.ndarray:
        return self.next(units, False)

    def finish(self) -> np.ndarray:
        return self.next(np.zeros(0, np.int64), True)


if TYPE_CHECKING:
    from textless.types import StreamingVocoder

    _CONTRACT: type[StreamingVocoder] = UnitHifiGan  # that mypy compares the two


def _names(what: str, names: Sequence[str], rows: int) -> tuple[str, ...]:
    if len(names) > rows or len(set(names)) != len(names):
        raise ModelError(
            f"{what}.txt next to the checkpoint has {len(names)} names for {rows} {what}, or a duplicate name; "
            "remove it"
        )
    return tuple(names) or tuple(map(str, range(rows)))


def load_hifigan(path: Path | str, config: Path | str | None = None, *, precision: str = "fp32") -> UnitHifiGan:
    """A published unit HiFi-GAN, on the CPU. Nothing in the files is run.

    Args:
        path: the checkpoint. Files in its folder are read too: `speakers.txt` and `styles.txt`, names in the order of
            their numbers, and the statistics of F0 under the last part of the configuration's f0_stats.
        config: its configuration; None is `config.json` in its folder, else its own name with `.json`.
        precision: see `UnitHifiGan`.

    Raises:
        ModelError: a file is missing, damaged or of another kind, or they are of different models.
    """
    path = Path(path)
    places = [path.parent / "config.json", path.parent / f"{path.stem}.json"] if config is None else [Path(config)]
    place = next((p for p in places if p.is_file()), None)
    content = load_torch(path)
    if place is None:
        raise ModelError(
            f"{path}: its configuration is missing ({' or '.join(map(str, places))}); "
            "give the config.json published with it"
        )
    if not isinstance(content, dict) or not isinstance(content.get("generator"), dict):
        raise ModelError(
            f'{path}: not the checkpoint of a unit HiFi-GAN (no "generator"); '
            f"give the file that was published with {place}"
        )
    settings = Settings(place, read_json(place))
    statistics = path.parent / Path(str(settings.get("f0_stats"))).name
    return UnitHifiGan(
        settings,
        Weights(path, settings, content["generator"]),
        speakers=_lines(path.parent / "speakers.txt"),
        styles=_lines(path.parent / "styles.txt"),
        f0_statistics=_statistics(statistics) if statistics.is_file() else None,
        precision=precision,
    )


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(errors="replace").strip().splitlines()] if file.is_file() else []


def _statistics(file: Path) -> Statistics:
    """From `{"f0_mean": …, "f0_std": …, speaker: {"f0_mean": …, "f0_std": …}, …}`. Raises ModelError."""
    content = plain(load_torch(file))
    try:
        own = {speaker: value for speaker, value in content.items() if isinstance(value, dict)}
        result = {k: (float(v["f0_mean"]), float(v["f0_std"])) for k, v in {None: content, **own}.items()}
        if not all(math.isfinite(mean) and 0 < deviation < math.inf for mean, deviation in result.values()):
            raise ValueError
        return result
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(
            f"{file}: does not hold f0_mean and f0_std; give the file that was published with the checkpoint"
        ) from None

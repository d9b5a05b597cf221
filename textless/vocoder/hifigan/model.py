"""Published unit HiFi-GANs: `config.json` and a checkpoint `{"generator": …}`, as speech-resynthesis, fairseq and textlesslib write them.

The generator is HiFi-GAN's on embeddings instead of spectra (Polyak et al. 2021, arXiv:2104.00355). Each frame's input is, in this order:
its unit, F0, speaker, style (Nguyen et al. 2023, arXiv:2308.05725).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import ModelError
from textless.model_io import read_json
from textless.pickles import load_torch, plain
from textless.types import UnitContract, Units
from textless.vocoder.base import check_units, index_of, is_one
from textless.vocoder.hifigan.checkpoint import Settings, Weights
from textless.vocoder.hifigan.generator import Generator

F0_RATE = 200  # values a second that the published F0 quantisers were trained on (YAAPT every 5 ms)
LARGEST = 20.0  # no F0 less its mean over its deviation is larger, and none in Hz smaller
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
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
    """Frames of each unit of a sequence without repetitions, from the units' embeddings (Lee et al. 2022, arXiv:2107.05604, section 3.3).

    FastSpeech 2's predictor, trained to d = log(frames + 1), where ours is trained to log(frames).

    Shape: (N, dim) → (N,) int64, max(1, round(exp(d) - 1)).
    """

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
    """A contour of F0 → the embedding of the nearest code to its encoding, one for each `stride` values (Polyak et al. 2021, section 2.1).

    The encoder is Jukebox's (Dhariwal et al. 2020, arXiv:2005.00341, appendix B.1) with one level.

    Shape: (T,) with T a multiple of `stride` → (T / stride, dim).
    """

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
            del weights.left[name]  # was of use in its training only

    def forward(self, f0: Tensor) -> Tensor:
        x = f0[None, None]
        for down, *layers in zip(self.downs, self.dilated, self.pointwise, strict=True):
            x = down(x)
            for dilated, pointwise in zip(*layers, strict=True):
                x = x + pointwise(F.relu(dilated(F.relu(x))))
        return self.embedding(torch.cdist(self.last(x)[0].T, self.codes).argmin(1))


class F0Input(nn.Module):
    """What the generator takes of F0: the values (one channel), the embeddings of their bins, or those of codes of the contour.

    Args:
        hop, sample_rate: samples of a unit, and a second.
        rate: samples that the generator makes of one of its inputs.
        statistics: `f0_mean` and `f0_std` in Hz, and the same for single speakers under their numbers; None where they are not at hand.

    Attributes:
        per_frame: values a unit.
        form: what values these are.
    """

    def __init__(
        self,
        settings: Settings,
        weights: Weights,
        dim: int,
        hop: int,
        rate: int,
        sample_rate: int,
        statistics: dict[Any, Any] | None,
    ) -> None:
        super().__init__()
        self.codes = self.bins = None
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

    def check(self, f0: Any, frames: int, speaker: int) -> np.ndarray:
        """What was given → (frames * per_frame,) float32, or int64 of bins. Raises ModelError that says what is wanted."""
        sizes = f"{frames} values, one a unit" + (f", or {frames * self.per_frame}" if self.per_frame > 1 else "")
        if f0 is None or (f0 := np.asarray(f0)).shape not in ((frames,), (frames * self.per_frame,)):
            given = "none" if f0 is None else f"shape {f0.shape}"
            raise ModelError(f"the vocoder needs f0 ({self.form}): {sizes}; given: {given}")
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
                "copy the file that the configuration calls f0_stats beside the checkpoint, and Hz will do"
            )
        if self.statistics is not None:
            own = self.statistics.get(speaker, self.statistics)
            f0 = np.where(f0 == 0, 0, (f0 - own["f0_mean"]) / own["f0_std"]).astype(np.float32)
        return f0

    def forward(self, f0: Tensor) -> Tensor:
        """What `check` gives → (inputs of the generator, channels), perhaps a few more."""
        if self.codes is not None:
            codes = self.codes(
                F.pad(f0, (0, -len(f0) % self.codes.stride))
            )  # what is missing of the last code is unvoiced
            return codes.repeat_interleave(self.codes.stride // self.per_frame, 0)
        return f0[:, None] if self.bins is None else self.bins(f0)


class UnitHifiGan(nn.Module):
    """Speech from discrete units by a published HiFi-GAN, with the surface of `UnitVocoder`. For inference.

    Args:
        settings, weights: of one model; all weights are taken.
        speakers, styles: names of the first rows of the tables; empty for their numbers.
        f0_statistics: see `F0Input`.
        precision: `fp32`, or `bf16`, which is faster on a CPU with matrix units for it, and adds noise of about -40 dB.

    Attributes:
        sample_rate: Hz.
        frame_rate: units a second.
        n_units: size of the codebook.
        speakers, styles: names, or "0", "1", …; `styles` is empty where there are none.
        contract: of its units: their number, sample rate and frame rate are known, what made them is not.

    Raises:
        ModelError: settings and weights do not fit together, or are of a variant that is not supported.
    """

    def __init__(
        self,
        settings: Settings,
        weights: Weights,
        *,
        speakers: Sequence[str] = (),
        styles: Sequence[str] = (),
        f0_statistics: dict[Any, Any] | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ModelError(f"precision is {precision!r}; known: {', '.join(PRECISIONS)}")
        for key, why in UNSUPPORTED.items():
            if settings.get(key):
                raise settings.error(f"has {key} ({why}), which is not supported")
        self.n_units, dim = settings.whole("num_embeddings"), settings.whole("embedding_dim")
        rate = math.prod(settings.wholes("upsample_rates"))
        self.sample_rate, self.hop = settings.rate("sampling_rate", 16000), settings.whole("code_hop_size", rate)
        self.frame_rate = self.sample_rate / self.hop
        self.contract = UnitContract(n_units=self.n_units, sample_rate=self.sample_rate, frame_rate=self.frame_rate)
        self.repeats = self.hop // rate  # units are repeated where F0 comes faster
        if self.hop % rate or (self.repeats > 1 and not settings.get("f0")):
            raise settings.error(f"code_hop_size is {self.hop} but upsample_rates make {rate} samples of a unit")

        self.unit_embedding = weights.table("dict", self.n_units, dim)
        self.f0 = self.speaker_embedding = self.style_embedding = self.durations = None
        self.speakers, self.styles = ("0",), ()
        channels = dim
        if settings.get("f0"):
            self.f0 = F0Input(settings, weights, dim, self.hop, rate, self.sample_rate, f0_statistics)
            channels += self.f0.channels
        if kind := settings.get("multispkr"):
            self.speaker_embedding = weights.table("spkr", None, dim)
            rows = (
                1 if kind == "single" else self.speaker_embedding.num_embeddings
            )  # speech-resynthesis makes a table of 200 for one, too
            self.speakers = _names("speakers", speakers, rows)
            channels += dim
        if settings.get("multistyle"):
            self.style_embedding = weights.table("style", None, dim)
            self.styles = _names("styles", styles, self.style_embedding.num_embeddings)
            channels += dim
        if settings.get("dur_predictor_params"):
            hidden = settings.inner("dur_predictor_params").whole("var_pred_hidden_dim")
            self.durations = PublishedDurations(weights, dim, hidden)
        self.generator = Generator(settings, weights, channels, PRECISIONS[precision])
        weights.close()
        self.eval().requires_grad_(False)

    def resynth(
        self,
        units: Units | np.ndarray | Sequence[Any],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        style: str | int | None = None,
        f0: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Speak units.

        Args:
            units: Units or (N,) integers, or a list of those. A bare array is taken literally: each unit is one frame, or has
                a duration of its own if durations are predicted.
            speaker, style: name or index; None is the first. A string that is a name and a number is the name, an integer that is both
                the index.
            durations: "given": those of the units, one frame each where there are none. "predict": predicted from the units,
                for Units with their runs joined.
            f0: for models that hear F0, which then need it: a value for each frame, or `.f0.per_frame` values, or a list of such
                arrays. (T,) Hz, 0 where unvoiced; where the configuration has f0_quant_num_bin, bins; where it has f0_normalize and
                the file that it calls f0_stats is not beside the checkpoint, voiced values less the mean over the deviation.

        Returns:
            (frames * hop,) float32 at `sample_rate`, or a list of them. A row of a list has the samples that it has alone.

        Raises:
            ContractError: units of another kind, or outside the codebook.
            ModelError: no units, no such speaker or style, no duration predictor, F0 that is missing, not as above, or not heard.
        """
        one = is_one(units)
        if durations not in ("given", "predict"):
            raise ModelError(f'durations must be "given" or "predict", not {durations!r}')
        who, how = self.speaker_index(speaker), (0 if style is None else index_of("style", style, self.styles))
        rows = [check_units(u, self.contract, self.n_units) for u in ([units] if one else units)]
        if durations == "predict":
            joined = [
                u.deduplicated().units if isinstance(given, Units) else u.units
                for u, given in zip(rows, [units] if one else units, strict=True)
            ]
            frames = [np.repeat(u, d) for u, d in zip(joined, self.predict_durations(joined), strict=True)]
        else:
            frames = [u.frames() for u in rows]
        if self.f0 is None and f0 is not None:
            raise ModelError("the vocoder does not hear F0; leave f0 out")
        pitches = [f0] * len(rows) if one or f0 is None else list(f0)
        if len(pitches) != len(rows):
            raise ModelError(f"f0 has {len(pitches)} rows where the units have {len(rows)}")
        if self.f0 is not None:
            pitches = [self.f0.check(p, len(u), who) for p, u in zip(pitches, frames, strict=True)]
        # One by one: a row keeps a CPU busy, and rows of several lengths would have to be masked before each of 90 convolutions.
        waveforms = [self._speak(u, p, who, how) for u, p in zip(frames, pitches, strict=True)]
        return waveforms[0] if one else waveforms

    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit: max(1, round(exp(d) - 1)).

        Args:
            units: sequences (N,) int64 in the codebook, runs already joined.
            speaker: makes no difference to a published predictor.

        Returns:
            a list of (N,) int64.

        Raises:
            ModelError: the model predicts none.
        """
        if self.durations is None:
            raise ModelError(
                "the vocoder does not predict durations; give units with durations, or a unit for each frame"
            )
        with torch.inference_mode():
            return [
                self.durations(self.unit_embedding(self._tensor(np.asarray(u, np.int64)))).cpu().numpy() for u in units
            ]

    def speaker_index(self, speaker: str | int | None) -> int:
        """Position of a speaker, given by name or index; see `base.index_of`. Raises ModelError for one that is not there."""
        return index_of("speaker", speaker, self.speakers)

    @torch.inference_mode()
    def _speak(self, units: np.ndarray, f0: np.ndarray | None, speaker: int, style: int) -> np.ndarray:
        """(T,) int64, and what `F0Input.check` gave for it → (T * hop,) float32."""
        parts = [self.unit_embedding(self._tensor(units)).repeat_interleave(self.repeats, 0)]
        if self.f0 is not None:
            parts.append(self.f0(self._tensor(f0))[: len(parts[0])])
        for table, row in ((self.speaker_embedding, speaker), (self.style_embedding, style)):
            if table is not None:
                parts.append(table.weight[row].expand(len(parts[0]), -1))
        return self.generator(torch.cat(parts, 1)).cpu().numpy()

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.unit_embedding.weight.device)


def _names(what: str, names: Sequence[str], rows: int) -> tuple[str, ...]:
    if len(names) > rows or len(set(names)) != len(names):
        raise ModelError(
            f"{what}.txt beside the checkpoint has {len(names)} names for {rows} {what}, or one of them twice; remove it"
        )
    return tuple(names) or tuple(map(str, range(rows)))


def load_hifigan(path: Path | str, config: Path | str | None = None, *, precision: str = "fp32") -> UnitHifiGan:
    """A published unit HiFi-GAN, on the CPU. Nothing in the files is run.

    Args:
        path: the checkpoint. What is published beside it is read too: `speakers.txt` and `styles.txt`, names in the order of their
            numbers, and the statistics of F0 under the name in which the configuration's f0_stats ends.
        config: its configuration; None is `config.json` beside it, else its own name with `.json`.
        precision: see `UnitHifiGan`.

    Raises:
        ModelError: a file is missing, damaged or of another kind, or they are not of one model.
    """
    path = Path(path)
    places = [path.parent / "config.json", path.parent / f"{path.stem}.json"] if config is None else [Path(config)]
    place = next((p for p in places if p.is_file()), None)
    content = load_torch(path)
    if place is None:
        raise ModelError(
            f"{path}: its configuration is missing ({' or '.join(map(str, places))}); give the config.json published with it"
        )
    if not isinstance(content, dict) or not isinstance(content.get("generator"), dict):
        raise ModelError(
            f'{path}: not the checkpoint of a unit HiFi-GAN (no "generator"); give the file that was published with {place}'
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


def _statistics(file: Path) -> dict[Any, Any]:
    """See `F0Input`. Raises ModelError."""
    content = plain(load_torch(file))
    try:
        result = {k: v if isinstance(v, dict) else float(v) for k, v in content.items()}
        for one in [result, *(v for v in result.values() if isinstance(v, dict))]:
            one |= {k: float(one[k]) for k in ("f0_mean", "f0_std")}
            if not (one["f0_std"] > 0 and math.isfinite(one["f0_std"]) and math.isfinite(one["f0_mean"])):
                raise ValueError
        return result
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(
            f"{file}: does not hold f0_mean and f0_std; give the file that was published with the checkpoint"
        ) from None

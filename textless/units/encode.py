"""Waveforms → frames → units: encoders behind one protocol, and the tokenizer that adds a codebook."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textless.corpus import Recording, Row, read_rows
from textless.errors import AudioError, ContractError, ModelError, did_you_mean
from textless.units import hubert_frames, lda, mfcc
from textless.units.dump import UnitRow
from textless.units.encoder import Blocks, Encoder
from textless.units.kmeans import Codebook
from textless.units.types import UnitContract, Units
from textless.waveforms import as_blocks, as_waveform, as_waveforms
from textless.weights import CONFIG, from_torch, read_json, save_model

if TYPE_CHECKING:
    from textless.units.hubert import Hubert

WINDOW_SECONDS = 60.0  # longer files are seen by the attention in windows of this length
BATCH_SECONDS = 60.0  # of audio encoded together
LONG_SECONDS = 600  # longer files are encoded as they are read


def _log_mel(waveform: np.ndarray) -> np.ndarray:
    import torch

    from textless.units.logmel import log_mel, normalise

    return normalise(log_mel(torch.from_numpy(as_waveform(waveform)))).numpy()


class SignalEncoder(Encoder):
    """A front end without parameters: `mfcc` (39 at 100 Hz), `logmel` (80 at 100 Hz, normalised), `context_mfcc` (91 at 50 Hz)."""

    sample_rate = mfcc.SAMPLE_RATE

    def __init__(self, name: str) -> None:
        self.encode_one, self.n_frames, self.frame_rate, self.dim = {  # type: ignore[method-assign]
            "mfcc": (mfcc.mfcc, mfcc.n_frames, mfcc.FRAME_RATE, mfcc.DIM),
            "logmel": (_log_mel, mfcc.n_frames, mfcc.FRAME_RATE, 80),
            "context_mfcc": (lda.context_mfcc, hubert_frames.n_frames, hubert_frames.FRAME_RATE, lda.DIM),
        }[name]
        self.contract = UnitContract(
            encoder=name, window=0.0, normalisation="none", sample_rate=self.sample_rate, frame_rate=self.frame_rate
        )


SIGNAL = ("mfcc", "logmel", "context_mfcc")


class HubertEncoder(Encoder):
    """A HuBERT up to one of its layers.

    Args:
        model: as `Checkpoint.load` gives it, cut at the layer; a longer one is cut here, in place.
        precision, window: see `Extractor`.
    """

    def __init__(self, model: Hubert, layer: int, *, device: str = "cpu", precision: str = "fp32", window: float = WINDOW_SECONDS) -> None:
        from textless.units.extract import Extractor

        if not 1 <= layer <= len(model.encoder.layers):
            raise ModelError(f"layer {layer} does not exist: the encoder has layers 1 to {len(model.encoder.layers)}")
        model = model.truncate(layer).fold_weight_norm().eval()
        self.layer, self.dim, self.sample_rate = layer, model.config.dim, model.config.sample_rate
        self.frame_rate = hubert_frames.FRAME_RATE
        self.contract = UnitContract(
            encoder=encoder_hash(model),
            layer=layer,
            window=window,
            normalisation=model.config.normalisation,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )
        self.precision = precision
        self.extractor = Extractor(model.to(device), precision=precision, window=window)

    def n_frames(self, samples: int) -> int:
        return hubert_frames.n_frames(samples)

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        [[frames]] = self.extractor([as_waveform(waveform)], [self.layer])
        return frames

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [frames for [frames] in self.extractor(as_waveforms(waveforms), [self.layer])]

    def encode_layers(self, waveform: np.ndarray, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """Several layers in one pass: {layer: (T, D) float32}. Raises ModelError for a layer above the encoder's own."""
        if wrong := [n for n in layers if not 1 <= n <= self.layer]:
            raise ModelError(f"layer {wrong[0]} does not exist: the encoder was loaded with layers 1 to {self.layer}")
        return dict(zip(layers, self.extractor([as_waveform(waveform)], layers)[0], strict=True))

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        return (frames for [frames] in self.extractor.stream(as_blocks(blocks), [self.layer]))


def encoder_hash(model: Hubert) -> str:
    """sha256 over names and float32 bytes of every parameter that the output depends on, weight norm folded.

    And over what weights do not show, such as the number of heads, where it is not what models of this width have (`hubert.unshown`).
    """
    from textless.units.hubert import unshown

    digest = hashlib.sha256()
    if facts := unshown(model.config):
        digest.update(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name != "masked_spec_embed":
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def save_encoder(folder: Path | str, model: Hubert) -> None:
    """Write a HuBERT as a model folder."""
    save_model(folder, kind="hubert", config=model.config.to_dict(), tensors=from_torch(model.state_dict()))


def load_encoder(
    source: Path | str,
    layer: int | None = None,
    *,
    precision: str = "fp32",
    window: float | None = None,
    normalisation: str | None = None,
    device: str = "cpu",
) -> Encoder:
    """An encoder.

    Args:
        source: `mfcc`, `logmel`, `context_mfcc`; a folder of ours (HuBERT, ladder, projected); a folder of transformers (HuBERT,
            wav2vec 2.0, WavLM, data2vec-audio, UniSpeech-SAT, w2v-BERT 2.0, …); a checkpoint of fairseq's (`.pt`, HuBERT or
            wav2vec 2.0); a state dict of torchaudio's; or the name of a published one (`textless.units.published`), or `OWNER/NAME`
            on the Hugging Face hub, which is fetched.
        layer: 1-based, the output of that block before any final norm. None: the published name's layer, else the last. Nothing above
            it is read or run.
        precision: `fp32`; `bf16`, faster where the processor has matrix units for it; `auto`: bf16 there, else fp32.
        window: seconds; files longer than this are seen in overlapping windows (see `Extractor`). None: 60. 0: files are always seen
            whole, as encoders that transformers runs always do.
        normalisation: of the waveform, `none`, `layer_norm_1e-5` or `zscore_1e-7`, instead of what the source says.

    Raises:
        ModelError: not an encoder, no such layer, damaged, or it cannot be fetched; weights that are not finite; a configuration that its
            weights do not fit; made for audio of another rate than 16 kHz.
        DeviceError: no such device.
    """
    from textless.devices import resolve

    device = str(resolve(device))
    if str(source) in SIGNAL:
        return SignalEncoder(str(source))
    precision = resolve_precision(precision, device)
    source, layer, normalisation = resolve_encoder(source, layer, normalisation)
    config = read_json(source / CONFIG) if source.is_dir() else {}
    if config.get("kind") == "lda":
        return lda.LdaEncoder.load(source)
    if config.get("kind") == "ladder":
        from textless.units.ladder import LadderEncoder

        return LadderEncoder.load(source)
    if config.get("kind") == "projected":
        from textless.units.projected import load_projected

        return load_projected(source, layer, precision=precision, window=window, normalisation=normalisation, device=device)

    from textless.units import checkpoints

    if "model_type" in config and not checkpoints.fits(config):
        from textless.units.foreign import load_foreign

        return load_foreign(source, layer, device=device, precision=precision, normalisation=normalisation)
    checkpoint = checkpoints.open_checkpoint(source)
    layer = checkpoint.config.layers if layer is None else layer
    model = checkpoint.load(layer, normalisation=normalisation)
    return HubertEncoder(model, layer, device=device, precision=precision, window=WINDOW_SECONDS if window is None else window)


def resolve_encoder(source: Path | str, layer: int | None = None, normalisation: str | None = None) -> tuple[Path, int | None, str | None]:
    """A file or folder on disk, with layer and normalisation filled in from the table where the source is published.

    Raises ModelError when there is no such file and no such name, or it cannot be fetched.
    """
    if Path(source).exists():
        return Path(source), layer, normalisation
    from textless.fetch import fetch_repository
    from textless.units.published import PUBLISHED, fetch_encoder

    name = str(source)
    if entry := PUBLISHED.get(name) or next((e for e in PUBLISHED.values() if e.encoder == name), None):
        key = next(k for k, e in PUBLISHED.items() if e is entry)
        path = fetch_encoder(key)
        # fairseq's checkpoints say their normalisation themselves; the processor files in repositories are no guide.
        if path.is_dir():
            normalisation = normalisation or entry.normalisation
        return path, layer or (entry.layer if key == name else None), normalisation
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        try:
            return fetch_repository(name), layer, normalisation
        except ModelError as e:
            raise ModelError(f"{name}: no such file or folder here, and on the hub: {e}") from None
    raise ModelError(f"{name}: no such file or folder, and no published encoder has this name{did_you_mean(name, PUBLISHED)}")


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """`auto` as `bf16` where the device has matrix units for it, else `fp32`. Raises ModelError for an unknown one."""
    if precision in ("fp32", "bf16"):
        return precision
    if precision != "auto":
        raise ModelError(f"precision {precision!r} is unknown; known: fp32, bf16, auto")
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


class Tokenizer:
    """Encoder and codebook: waveform → units. `contract` is what its units carry."""

    def __init__(self, encoder: Encoder, codebook: Codebook) -> None:
        """Raises ContractError when the codebook was made on frames of another encoder, layer or dimension."""
        if codebook.centroids.shape[1] != encoder.dim:
            raise ContractError(f"the codebook has {codebook.centroids.shape[1]} dimensions but the encoder {encoder.dim}; use a pair")
        self.encoder, self.codebook, self.precision = encoder, codebook, encoder.precision
        self.contract = codebook.contract_for(encoder.contract)

    def encode(self, waveform: np.ndarray) -> Units:
        """(samples,) float in [-1, 1] → Units, deduplicated. Raises AudioError when it is something else, or shorter than one frame."""
        return Units.from_frames(self.codebook.predict(self.encoder.encode_one(as_waveform(waveform))), self.contract)

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[Units]:
        """Several waveforms together, each as `encode` gives it, and raising as that."""
        return [self._units([frames]) for frames in self.encoder.encode_batch(as_waveforms(waveforms))]

    def _units(self, pieces: Iterable[np.ndarray]) -> Units:
        return self.measure(pieces)[0]

    def measure(self, pieces: Iterable[np.ndarray]) -> tuple[Units, float]:
        """Frames of one file in pieces, (t, D) float32 each → its units, and the mean distance of frames to their centroids."""
        found = [self.codebook.nearest(frames) for frames in pieces]
        units, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Units.from_frames(units, self.contract), float(distances.mean(dtype=np.float64))


def tokenize(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    *,
    batch_seconds: float = BATCH_SECONDS,
    watch: Callable[[UnitRow, float], None] = lambda row, distance: None,
) -> Iterator[tuple[Row, UnitRow | AudioError]]:
    """Units of every row, or why there are none, in order; see `encode_rows`. `watch` is told the mean distance of each (`measure`)."""
    for row, samples, pieces in encode_rows(rows, tokenizer.encoder, batch_seconds=batch_seconds):
        try:
            if isinstance(pieces, AudioError):
                raise pieces
            units, distance = tokenizer.measure(pieces)
        except AudioError as e:
            yield row, e
            continue
        source = Path(row.path).name
        made = UnitRow(id=row.id, units=units, speaker=row.speaker, source=source, offset=row.offset, samples=samples())
        watch(made, distance)
        yield row, made


def encode_rows(
    rows: Iterable[Row], encoder: Encoder, *, batch_seconds: float = BATCH_SECONDS
) -> Iterator[tuple[Row, Callable[[], int], Iterable[np.ndarray] | AudioError]]:
    """Frames of every row, or why there are none, in order.

    Files are decoded ahead in threads and encoded `batch_seconds` of audio at a time, which changes nothing but the speed. One that is
    longer than ten minutes is encoded as it is read, while its frames are taken.

    Yields:
        the row; a function that gives its samples, once its frames have been taken; pieces of its frames (t, D) float32, or the error.
        An AudioError in the middle of a long file is raised where its pieces are taken.
    """
    batch: list[tuple[Row, np.ndarray | AudioError]] = []
    seconds = 0.0
    for row, audio in read_rows(rows, longest=LONG_SECONDS * encoder.sample_rate):
        if isinstance(audio, Recording):
            yield from _encoded(batch, encoder)
            batch, seconds = [], 0.0
            yield row, audio.samples, _named(row, encoder.stream(audio.blocks))
            continue
        if isinstance(audio, np.ndarray) and encoder.n_frames(len(audio)) < 1:
            try:
                encoder.encode_one(audio)  # says how long a file must be
            except AudioError as e:
                audio = AudioError(f"{row.path}: {e}")
        batch.append((row, audio))
        seconds += len(audio) / encoder.sample_rate if isinstance(audio, np.ndarray) else 0
        if seconds >= batch_seconds:
            yield from _encoded(batch, encoder)
            batch, seconds = [], 0.0
    yield from _encoded(batch, encoder)


def _encoded(
    batch: list[tuple[Row, np.ndarray | AudioError]], encoder: Encoder
) -> Iterator[tuple[Row, Callable[[], int], Iterable[np.ndarray] | AudioError]]:
    frames = iter(encoder.encode_batch([w for _, w in batch if isinstance(w, np.ndarray)]))
    for row, audio in batch:
        n = len(audio) if isinstance(audio, np.ndarray) else 0
        yield row, lambda n=n: n, audio if isinstance(audio, AudioError) else [next(frames)]  # type: ignore[misc]


def _named(row: Row, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same, its errors with the file's name."""
    try:
        yield from pieces
    except AudioError as e:
        raise e if row.path in str(e) else AudioError(f"{row.path}: {e}") from None

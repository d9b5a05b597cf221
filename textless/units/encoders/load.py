"""An encoder from a file, a folder or a name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from textless.checks import Between, Count, Tap, check
from textless.errors import ModelError, check_known, did_you_mean
from textless.model_io import CONFIG, load_model, read_json, save_model, take
from textless.types import TAPS
from textless.units.encoders.base import Encoder
from textless.units.encoders.folder import checkpoint_in
from textless.units.encoders.hubert_encoder import WINDOW_SECONDS, HubertEncoder
from textless.units.encoders.projected import BASE, ProjectedEncoder
from textless.units.encoders.signal import SIGNAL, SignalEncoder
from textless.units.mfcc_lda.lda import LdaEncoder


def load_encoder(
    source: Path | str,
    layer: int | None = None,
    *,
    precision: str = "fp32",
    window: float | None = None,
    normalisation: str | None = None,
    tap: str | None = None,
    heads: int | None = None,
    device: str = "cpu",
) -> Encoder:
    """An encoder.

    Args:
        source: `mfcc`, `logmel`, `context_mfcc`; a textless model folder (HuBERT, ladder, LDA, projected); a
            transformers folder (HuBERT, wav2vec 2.0, WavLM, data2vec-audio, UniSpeech-SAT, w2v-BERT 2.0, …); a
            checkpoint of fairseq, s3prl, torchaudio, ESPnet, minimal_hubert, SpidR, DinoSR or HuBERT-Soft, or its
            folder; a CPC of GSLM's (`.pt`); a published name (`textless.zoo`) or `OWNER/NAME` on the Hugging Face hub,
            which is fetched.
        layer: 1-based, that block before any final norm. None: the published name's layer, else the last. Nothing
            above it is read or run.
        precision: `fp32`; `bf16`, faster where the processor has matrix units for it; `auto`: bf16 there, else fp32.
        window: seconds; attention sees longer files in overlapping windows (see `Extractor`). None: 60. 0: always the
            whole file, as in encoders that transformers runs. Of a CPC see `CpcEncoder`; None: 0.
        normalisation: of the waveform, `none`, `layer_norm_1e-5` or `zscore_1e-7`, overriding the source's. Of a CPC
            see `CpcEncoder`; None: none.
        tap: what of that block: `block`, its output; `ffn`, the output of its feed-forward network before the residual.
            None: as in the project that the file comes from (docs/encoders.md). Encoders that transformers runs have
            `block` alone.
        heads: attention heads, for state dicts that do not say them and are of no published width.

    Raises:
        ModelError: not an encoder, no such layer, a damaged file, or it cannot be fetched; weights that are not finite;
            a configuration that does not fit the weights; made for audio of another rate than 16 kHz.
        DeviceError: no such device.
    """
    from textless.devices import resolve, resolve_precision

    device = str(resolve(device))
    if tap is not None:
        check_known("tap", tap, TAPS, ModelError)
    if str(source) in SIGNAL:
        _only_hubert(source, tap, heads)
        return SignalEncoder(str(source))
    precision = resolve_precision(precision, device)
    path, layer, normalisation = resolve_encoder(source, layer, normalisation)
    options = {"precision": precision, "window": window, "normalisation": normalisation, "device": device}
    return _from_disk(checkpoint_in(path), layer, tap, heads, **options)


def _from_disk(source: Path, layer: int | None, tap: str | None, heads: int | None, **options: Any) -> Encoder:
    config = read_json(source / CONFIG) if source.is_dir() else {}
    if config.get("kind") in ("lda", "ladder"):
        _only_hubert(source, tap, heads)
    if config.get("kind") == "lda":
        return LdaEncoder.load(source)
    if config.get("kind") == "ladder":
        from textless.units.mfcc_lda.ladder import LadderEncoder

        return LadderEncoder.load(source)
    if config.get("kind") == "projected":
        return load_projected(source, layer, tap, heads=heads, **options)
    if source.is_file() and is_cpc(source):
        from textless.units.encoders.cpc import load_cpc

        _only_hubert(source, tap, heads)
        return load_cpc(source, layer, **options)

    from textless.units.encoders.convert import open_checkpoint
    from textless.units.encoders.layouts.transformers import fits

    window, normalisation = options.pop("window"), options.pop("normalisation")
    if "model_type" in config and not fits(config):
        from textless.units.encoders.transformers import load_transformers

        _only_hubert(source, tap, heads)
        return load_transformers(source, layer, normalisation=normalisation, **options)
    checkpoint = open_checkpoint(source, heads)
    layer = checkpoint.config.layers if layer is None else layer
    model = checkpoint.load(layer, normalisation=normalisation)
    window = WINDOW_SECONDS if window is None else window
    return HubertEncoder(model, layer, window=window, tap=tap or checkpoint.tap, **options)


def _only_hubert(source: Path | str, tap: str | None, heads: int | None) -> None:
    """Raise ModelError for a tap or heads that only HuBERTs in our own module have."""
    for what, value in (("tap", None if tap == "block" else tap), ("heads", heads)):
        if value is not None:
            raise ModelError(f"{source}: {what} is {value!r}, which needs a HuBERT or wav2vec 2.0; leave it out")


def is_cpc(path: Path) -> bool:
    """Whether the names of a checkpoint, which come before its tensors, have that of an LSTM of CPC_audio."""
    with path.open("rb") as f:
        return b"gAR.baseNet." in f.read(1 << 20)


def resolve_encoder(
    source: Path | str, layer: int | None = None, normalisation: str | None = None
) -> tuple[Path, int | None, str | None]:
    """The file or folder on disk; layer and normalisation are filled in from the table where the source is published.

    Raises ModelError when there is no such file and no such name, or it cannot be fetched.
    """
    if Path(source).exists():
        return Path(source), layer, normalisation
    from textless.audio.fetch import fetch_repository
    from textless.zoo import PUBLISHED, fetch_encoder, is_repository

    name = str(source)
    if key := name if name in PUBLISHED else next((k for k, e in PUBLISHED.items() if e.encoder.place == name), None):
        entry, path = PUBLISHED[key].encoder, fetch_encoder(key)
        # fairseq's checkpoints hold their normalisation; the processor files in repositories are unreliable (`zoo`).
        if path.is_dir():
            normalisation = normalisation or entry.normalisation
        return path, layer or (entry.layer if key == name else None), normalisation
    if is_repository(name):
        try:
            return fetch_repository(name), layer, normalisation
        except ModelError as e:
            raise ModelError(f"{name}: no such file or folder here, and on the hub: {e}") from None
    raise ModelError(
        f"{name}: no such file or folder, and no published encoder has this name{did_you_mean(name, PUBLISHED)}"
    )


def save_projected(
    folder: Path,
    base: Path | str,
    projection: np.ndarray,
    *,
    layer: int | None,
    tap: str | None = None,
    context: int = 0,
) -> None:
    """Write a self-contained model folder: the base, whatever `load_encoder` takes, is copied into it.

    Raises ModelError.
    """
    place, normalisation = str(base), None
    if place not in SIGNAL:
        source, layer, normalisation = resolve_encoder(base, layer)
        place = BASE if source.is_dir() else f"{BASE}/{source.name}"
        (folder / BASE).mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, folder / BASE, ignore=shutil.ignore_patterns(".*", "manifest.json"), dirs_exist_ok=True
            )
        else:
            shutil.copyfile(source, folder / place)
            for settings in (source.with_name(CONFIG), source.with_suffix(".json")):  # which layouts read next to it
                if settings.is_file():
                    shutil.copyfile(settings, folder / BASE / settings.name)
    config = {"base": place, "layer": layer, "normalisation": normalisation, "context": context}
    config |= {} if tap in (None, "block") else {"tap": tap}
    save_model(folder, kind="projected", config=config, tensors={"projection": projection})


def load_projected(folder: Path, layer: int | None = None, tap: str | None = None, **options: Any) -> ProjectedEncoder:
    """Read a projected encoder; options are `load_encoder`'s for the base.

    Raises ModelError as that, and for another layer or tap.
    """
    config, tensors = load_model(folder, kind="projected")
    for name, hint in (
        ("base", str),
        ("layer", Count | None),
        ("normalisation", str | None),
        ("context", Annotated[int, Between(0, 1000)]),
        ("tap", Tap | None),
    ):
        check(config.get(name), hint, f"{Path(folder) / CONFIG}: {name}")
    if layer not in (None, config["layer"]):
        raise ModelError(f"{folder}: was fitted on layer {config['layer']}, not {layer}; leave the layer out")
    fitted = config.get("tap") or "block"
    if tap not in (None, fitted):
        raise ModelError(f"{folder}: was fitted on the tap {fitted!r}, not {tap!r}; leave the tap out")
    base = config["base"]
    if (base not in SIGNAL and Path(base).parts[:1] != (BASE,)) or ".." in Path(base).parts:
        raise ModelError(f"{folder}: the base encoder {base!r} is not inside it; copy the model again")
    options["normalisation"] = options.get("normalisation") or config["normalisation"]
    encoder = load_encoder(base if base in SIGNAL else folder / base, config["layer"], tap=fitted, **options)
    try:
        return ProjectedEncoder(encoder, take(folder, tensors, "projection"), context=config["context"])
    except ModelError as e:
        raise ModelError(str(e) if str(e).startswith(str(folder)) else f"{folder}: {e}") from None

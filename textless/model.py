"""A set of models that belong together (encoder, codebook, language model, vocoder), and rows of units through them."""

from __future__ import annotations

import functools
import itertools
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textless.audio.corpus import file_stem
from textless.errors import ContractError, DumpError, ModelError, is_out_of_memory
from textless.model_io import CONFIG
from textless.names import plain
from textless.types import UnitContract, Units, is_batch
from textless.units.dump import MORE, UnitRow, split_row

if TYPE_CHECKING:
    from textless.lm.decoder import UnitDecoder
    from textless.types import StreamingVocoder, Vocoder
    from textless.vocoder.base import BaseVocoder

PARTS = ("encoder", "codebook", "lm", "vocoder")
EMBEDDED = Path(__file__).parent / "models"


def find_model(name: str | Path) -> Path:
    """Folder of an embedded set by its name, or of a set or a single model on disk. Raises ModelError that lists the embedded ones."""
    for folder in (EMBEDDED / str(name), Path(name)):
        if (folder / CONFIG).exists() or any((folder / part).is_dir() for part in PARTS):
            return folder
    known = sorted(p.name for p in EMBEDDED.iterdir() if p.is_dir() and not p.name.startswith("_"))
    raise ModelError(
        f"{name}: neither a folder with {', '.join(PARTS)}, nor an embedded set ({', '.join(known) or 'none'}), nor a published one "
        "(docs/encoders.md)"
    )


class Model:
    """Speech to units, units continued, units to speech. Parts are loaded when first used, and checked against each other.

    Args:
        name: a set: an embedded one, a folder, or a published encoder with its codebook, which then has no other parts.
        encoder, codebook, lm, vocoder: single parts instead of the set's: a folder, a set of which it is taken, or whatever
            `load_encoder` and `load_codebook` take.
        layer: of the encoder; None is the one that the codebook was made on.
        precision: of encoder and vocoder, see `load_encoder` and `load_vocoder`; lm_precision: of the language model, see `load_lm`.

        device: `cpu`, `cuda` or `cuda:N`.

    Raises DeviceError for a device that is not there.

    Attributes:
        tokenizer, lm, vocoder: the parts. Raise ModelError when the set lacks them, ContractError when they do not fit.
    """

    def __init__(
        self,
        name: Path | str,
        *,
        encoder: str | None = None,
        layer: int | None = None,
        codebook: str | None = None,
        lm: str | None = None,
        vocoder: str | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        lm_precision: str = "fp32",
    ) -> None:
        if device != "cpu":  # for which torch need not be imported
            from textless.devices import resolve

            resolve(device)
        self.name, self.layer, self.device, self.precision, self.lm_precision = (
            name,
            layer,
            device,
            precision,
            lm_precision,
        )
        self.parts = {"encoder": encoder, "codebook": codebook, "lm": lm, "vocoder": vocoder}

    def place(self, part: str) -> Path | str:
        """Folder, file or name of a part. Raises ModelError when the set lacks it."""
        from textless.units.encoders.zoo import PUBLISHED

        given = self.parts[part]
        published = str(self.name) in PUBLISHED and not Path(self.name).exists()
        if given is None and published and part in ("encoder", "codebook"):
            return str(self.name)
        if given is None:
            folder = None if published else find_model(self.name)
            if folder is None or not (folder / part).is_dir():
                raise ModelError(f"{self.name} has no {part}; give one with --{part}")
            return folder / part
        for folder in (EMBEDDED / given, Path(given)):
            if (folder / part).is_dir():
                return folder / part
        return given if part in ("encoder", "codebook") or Path(given).exists() else find_model(given)

    @functools.cached_property
    def tokenizer(self) -> Any:
        from textless.units.encoders.load import load_encoder
        from textless.units.encoders.signal import SIGNAL
        from textless.units.quantizers import load_codebook
        from textless.units.tokenizer import Tokenizer

        if self.parts["encoder"] in SIGNAL and self.parts["codebook"] is None:
            name = self.parts["encoder"]
            raise ModelError(
                f"--encoder {name} has no codebook of its own; give --codebook FILE (`textless run` trains one)"
            )
        encoder, codebook = self.place("encoder"), load_codebook(self.place("codebook"))
        layer, window = self.layer or codebook.contract.layer, codebook.contract.window
        loaded = load_encoder(encoder, layer, window=window, device=self.device, precision=self.precision)
        if encoder == self.place("codebook"):  # one published name: they belong together
            codebook.contract = codebook.contract.with_(encoder=loaded.contract.encoder, window=loaded.contract.window)
        return Tokenizer(loaded, codebook)

    @functools.cached_property
    def lm(self) -> UnitDecoder:
        from textless.lm import load_lm

        return load_lm(self.place("lm"), precision=self.lm_precision).to(self.device)

    @functools.cached_property
    def vocoder(self) -> BaseVocoder:
        from textless.units.encoders.load import resolve_precision
        from textless.vocoder import load_vocoder

        return load_vocoder(self.place("vocoder"), precision=resolve_precision(self.precision, self.device)).to(
            self.device
        )

    @property
    def sample_rate(self) -> int:
        return self.tokenizer.encoder.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.tokenizer.encoder.frame_rate

    @property
    def n_units(self) -> int:
        return self.tokenizer.quantizer.n_units

    def encode(self, waveform: Any) -> Any:
        """Waveform (samples,) float in [-1, 1] at 16 kHz → Units, deduplicated; a list of them → a list.

        Raises AudioError when it is something else (see `as_waveform`), or shorter than one frame.
        """
        if is_batch(waveform):
            return self.tokenizer.encode_batch(waveform)
        return self.tokenizer.encode(waveform)

    def continue_units(self, units: Any, *, seconds: float = 3.0, seed: int = 0, **sampling: Any) -> Any:
        """Units → the same Units and `seconds` more; a list of them → a list.

        `sampling`: `temperature` (0.8; 0 takes the likeliest unit each time), `top_k`, `top_p`, `min_p`, `repetition_penalty`,
        `no_repeat_ngram`; see `textless.lm.Sampling`.
        """
        return self.lm.continue_units(units, seconds=seconds, seed=seed, **sampling)

    def resynth(self, units: Any, *, speaker: str | int | None = None, durations: str = "given") -> Any:
        """Units → waveform (samples,) float32; a list of them → a list."""
        return self.vocoder.resynth(units, speaker=speaker, durations=durations)


def load(name: str | Path, *, device: str = "cpu", precision: str = "fp32") -> Model:
    """A set of models: an embedded one by name (`tiny-en`), a folder, or a published encoder with its codebook. Raises ModelError."""
    from textless.units.encoders.zoo import PUBLISHED

    return Model(name if str(name) in PUBLISHED else find_model(name), device=device, precision=precision)


def bundle(out: Path, *, encoder: Path, codebook: Path, lm: Path, vocoder: Path) -> UnitContract:
    """Copy four models into one folder, weights in half precision; returns the units' contract.

    The weights of encoder, language model and vocoder must already be representable in half precision, and centroids stay as they are:
    nothing that was measured or trained on changes. Raises ContractError when the parts do not fit, ModelError when rounding would change
    a weight.
    """
    from textless.model_io import load_model, read_config, save_model
    from textless.units.quantizers import load_codebook

    contract = load_codebook(codebook).contract
    for part, folder, kind in (("encoder", encoder, "hubert"), ("lm", lm, "lm"), ("vocoder", vocoder, "vocoder")):
        config, tensors = load_model(folder, kind=kind)
        half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tensors.items()}
        if changed := next((k for k, v in tensors.items() if not np.array_equal(half[k].astype(v.dtype), v)), None):
            raise ModelError(
                f"{folder}: {changed} changes when rounded to half precision; round before the later stages are trained"
            )
        save_model(out / part, kind=kind, config=config, tensors=half)
        if part != "encoder":
            theirs = UnitContract.from_dict(read_config(folder, kind=kind)["contract"])
            contract.check(theirs, mine="the codebook", theirs=f"the {part}")
    load_codebook(codebook).save(out / "codebook")
    _ = Model(out).tokenizer.contract  # raises when encoder and codebook do not fit
    return contract


def continue_rows(
    lm: UnitDecoder,
    rows: Iterable[UnitRow],
    *,
    seconds: float | None = 3.0,
    max_new_units: int | None = None,
    prompt_seconds: float | None = None,
    samples: int = 1,
    seed: int = 0,
    only_new: bool = False,
    parts: bool = False,
    **sampling: Any,
) -> Iterator[UnitRow]:
    """Continue each row `samples` times; ids become `ID` or, with several samples, `ID-0` ….

    The draw depends on the seed, the row's id and the sample's number, not on the other rows, of which several are continued at once.
    `prompt_seconds` takes that much from the start of the row. The columns `prompt_frames` and `sample` are added. With `parts` the same
    units come row by row, each in parts (see `textless.units.dump.split_row`): the prompt, and then each unit as it is sampled.
    """
    from textless.lm.generate import BATCH

    def prompts() -> Iterator[tuple[UnitRow, Units, int]]:
        for row in rows:
            lm.contract.check(row.units.contract, mine="the language model", theirs=row.id)
            units = Units(row.units.units, row.units.durations, lm.contract)
            prompt = units if prompt_seconds is None else units.between(0, prompt_seconds)
            if not len(prompt):
                raise ContractError(f"{row.id}: an empty prompt; give some audio before what is to be continued")
            yield from ((row, prompt, k) for k in range(samples))

    def row_of(row: UnitRow, prompt: Units, k: int, units: Units) -> UnitRow:
        return UnitRow(
            id=row.id if samples == 1 else f"{row.id}-{k}",
            units=units,
            speaker=row.speaker,
            source=row.source,
            offset=row.offset,
            samples=row.samples,
            extra={**row.extra, "prompt_frames": 0 if only_new else prompt.n_frames, "sample": k},
        )

    def seed_of(row: UnitRow, k: int) -> int:
        return zlib.crc32(f"{seed}/{row.id}/{k}".encode())

    options: dict[str, Any] = {"seconds": seconds, "max_new_units": max_new_units, **sampling}
    waiting = prompts()
    while parts and (one := next(waiting, None)):
        row, prompt, k = one
        prompt = prompt if lm.has_durations else Units(prompt.units, None, prompt.contract)
        pieces = lm.stream(prompt, seed=seed_of(row, k), **options)
        yield from split_row(row_of(row, prompt, k, prompt), pieces if only_new else itertools.chain([prompt], pieces))
    while batch := list(itertools.islice(waiting, BATCH)):
        seeds = [seed_of(row, k) for row, _, k in batch]
        continued = lm.continue_units([prompt for _, prompt, _ in batch], seed=seeds, only_new=only_new, **options)
        for one, units in zip(batch, continued, strict=True):
            yield row_of(*one, units)


def resynth_row(
    vocoder: Vocoder,
    row: UnitRow,
    *,
    speaker: str | int | None = None,
    durations: str = "given",
    f0: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Speak a row: by the speaker asked for, else the row's own where the vocoder knows it, else the vocoder's first.

    `f0`: by id, the fundamental frequency to follow, see `BaseVocoder.resynth`. Raises ModelError when the row's is missing.
    """
    who = _who(vocoder, row, speaker)
    if f0 is not None and row.id not in f0:
        raise ModelError(f"{row.id}: there is no F0 to follow; track it in the audio that these units were made from")
    contour = None if f0 is None else f0[row.id][: row.units.n_frames]
    try:
        return vocoder.resynth(row.units, speaker=who, durations=durations, f0=contour)
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        raise ModelError(
            f"{row.id}: its {row.units.n_frames} frames take more memory than is free; cut the row into parts"
        ) from None


def _who(vocoder: Vocoder, row: UnitRow, speaker: str | int | None) -> str | int | None:
    names = {plain(name): name for name in vocoder.speakers}
    if speaker is None:
        return names.get(row.speaker or "")
    return names.get(plain(speaker), speaker) if isinstance(speaker, str) else speaker


def stream_rows(
    vocoder: StreamingVocoder, rows: Iterable[UnitRow], *, speaker: str | int | None = None, durations: str = "given"
) -> Iterator[np.ndarray]:
    """Speak rows one after the other while they come, those in parts (see `textless.units.dump.split_row`) part by part.

    Yields (samples,) float32. Raises DumpError when a row's last part is missing.
    """
    rows = iter(rows)

    def parts(row: UnitRow) -> Iterator[Units]:
        yield row.units
        while row.extra.get(MORE):
            before, row = row, next(rows, None) or row
            if row is before or row.id != before.id:
                raise DumpError(f"{before.id}: its last part is missing; was the command before this one stopped?")
            yield row.units

    for row in rows:
        yield from vocoder.stream(parts(row), speaker=_who(vocoder, row, speaker), durations=durations)


def named(rows: Iterable[UnitRow]) -> Iterator[tuple[UnitRow, str]]:
    """Each row with what its file is called; ids whose files would be called alike are told apart by a number.

    Names that differ by case or Unicode form alone are alike: some file systems take them for one.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the first that may be free: all below are taken
    for row in rows:
        clean = file_stem(row.id)
        first = _alike(clean)
        for k in itertools.count(numbers.get(first, 1)):
            name = clean if k == 1 else f"{clean}-{k}"
            if (alike := _alike(name)) not in taken:
                break
        numbers[first] = k + 1
        taken.add(alike)
        yield row, name


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def speak_rows(vocoder: Vocoder, rows: Iterable[UnitRow], folder: Path, **options: Any) -> Iterator[Path]:
    """Speak each row into `ID.wav`, with the options of `resynth_row`; files that are there are kept: an interrupted call goes on."""
    from textless.audio.io import write_audio

    for row, name in named(rows):
        path = folder / f"{name}.wav"
        if not path.exists():
            write_audio(path, resynth_row(vocoder, row, **options), sample_rate=vocoder.sample_rate)
        yield path

"""A set of models that belong together (encoder, codebook, language model, vocoder), and rows of units through them."""

from __future__ import annotations

import functools
import itertools
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast, overload

import numpy as np

from textless.audio.corpus import file_stem
from textless.errors import ContractError, DumpError, ModelError, did_you_mean, is_out_of_memory
from textless.model_io import CONFIG, read_config
from textless.names import plain
from textless.types import (
    ContinueOptions,
    GenerateOptions,
    SpeakOptions,
    StreamingVocoder,
    UnitContract,
    Units,
    UnitsLike,
    Vocoder,
    is_batch,
)
from textless.units.dump import MORE, UnitRow, split_row
from textless.zoo import PUBLISHED, is_repository, part_of, resolve

if TYPE_CHECKING:
    from textless.lm.decoder import Decoder
    from textless.types import StreamingVocoder, Vocoder
    from textless.units.tokenizer import Tokenizer
    from textless.vocoder.base import BaseVocoder

PARTS = ("encoder", "codebook", "lm", "vocoder")
EMBEDDED = Path(__file__).parent / "models"


def find_model(name: str | Path) -> Path:
    """Folder of an embedded set by its name, or of a set or a single model on disk. Raises ModelError."""
    for folder in (EMBEDDED / str(name), Path(name)):
        if (folder / CONFIG).exists() or any((folder / part).is_dir() for part in PARTS):
            return folder
    known = sorted(p.name for p in EMBEDDED.iterdir() if p.is_dir() and not p.name.startswith("_"))
    raise ModelError(
        f"{name}: neither a folder with {', '.join(PARTS)}, nor a name of `textless models`"
        f"{did_you_mean(str(name), [*known, *PUBLISHED])}"
    )


def is_known(name: str) -> bool:
    """Whether this is the name of an embedded set or of a published chain, whatever there is on disk."""
    return name in PUBLISHED or any(name == folder.name for folder in EMBEDDED.iterdir() if folder.is_dir())


class Model:
    """Speech to units, units continued, units to speech.

    Parts are loaded when they are first used, and checked against each other.

    Args:
        name: a set: an embedded one, a folder, or a published chain (`textless.zoo`), which is fetched when it is used.
        parts: `encoder`, `codebook`, `lm`, `vocoder`: single parts instead of the set's: a folder, a set to take it
            from, or a source for `load_encoder`, `load_codebook`, `load_lm` or `load_vocoder`; None is the set's.
        layer, tap: of the encoder, see `load_encoder`; None are those that the codebook was made on.
        smoothing: λ, the price of a change of the unit, see `textless.units.tokenizer.Tokenizer`; None is the set's.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: of encoder and vocoder, see `load_encoder` and `load_vocoder`.
        lm_precision: of the language model, see `load_lm`.

    Raises DeviceError for a device that is not there, ContractError for a smoothing below 0 or not finite.

    Attributes:
        tokenizer, lm, vocoder: the parts. Raise ModelError when the set lacks them, ContractError when they do not fit.
    """

    def __init__(
        self,
        name: Path | str,
        *,
        layer: int | None = None,
        tap: str | None = None,
        smoothing: float | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        lm_precision: str = "fp32",
        **parts: str | None,
    ) -> None:
        if unknown := sorted(set(parts) - set(PARTS)):
            raise TypeError(f"Model() got an unexpected keyword argument {unknown[0]!r}")
        if device != "cpu":  # for which torch need not be imported
            from textless.devices import resolve

            resolve(device)
        UnitContract(smoothing=smoothing)  # raises at once, not with the first file
        self.name, self.layer, self.tap, self.device = name, layer, tap, device
        self.smoothing, self.precision, self.lm_precision = smoothing, precision, lm_precision
        self.parts = {part: parts.get(part) for part in PARTS}

    def __repr__(self) -> str:
        """The parts, and of the units their number and frame rate. No weights are loaded."""
        parts = []
        for part in PARTS:
            try:
                self.place(part)
            except ModelError:
                continue
            parts.append(part)
        contract = self._declared_contract()
        n_units, rate = ("unknown" if v is None else f"{v:g}" for v in (contract.n_units, contract.frame_rate))
        name = Path(self.name).name if Path(self.name).is_dir() else self.name
        return f"<Model {name}: {', '.join(parts) or 'no parts'}; n_units {n_units}, frame_rate {rate}>"

    def _declared_contract(self) -> UnitContract:
        """Of the units, as far as it is known without loading weights."""
        if is_published(place := self.parts["codebook"] or self.name):
            return PUBLISHED[str(place)].contract
        try:
            return UnitContract.from_dict(read_config(self.place("codebook"), kind="codebook").get("contract"))
        except (ModelError, ContractError):
            return UnitContract()

    def place(self, part: str) -> Path | str:
        """Folder, file or name of a part. Raises ModelError when the set lacks it."""
        own = self.parts[part]
        if is_published(name := own or self.name):
            part_of(str(name), part)  # raises
            return str(name)
        if own is None:
            folder = find_model(self.name)
            if not (folder / part).is_dir():
                raise ModelError(f"{self.name} has no {part}; give one with --{part}")
            return folder / part
        for folder in (EMBEDDED / own, Path(own)):
            if (folder / part).is_dir():
                return folder / part
        loadable = part in ("encoder", "codebook") or Path(own).exists() or is_repository(own)
        return own if loadable else find_model(own)

    def files(self, part: str) -> Path:
        """Folder or file of a language model or vocoder on disk; fetched if it is published. Raises ModelError."""
        return resolve(self.place(part), part)

    def _contract(self, part: str) -> UnitContract:
        """Of the units of a language model or vocoder, as far as it is known from elsewhere than its files: published
        ones do not state it, but the codebook that they were made for does."""
        from textless.units.quantizers import load_codebook

        place = self.place(part)
        known = is_published(place) and "codebook" in PUBLISHED[str(place)].parts
        return load_codebook(place).contract if known else UnitContract()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        from textless.units.encoders.load import load_encoder
        from textless.units.encoders.signal import SIGNAL
        from textless.units.quantizers import load_codebook
        from textless.units.tokenizer import Tokenizer

        if (name := self.parts["encoder"]) in SIGNAL and self.parts["codebook"] is None:
            raise ModelError(
                f"--encoder {name} has no codebook of its own; give --codebook FILE (`textless run` trains one)"
            )
        encoder, codebook = self.place("encoder"), load_codebook(self.place("codebook"), self.layer, tap=self.tap)
        layer, window = self.layer or codebook.contract.layer, codebook.contract.window
        tap = self.tap or codebook.contract.tapped
        loaded = load_encoder(encoder, layer, window=window, tap=tap, device=self.device, precision=self.precision)
        if encoder == self.place("codebook"):  # one published name: they belong together
            codebook.contract = codebook.contract.with_(encoder=loaded.contract.encoder, window=loaded.contract.window)
        return Tokenizer(loaded, codebook, smoothing=self.smoothing)

    @functools.cached_property
    def lm(self) -> Decoder:
        from textless.lm import load_lm

        contract = self._contract("lm")
        lm = load_lm(self.place("lm"), contract=contract, precision=self.lm_precision)
        lm.contract = lm.contract.joined(contract, mine="the language model", theirs="its codebook")
        return lm.to(self.device)

    @functools.cached_property
    def vocoder(self) -> BaseVocoder:
        from textless.devices import resolve_precision
        from textless.vocoder import load_vocoder

        precision = resolve_precision(self.precision, self.device)
        vocoder = load_vocoder(self.place("vocoder"), precision=precision)
        contract = self._contract("vocoder")
        vocoder.contract = vocoder.contract.joined(contract, mine="the vocoder", theirs="its codebook")
        return vocoder.to(self.device)

    @property
    def sample_rate(self) -> int:
        return self.tokenizer.encoder.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.tokenizer.encoder.frame_rate

    @property
    def n_units(self) -> int:
        return self.tokenizer.quantizer.n_units

    @overload
    def encode(self, waveform: np.ndarray) -> Units: ...
    @overload
    def encode(self, waveform: Sequence[np.ndarray]) -> list[Units]: ...
    def encode(self, waveform: np.ndarray | Sequence[np.ndarray]) -> Units | list[Units]:
        """Waveform (samples,) float in [-1, 1] at 16 kHz → Units, deduplicated; a list of them → a list.

        Raises AudioError when it is something else (see `as_waveform`), or shorter than one frame.
        """
        if is_batch(waveform):
            return self.tokenizer.encode_batch(waveform)
        return self.tokenizer.encode(cast("np.ndarray", waveform))

    @overload
    def continue_units(self, units: UnitsLike, **options: Unpack[ContinueOptions]) -> Units: ...
    @overload
    def continue_units(self, units: Sequence[UnitsLike], **options: Unpack[ContinueOptions]) -> list[Units]: ...
    def continue_units(
        self, units: UnitsLike | Sequence[UnitsLike], **options: Unpack[ContinueOptions]
    ) -> Units | list[Units]:
        """Units → the same Units and what the language model adds; a list of them → a list.

        Args:
            seconds: length to add, by default 3.
            seed: of the sampling, by default 0.
            temperature: 0.8 by default; 0 takes the likeliest unit each time.
            top_k, top_p, min_p, repetition_penalty, no_repeat_ngram: see `textless.lm.Sampling`.
            max_new_units, only_new: see `textless.lm.decoder.Decoder.continue_units`.
        """
        options.setdefault("seconds", 3.0)
        return self.lm.continue_units(units, **options)

    def _base(self, units: UnitsLike) -> UnitsLike:
        """Units for the vocoder: merged ones expanded, by the table of the language model."""
        if isinstance(units, Units) and units.contract.merges and self.lm.merges:
            return self.lm.merges.expand(units)
        return units

    @overload
    def resynth(self, units: UnitsLike, **options: Unpack[SpeakOptions]) -> np.ndarray: ...
    @overload
    def resynth(self, units: Sequence[UnitsLike], **options: Unpack[SpeakOptions]) -> list[np.ndarray]: ...
    def resynth(
        self, units: UnitsLike | Sequence[UnitsLike], **options: Unpack[SpeakOptions]
    ) -> np.ndarray | list[np.ndarray]:
        """Units → waveform (samples,) float32; a list of them → a list.

        Args:
            speaker, style: name or index; by default the first.
            durations: "given", by default, or "predict".
            level: "raw" or "peak", by default the vocoder's own; see `textless.vocoder.base.BaseVocoder.resynth`.

        Merged units are expanded, see `textless.units.merges.MergeTable.expand`.
        """
        if is_batch(units):
            return self.vocoder.resynth([self._base(u) for u in units], **options)
        return self.vocoder.resynth(self._base(cast("UnitsLike", units)), **options)


def load(name: str | Path, *, smoothing: float | None = None, device: str = "cpu", precision: str = "fp32") -> Model:
    """A set of models: an embedded one by name (`tiny-en`), a folder, or a published chain by name (`twist-350m`).

    `smoothing`: of the units, see `textless.units.tokenizer.Tokenizer`; None is the set's.

    Raises ModelError; ContractError for a smoothing below 0 or not finite.
    """
    place = name if is_published(name) else find_model(name)
    return Model(place, smoothing=smoothing, device=device, precision=precision)


def is_published(name: str | Path) -> bool:
    """Whether a name is in the table, and not that of something here."""
    return str(name) in PUBLISHED and not Path(name).exists()


def bundle(out: Path, *, encoder: Path, codebook: Path, lm: Path, vocoder: Path) -> UnitContract:
    """Copy four models into one folder, weights in half precision; returns the units' contract.

    The weights of encoder, language model and vocoder must already be representable in half precision, and centroids
    are not rounded: nothing changes that was measured or trained on. The codebook gets the smoothing of the units that
    the language model was trained on, so that the set encodes such units. Raises ContractError when the parts do not
    fit, ModelError when rounding would change a weight.
    """
    from textless.model_io import load_model, save_model
    from textless.units.merges import MergeTable
    from textless.units.quantizers import load_codebook

    quantizer = load_codebook(codebook)
    spoken = UnitContract.from_dict(read_config(lm, kind="lm")["contract"])
    quantizer.contract = contract = quantizer.contract.with_(smoothing=spoken.smoothing)
    for part, folder, kind in (("encoder", encoder, "hubert"), ("lm", lm, "lm"), ("vocoder", vocoder, "vocoder")):
        config, tensors = load_model(folder, kind=kind)
        half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tensors.items()}
        for name, weight in tensors.items():
            if not np.array_equal(half[name].astype(weight.dtype), weight):
                raise ModelError(
                    f"{folder}: {name} changes when rounded to half precision; round it before the later stages are "
                    "trained"
                )
        save_model(out / part, kind=kind, config=config, tensors=half)
        if part != "encoder":
            theirs = UnitContract.from_dict(read_config(folder, kind=kind)["contract"])
            contract.check(theirs.base(), mine="the codebook", theirs=f"the {part}")
            if table := MergeTable.of(folder, theirs):
                table.save(out / part)
    quantizer.save(out / "codebook")
    _ = Model(out).tokenizer.contract  # raises when encoder and codebook do not fit
    return contract


def continue_rows(
    lm: Decoder,
    rows: Iterable[UnitRow],
    *,
    prompt_seconds: float | None = None,
    samples: int = 1,
    seed: int = 0,
    only_new: bool = False,
    parts: bool = False,
    **options: Unpack[GenerateOptions],
) -> Iterator[UnitRow]:
    """Continue each row `samples` times, by default by 3 seconds; ids become `ID` or, with several samples, `ID-0` ….

    The random draws depend on the seed, the row's id and the sample's number, not on the other rows of the batch.
    `prompt_seconds` takes that much from the start of the row as the prompt. The columns `prompt_frames` and `sample`
    are added. With `parts` the same units come row by row, each in parts (see `textless.units.dump.split_row`): the
    prompt, and then each unit as it is sampled. The rows are of units of the codebook, also where the model merges.
    """
    from textless.lm.generate import BATCH

    def prompts() -> Iterator[tuple[UnitRow, Units, int]]:
        for row in rows:
            if lm.merges is None:
                units = lm.checked(row.units, row.id)
            else:
                row = lm.merges.expand_row(row) if row.units.contract.merges else row
                lm.base_contract.check(row.units.contract, mine="the language model", theirs=row.id)
                units = Units(row.units.units, row.units.durations, lm.base_contract)
            prompt = units if prompt_seconds is None else units.between(0, prompt_seconds)
            if not len(prompt):
                raise ContractError(f"{row.id}: an empty prompt; give some audio before the continuation")
            yield from ((row, prompt, k) for k in range(samples))

    def continued(row: UnitRow, prompt: Units, k: int, units: Units) -> UnitRow:
        name = row.id if samples == 1 else f"{row.id}-{k}"
        frames = prompt.n_frames if lm.has_durations else len(prompt)
        extra = {**row.extra, "prompt_frames": 0 if only_new else frames, "sample": k}
        return replace(row, id=name, units=units, extra=extra)

    def seed_of(row: UnitRow, k: int) -> int:
        return zlib.crc32(f"{seed}/{row.id}/{k}".encode())

    options.setdefault("seconds", 3.0)
    todo = prompts()
    if parts:
        for row, prompt, k in todo:
            shown = prompt if lm.has_durations else Units(prompt.units, None, prompt.contract)
            new = lm.stream(prompt, seed=seed_of(row, k), **options)
            yield from split_row(continued(row, prompt, k, shown), new if only_new else itertools.chain([shown], new))
        return
    while batch := list(itertools.islice(todo, BATCH)):
        seeds = [seed_of(row, k) for row, _, k in batch]
        results = lm.continue_units([prompt for _, prompt, _ in batch], seed=seeds, only_new=only_new, **options)
        for (row, prompt, k), units in zip(batch, results, strict=True):
            yield continued(row, prompt, k, units)


def resynth_row(
    vocoder: Vocoder,
    row: UnitRow,
    *,
    f0: Mapping[str, np.ndarray] | None = None,
    **options: Unpack[SpeakOptions],
) -> np.ndarray:
    """Speak a row by the `speaker` that is given, else by the row's own where the vocoder has it, else by its first.

    `f0`: by id, the fundamental frequency to follow, see `Vocoder.resynth`. Raises ModelError when the row's is
        missing.
    """
    if f0 is not None and row.id not in f0:
        raise ModelError(f"{row.id}: there is no F0 to follow; track it in the audio that these units were made from")
    track = None if f0 is None else f0[row.id][: row.units.n_frames]
    try:
        return vocoder.resynth(row.units, f0=track, **_with_speaker(vocoder, row, options))
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        raise ModelError(
            f"{row.id}: its {row.units.n_frames} frames take more memory than is free; cut the row into parts"
        ) from None


def _with_speaker(vocoder: Vocoder, row: UnitRow, options: SpeakOptions) -> SpeakOptions:
    """The options, with the row's own speaker if none is given and the vocoder has it."""
    names = {plain(name): name for name in vocoder.speakers}
    speaker = options.get("speaker")
    if speaker is None:
        speaker = names.get(row.speaker or "")
    elif isinstance(speaker, str):
        speaker = names.get(plain(speaker), speaker)
    return {"durations": "given", **options, "speaker": speaker}


def stream_rows(vocoder: Vocoder, rows: Iterable[UnitRow], **options: Unpack[SpeakOptions]) -> Iterator[np.ndarray]:
    """Speak rows as they come, those in parts (see `textless.units.dump.split_row`) part by part.

    Yields (samples,) float32. Raises DumpError when a row's last part is missing, ModelError when the vocoder does not
    stream.
    """
    if not isinstance(vocoder, StreamingVocoder):
        raise ModelError("this vocoder speaks whole rows only; give one that streams")
    rows = iter(rows)

    def parts(row: UnitRow) -> Iterator[Units]:
        yield row.units
        while row.extra.get(MORE):
            before, row = row, next(rows, None) or row
            if row is before or row.id != before.id:
                raise DumpError(f"{before.id}: its last part is missing; was the command before this one stopped?")
            yield row.units

    for row in rows:
        yield from vocoder.stream(parts(row), **_with_speaker(vocoder, row, options))


def named(rows: Iterable[UnitRow]) -> Iterator[tuple[UnitRow, str]]:
    """Each row with the name of its file, without extension; ids that would have the same file get a number.

    Names that differ by case or Unicode form alone are the same: some file systems do not distinguish them.
    """
    used: set[str] = set()
    numbers: dict[str, int] = {}  # the first that may be free: all below are used
    for row in rows:
        clean = file_stem(row.id)
        first = _alike(clean)
        for k in itertools.count(numbers.get(first, 1)):
            name = clean if k == 1 else f"{clean}-{k}"
            if (alike := _alike(name)) not in used:
                break
        numbers[first] = k + 1
        used.add(alike)
        yield row, name


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def speak_rows(
    vocoder: Vocoder,
    rows: Iterable[UnitRow],
    folder: Path,
    **options: Unpack[SpeakOptions],
) -> Iterator[Path]:
    """Speak each row into `ID.wav`. Files that are there are kept, so that an interrupted call can be repeated."""
    from textless.audio.io import write_audio

    for row, name in named(rows):
        path = folder / f"{name}.wav"
        if not path.exists():
            waveform = resynth_row(vocoder, row, **options)
            write_audio(path, waveform, sample_rate=vocoder.sample_rate)
        yield path

"""The table of unit formats, and reading and writing by content and by name."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from textless.errors import ContractError, ContractWarning, DumpError, did_you_mean
from textless.exchange import fairseq, jsonl, lines, ours, resynthesis, textgrid
from textless.exchange.base import Declared, Format, Write, place
from textless.files import write_text
from textless.types import UnitContract, UnitRow
from textless.units.blocks import Block, Part, Rows, contract_of
from textless.units.card import Origin

HEAD = 1 << 16  # bytes by which a format is recognised
OURS = ("dump", "jsonl")

# In the order in which they are tried: the more particular first.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        ours.DUMP,
        ours.STREAM,
        textgrid.TEXTGRID,
        resynthesis.RESYNTHESIS,
        jsonl.SLAMKIT,
        jsonl.SLAMKIT_TOKENS,
        jsonl.UNIT_HIFIGAN,
        jsonl.DISCOPHON,
        jsonl.MINIMAL_HUBERT,
        jsonl.HUGGING_FACE,
        lines.TEXTLESSLIB,
        lines.ZEROSPEECH,
        fairseq.FAIRSEQ,
        lines.GSLM,
        lines.KALDI,
        lines.ESPNET,
        lines.ULM,
    )
}


def find_format(path: Path | str) -> Format | None:
    """The format of a file or folder, by its content. None: it holds no units that are known."""
    path = Path(path)
    with place(path):
        head = b""
        if path.is_file():
            with open(path, "rb") as f:
                head = f.read(HEAD)
        return next((f for f in FORMATS.values() if f.fits(path, head)), None)


def format_named(name: str) -> Format:
    """Raises DumpError, listing the known ones, for an unknown name."""
    if name not in FORMATS:
        raise DumpError(f"no unit format {name[:40]!r}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def read_units(
    path: Path | str,
    format: str | None = None,
    *,
    contract: UnitContract | None = None,
    frame_rate: float | None = None,
    n_units: int | None = None,
    runs: bool | None = None,
) -> Rows:
    """Rows of any tool's unit file, as they are read.

    Args:
        path: a file or folder of one of `FORMATS`; its companions (a manifest, durations, `contract.json`) are found
            next to it.
        format: its name; None: by content.
        contract: where the units come from, for what the file does not say.
        frame_rate: frames a second, if the file does not say it.
        n_units: size of the codebook, if the file does not say it; a unit beyond it is an error.
        runs: True: repetitions were removed and durations are unknown. False: one unit a frame. None: what the format
            says, or frames.

    Raises:
        DumpError: no such file, none of the formats, or damaged; it names file and line.
        ContractError: what is declared contradicts the file.
    """
    declared = Declared(
        contract=(contract or UnitContract()).with_(
            **{k: v for k, v in (("frame_rate", frame_rate), ("n_units", n_units)) if v is not None}
        ),
        runs=runs,
    )
    return Rows(_parts(Path(path), format, declared))


def _parts(path: Path, format: str | None, given: Declared) -> Iterator[Part]:
    if not path.exists():
        raise DumpError(f"{path}: no such file or folder")
    chosen = format_named(format) if format else find_format(path)
    if chosen is None:
        raise DumpError(f"{path}: holds no units in a known form ({', '.join(FORMATS)}); name it with --from")
    companion = _companion_contract(path) if "contract" in chosen.loses else UnitContract()
    declared, runs = given.contract, given.runs
    known = {k: v for k, v in companion.to_dict().items() if v is not None}
    if name := declared.conflict(companion):
        raise ContractError(
            f"{path}: its contract.json has {name} {getattr(companion, name)}, "
            f"but {getattr(declared, name)} is declared"
        )
    full = UnitContract.from_dict({**declared.to_dict(), **known})
    fill = functools.lru_cache(maxsize=64)(functools.partial(_filled, full))  # rows share their contracts
    frames = chosen.name in OURS and not runs  # there a unit without a duration is a frame
    last: tuple[UnitContract, bool] | None = None  # a contract's hash takes longer than the row
    filled = full
    for part in chosen.read(path, Declared(contract=full, runs=runs)):
        units = part if isinstance(part, Block) else part.units
        timed = frames or units.durations is not None
        if last is None or units.contract is not last[0] or timed != last[1]:
            last, filled = (units.contract, timed), fill(units.contract, timed)
        if filled is units.contract:
            yield part
        elif isinstance(part, UnitRow):
            yield replace(part, units=replace(part.units, contract=filled))
        elif (block := replace(part, contract=filled)).is_sound():
            yield block
        else:
            yield from block


def _filled(declared: UnitContract, contract: UnitContract, timed: bool) -> UnitContract:
    """A row's contract with what it does not know. A row of runs without durations keeps an unknown frame rate."""
    unknown = {k: v for k, v in declared.to_dict().items() if v is not None and getattr(contract, k) is None}
    if not timed:
        unknown.pop("frame_rate", None)
    return contract.with_(**unknown) if unknown else contract


def _companion_contract(path: Path) -> UnitContract:
    """What `write_units` left next to a file whose format cannot hold a contract, or in its folder."""
    near = ("contract.json",) if path.is_dir() else (f"{path.name}.contract.json", "contract.json")
    for file in (path / name if path.is_dir() else path.with_name(name) for name in near):
        if file.is_file():
            with place(file):
                return UnitContract.from_dict(json.loads(file.read_text(encoding="utf-8")))
    return UnitContract()


def companions(path: Path) -> list[Path]:
    """The files next to a unit file that it may be read with, sorted."""
    near = {path.with_suffix(s) for s in (".km", ".tsv", ".units", ".durations")}
    near |= {path.with_name(n) for n in (fairseq.DICTIONARY, "contract.json", f"{path.name}.contract.json")}
    return sorted(p for p in near - {path} if p.is_file())


def files_of(folder: Path) -> list[Path]:
    """The files of a folder of units, sorted."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]


def format_for(path: Path | str, format: str | None = None) -> Format:
    """The format that is written to a path: the one named, or that of the suffix; a name without a suffix is a dump."""
    if format:
        return format_named(format)
    suffix = Path(path).suffix.lower()
    if chosen := next((f for f in FORMATS.values() if suffix and suffix in f.suffixes), None):
        return chosen
    if suffix:
        raise DumpError(f"{path}: {suffix} is the suffix of no unit format; name one with --to ({', '.join(FORMATS)})")
    return FORMATS["dump"]


def write_units(
    path: Path | str,
    rows: Iterable[UnitRow],
    format: str | None = None,
    *,
    license: str | None = None,
    language: str | None = None,
) -> None:
    """Write rows in any tool's form; what the form cannot hold is said once, and the contract is written next to it.

    Args:
        path: of the file or folder; must not exist.
        format: its name; None: by the suffix, a dump without one.
        license, language: of the audio, as the card of a dump has them.

    Raises:
        DumpError: the path exists, or rows that the format cannot hold.
    """
    path, chosen = Path(path), format_for(path, format)
    if path.exists():
        raise DumpError(f"{path}: exists; give another name")
    origin = Origin(license=license, language=language)
    if origin.stated() and chosen.name != "dump":
        raise DumpError(f"{path}: {chosen.name} does not hold a licence or a language; only a dump does")
    write: Write = functools.partial(ours.write_dump, origin=origin) if chosen.name == "dump" else chosen.write
    contracts: list[UnitContract] = []
    lost: set[str] = set()

    def watched() -> Iterator[Part]:
        for part in rows.blocks() if isinstance(rows, Rows) else rows:
            if not contracts:
                contracts.append(contract_of(part))
            elif chosen.name not in OURS and (theirs := contract_of(part)) is not contracts[-1]:
                contracts[0].check(theirs, mine="the first row", theirs="a later one", together=True)
                contracts[1:] = [theirs]  # the last, since rows share their contracts
            lost.update(name for name in chosen.loses if name not in lost and _has(part, name, chosen))
            yield part

    write(path, watched() if chosen.blocks else Rows(watched()))
    if contracts and "contract" in chosen.loses:
        companion = path / "contract.json" if path.is_dir() else path.with_name(f"{path.name}.contract.json")
        with place(companion):
            write_text(companion, json.dumps(contracts[0].with_(pitch=None).to_dict(), indent=1) + "\n")
    in_words = {"span": "offset and samples", "extra": "extra columns"}
    if gone := sorted(in_words.get(name, name) for name in lost - {"contract"}):
        warnings.warn(f"{chosen.name} cannot hold {', '.join(gone)}; left out", ContractWarning, stacklevel=2)


def _has(part: Part, name: str, chosen: Format) -> bool:
    """Whether a row, or one of a block, has what a format loses."""
    if isinstance(part, Block):
        if name == "durations":
            return part.durations is not None
        columns = {"span": ("offset", "samples"), "speaker": ("speaker",), "source": ("source",)}.get(name, ())
        return name in ("contract", "id") or any(any(part.columns.get(c, ())) for c in columns)
    values = {
        "durations": part.units.durations is not None,
        "speaker": part.speaker is not None,
        "source": bool(part.source),
        "span": bool(part.offset or part.samples),
        "extra": bool(part.extra.keys() - set(chosen.keeps)) or part.units.pitch is not None,
        "contract": True,
        "id": True,
    }
    return values[name]

"""Merged units: byte-pair encoding of deduplicated units, and the exact way back.

The pair of units that is most frequent in the training units becomes a unit of its own, then the next, until there are
as many units as asked for (Sennrich et al. 2016, arXiv:1508.07909; over units of speech: Ren et al. 2022,
arXiv:2206.08317). Training and merging are those of the library `tokenizers`, for which every unit is a character.

A merged unit lasts as long as its base units together. How long each of them lasts is kept next to it: in rows, in the
extra column `base_durations`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textless.errors import ContractError, DumpError, ModelError, TrainingError
from textless.files import write_text
from textless.model_io import read_json
from textless.types import UnitContract, UnitRow, Units

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from textless.units.dump import Dump

FILE = "merges.json"  # in a dump of merged units, and in the folder of a language model over them
COLUMN = "base_durations"  # of a row: frames of each base unit, in order
# Unit k is the character FIRST + k. From here on every code point is a character of its own: none is a surrogate, a
# space or combines with another, so that `tokenizers` sees as many characters as there are units.
FIRST = 0x10000
MOST_BASE = 0x110000 - FIRST
LONGEST = 64  # base units of a merged one; a table of few merges must not expand to gigabytes
# Units that training sees together: its time for one text grows with the square of the length.
PIECE = 512


class MergeTable:
    """Which pairs of units are merged, in order.

    Args:
        pairs: (M, 2) integers, each of a base unit or of an earlier merged one. A pair whose base units are those of an
            earlier merged unit is another way to that one.
        base: contract of the base units; n_units must be known.

    Attributes:
        n_units: size of the vocabulary: the base units, then the merged ones.
        contract: of the merged units.
        lengths: (n_units,) int64, how many base units each has.
        first, last: (n_units,) int64, the base unit that each begins and ends with.

    Raises:
        ModelError: a pair of units that are not there, or one that becomes longer than `LONGEST`.
        ContractError: the number of base units is unknown, or more than `MOST_BASE`.
    """

    def __init__(self, pairs: Sequence[Sequence[int]] | np.ndarray, base: UnitContract) -> None:
        self.base, self.n_base = base, _size_of(base)
        self.pairs = [(int(a), int(b)) for a, b in pairs]
        spelled: list[tuple[int, ...]] = [(k,) for k in range(self.n_base)]
        known: dict[tuple[int, ...], int] = {}
        for a, b in self.pairs:
            if not 0 <= min(a, b) <= max(a, b) < len(spelled):
                raise ModelError(f"the merge table merges {a} and {b}, but has {len(spelled)} units before that")
            whole = spelled[a] + spelled[b]
            if len(whole) > LONGEST:
                raise ModelError(f"the merge table merges {len(whole)} units into one; {LONGEST} are the most")
            if known.setdefault(whole, len(spelled)) == len(spelled):
                spelled.append(whole)
        self.n_units = len(spelled)
        self.lengths = np.array([len(s) for s in spelled], np.int64)
        self._flat = np.concatenate([np.array(s, np.int64) for s in spelled])
        self._starts = np.cumsum(self.lengths) - self.lengths
        self.first, self.last = self._flat[self._starts], self._flat[self._starts + self.lengths - 1]
        digest = hashlib.sha256(json.dumps([self.n_base, self.pairs], separators=(",", ":")).encode()).hexdigest()
        self.contract = base.with_(merges=digest, n_units=self.n_units, base_units=self.n_base)

    def __repr__(self) -> str:
        return f"MergeTable({self.n_base} → {self.n_units} units)"

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        texts = [
            _text(self._flat[at : at + n]) for at, n in zip(self._starts.tolist(), self.lengths.tolist(), strict=True)
        ]
        pairs = [(texts[a], texts[b]) for a, b in self.pairs]
        return Tokenizer(BPE({text: k for k, text in enumerate(texts)}, pairs))

    def merge(self, units: Units) -> tuple[Units, np.ndarray]:
        """Deduplicated units → merged units, and how many frames each base unit lasts, (N,) int64, for `expand`.

        Raises ContractError for units of another codebook or with pitch, DumpError for units that are not deduplicated.
        """
        check_mergeable(units, self.base)
        durations = np.ones_like(units.units) if units.durations is None else units.durations
        merged = np.array(self._tokenizer.encode(_text(units.units)).ids, np.int64)
        lengths = self.lengths[merged]
        totals = np.add.reduceat(durations, np.cumsum(lengths) - lengths) if len(merged) else durations
        return Units(merged, totals, self.contract), durations

    def expand(self, units: Units, durations: np.ndarray | None = None) -> Units:
        """Merged units → their base units.

        Args:
            durations: frames of each base unit, as `merge` gives them: then nothing is lost. None, for units that a
                language model sampled: the base units of a merged one share its frames equally, the first ones have
                one more; where there are fewer frames than base units, the last ones are left out. Units without
                durations become base units without.

        Raises ContractError for units of another table, DumpError for durations that are not of these units.
        """
        self.contract.check(units.contract, mine="the merge table", theirs="the units")
        lengths = self.lengths[units.units]
        ends = np.cumsum(lengths)
        place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)  # in its merged unit
        base = self._flat[np.repeat(self._starts[units.units], lengths) + place]
        if units.durations is None:
            return Units(base, None, self.base)
        if durations is None:
            share, rest = np.divmod(units.durations, np.maximum(lengths, 1))
            durations = np.repeat(share, lengths) + (place < np.repeat(rest, lengths))
            return Units(base[durations > 0], durations[durations > 0], self.base)
        durations = np.asarray(durations, np.int64)
        if durations.shape != base.shape or (
            len(base) and not np.array_equal(np.add.reduceat(durations, ends - lengths), units.durations)
        ):
            raise DumpError(f"{COLUMN} are not of these units: they do not add up to their durations; merge them again")
        return Units(base, durations, self.base)

    def merge_row(self, row: UnitRow) -> UnitRow:
        """A row with its units merged, and with `base_durations`. Raises as `merge`, with the row's id."""
        try:
            merged, durations = self.merge(row.units)
        except DumpError as e:
            raise DumpError(f"{row.id}: {e}") from None
        return replace(row, units=merged, extra={**row.extra, COLUMN: durations.tolist()})

    def expand_row(self, row: UnitRow) -> UnitRow:
        """What `merge_row` was given. Raises as `expand`, and DumpError for a row without `base_durations`."""
        extra = dict(row.extra)
        if (durations := extra.pop(COLUMN, None)) is None:
            raise DumpError(f"{row.id}: has no {COLUMN}, by which merged units are expanded; merge them again")
        try:
            return replace(row, units=self.expand(row.units, np.asarray(durations, np.int64)), extra=extra)
        except (DumpError, ValueError, TypeError, OverflowError) as e:
            raise DumpError(f"{row.id}: {e}") from None

    def save(self, folder: Path | str) -> None:
        """Write `merges.json`."""
        content = {"kind": "merges", "contract": self.base.to_dict(), "merges": self.pairs}
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder) / FILE, json.dumps(content, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> MergeTable:
        """The table in a folder: of a merged dump, or of a language model. Raises ModelError for a damaged one."""
        place = Path(folder) / FILE
        content = read_json(place)
        if content.get("kind") != "merges":
            raise ModelError(f"{place}: holds {str(content.get('kind'))[:40]!r} where a merge table is wanted")
        pairs = content.get("merges")
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 and _whole(p) for p in pairs):
            raise ModelError(f"{place}: merges must be pairs of whole numbers; copy the table again")
        try:
            return cls(pairs, UnitContract.from_dict(content.get("contract")))
        except (ModelError, ContractError) as e:
            raise ModelError(f"{place}: {e}; copy the table again") from None

    @classmethod
    def of(cls, folder: Path | str, contract: UnitContract) -> MergeTable | None:
        """The table in the folder of a dump or model of this contract; None where its units are not merged.

        Raises ModelError where it is missing, damaged, or another.
        """
        if not contract.merges:
            return None
        if not (Path(folder) / FILE).is_file():
            raise ModelError(f"{folder}: its units are merged, and {FILE} is not with them; give the merged dump")
        table = cls.load(folder)
        if name := table.contract.conflict(contract):
            raise ModelError(f"{Path(folder) / FILE}: is another table ({name} differs); copy the folder again")
        return table


def fit_merges(sequences: Iterable[Units], n_units: int, *, contract: UnitContract) -> MergeTable:
    """Train a merge table on deduplicated units.

    Args:
        n_units: size of the vocabulary, the base units included.
        contract: of the units; n_units must be known.

    Raises:
        TrainingError: the vocabulary is not larger than the codebook, or there are not as many pairs that occur twice.
        ContractError: units of another kind, with pitch, or merged already. DumpError: units that are not deduplicated.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    if contract.merges:
        raise ContractError("these units are merged already; give those that they were merged from")
    _check_no_pitch(contract)
    n_base = _size_of(contract)
    if n_units <= n_base:
        raise TrainingError(f"a merged vocabulary of {n_units} is not larger than the codebook of {n_base} units")
    tokenizer = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=n_units,
        min_frequency=2,
        initial_alphabet=list(_text(np.arange(n_base))),
        max_token_length=LONGEST,
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        for units in sequences:
            check_mergeable(units, contract)
            yield from (_text(units.units[i : i + PIECE]) for i in range(0, len(units), PIECE))

    tokenizer.train_from_iterator(texts(), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    numbers = model["vocab"]
    table = MergeTable([(numbers[a], numbers[b]) for a, b in model["merges"]], contract)
    if table.n_units < n_units:
        raise TrainingError(
            f"a vocabulary of {n_units} needs more units to train on: pairs that occur twice make {table.n_units}"
        )
    return table


def base_rows(dump: Dump) -> Iterator[UnitRow]:
    """The rows of a dump; merged ones are expanded by the table in its folder. Raises ModelError as `MergeTable.of`."""
    table = MergeTable.of(dump.folder, dump.contract)
    return iter(dump) if table is None else map(table.expand_row, dump)


def check_mergeable(units: Units, base: UnitContract) -> None:
    """Raise ContractError for units of another kind or with pitch, DumpError where a unit follows itself."""
    _check_no_pitch(units.contract)
    if units.contract is not base:
        base.check(units.contract, mine="the merge table", theirs="the units")
    if len(units) and units.units.max() >= _size_of(base):
        raise ContractError(f"unit {units.units.max()} is outside the merge table's codebook of {base.n_units} units")
    if (same := units.units[1:] == units.units[:-1]).any():
        at = int(same.argmax())
        raise DumpError(f"unit {units.units[at]} follows itself at {at + 1}: merging takes deduplicated units")


def _check_no_pitch(contract: UnitContract) -> None:
    if contract.pitch:
        raise ContractError("these units have pitch, and merged units have none; merge those that they were made from")


def _size_of(base: UnitContract) -> int:
    if base.n_units is None:
        raise ContractError("the number of units is unknown; declare n_units with --contract")
    if base.n_units > MOST_BASE:
        raise ContractError(f"units of a codebook of {base.n_units} cannot be merged; {MOST_BASE} are the most")
    return base.n_units


def _text(units: np.ndarray) -> str:
    """A character for each unit."""
    return (units + FIRST).astype("<u4").tobytes().decode("utf-32-le")


def _whole(pair: list[Any]) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) for n in pair)

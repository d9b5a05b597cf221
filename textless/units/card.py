"""The README of a unit dump: a data set card, as the Hugging Face hub and `datasets` read it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.errors import DumpError

if TYPE_CHECKING:
    import pyarrow as pa

    from textless.types import UnitContract

# The hub's identifiers; another licence is `other` with a name. huggingface/hub-docs,
# docs/hub/repositories-licenses.md.
_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl mpl-2.0 odc-by odbl "
    "openmdw-1.0 osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl unknown other"
)
LICENSES = frozenset(_LICENSES.split())
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
LONGEST = 200  # characters of a licence
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
SHARDS = "data/*.parquet"
SHARD = re.compile(r"(\w+)-\d{5}\.parquet")  # of one split; see `shard_name`
SPLIT = "split"  # the extra column of units that says a row's split
MOST_SPLITS = 64
UNSPLIT = "unsplit"  # the split of rows without one, where others have one
LONGEST_SPLIT = 64  # characters


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of the audio that units are made of, and does not change the units.

    Attributes:
        license: of the audio: an identifier of the hub such as `cc-by-4.0`, or a name or address.
        language: codes such as `en` or `pt-BR`, with commas between.

    Raises DumpError for a licence of several lines, and for a language that is not a code.
    """

    license: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        text = self.license
        if text is not None and (not text.strip() or len(text) > LONGEST or not text.isprintable()):
            raise DumpError(f"a licence is one line of at most {LONGEST} characters, not {text[:40]!r}")
        if self.language is not None and not self.languages():
            raise DumpError("a language is a code such as en or pt-BR, not ''")
        if bad := next((code for code in self.languages() if not LANGUAGE.fullmatch(code)), None):
            raise DumpError(f"a language is a code such as en or pt-BR, not {bad[:40]!r}")

    def languages(self) -> list[str]:
        return [code.strip() for code in (self.language or "").split(",") if code.strip()]

    def stated(self) -> dict[str, str]:
        """What is not None, for the keys of commands."""
        return {k: v for k, v in (("license", self.license), ("language", self.language)) if v is not None}


def origin_of(folder: Path) -> Origin:
    """What a dump states; nothing where there is no dump, or what it states is not as it must be."""
    try:
        about = json.loads((folder / "dump.json").read_text(encoding="utf-8"))
        return Origin(license=about.get("license"), language=about.get("language"))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, DumpError):
        return Origin()


def split_of(value: object) -> str:
    """A split as `datasets` can name it: small letters, and `_` for what is no letter or digit; None is `unsplit`.

    Raises DumpError for a name that is too long for a file (huggingface/datasets, src/datasets/naming.py).
    """
    if value is None or value == "":
        return UNSPLIT
    name = re.sub(r"\W", "_", str(value)).lower()
    if len(name) > LONGEST_SPLIT:
        raise DumpError(f"split {str(value)[:40]!r}… is longer than {LONGEST_SPLIT} characters; shorten it")
    return "all_" if name == "all" else name  # `all` is the union of splits there


def shard_name(n: int, split: str = "") -> str:
    """The file of shard n, of one split where there are several; the card lists splits by these names."""
    return f"{split}-{n:05d}.parquet" if split else f"{n:05d}.parquet"


def readme(
    contract: UnitContract, totals: dict[str, Any], origin: Origin, schemas: list[pa.Schema], shards: Sequence[str] = ()
) -> str:
    """The text of README.md: the hub's YAML header, figures, contract, and how the dump is read."""
    import yaml

    header = yaml.safe_dump(metadata(totals, origin, schemas, shards), sort_keys=False, allow_unicode=True)
    hours = f"{totals['hours']:.2f} hours, " if "hours" in totals else ""
    facts = "\n".join(f"| {k} | {v if v is not None else 'unknown'} |" for k, v in contract.to_dict().items())
    return f"""---
{header}---

# Discrete speech units

{totals["rows"]:,} sequences, {hours}{totals["units"]:,} units, {totals["frames"]:,} frames.
Licence of the audio: {origin.license or "not stated"}.

| contract | |
|---|---|
{facts}

    import textless;  dump = textless.open_dump(".");  dump[0].units
    import pandas;    pandas.read_parquet("data")
    import polars;    polars.read_parquet("data/*.parquet")
    import datasets;  datasets.load_dataset(".")

`units` are deduplicated where there are `durations` (frames of each unit); otherwise each unit is one frame.
`offset` and `samples` say which part of the file `source` a row is, in samples at the contract's rate.
"""


def metadata(
    totals: dict[str, Any], origin: Origin, schemas: list[pa.Schema], shards: Sequence[str] = ()
) -> dict[str, Any]:
    """The header of the card. `features` are left out where the shards differ, or have columns that YAML has no type
    for. `shards` are the names of the files; where all are called by their split, each split is listed."""
    data: dict[str, Any] = {}
    if origin.license:
        name = origin.license.strip()
        known = name.lower().replace(" ", "-")
        data["license"] = known if known in LICENSES else "other"
        if known not in LICENSES:
            is_link = name.startswith(("https://", "http://"))
            data["license_link" if is_link else "license_name"] = name if is_link else known
    if origin.languages():
        data["language"] = origin.languages()
    rows = totals["rows"]
    data |= {
        "pretty_name": "Discrete speech units",
        "size_categories": [SIZES[min(max(len(str(rows)) - 3, 0), len(SIZES) - 1)]],
        "tags": ["speech", "discrete-units", "textless"],
        "configs": [{"config_name": "default", "data_files": _data_files(shards)}],
    }
    fields = [[(f.name, f.type) for f in schema] for schema in schemas]
    if fields and all(f == fields[0] for f in fields):
        features = [_feature(name, kind) for name, kind in fields[0]]
        if None not in features:
            data["dataset_info"] = {"features": features}
    return data


def _data_files(shards: Sequence[str]) -> list[dict[str, str]]:
    """The files of each split. Without splits all are `train`, as `datasets` calls a single one."""
    named = [SHARD.fullmatch(name) for name in shards]
    splits = dict.fromkeys(match[1] for match in named if match)
    if not splits or None in named:
        return [{"split": "train", "path": SHARDS}]
    return [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]


def _feature(name: str, kind: pa.DataType) -> dict[str, Any] | None:
    """A column as `datasets` has it in YAML (huggingface/datasets, src/datasets/features/features.py). None: it has no
    short form."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        inner = _dtype(kind.value_type)
        return None if inner is None else {"name": name, "sequence": inner}
    dtype = _dtype(kind)
    return None if dtype is None else {"name": name, "dtype": dtype}


def _dtype(kind: pa.DataType) -> str | None:
    import pyarrow as pa

    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return str(kind)
    return {"float": "float32", "double": "float64"}.get(str(kind))

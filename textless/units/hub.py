"""Unit dumps on the Hugging Face hub: a data set repository, written in one commit."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textless.errors import DumpError, OutputExistsError, TextlessError
from textless.units.card import Origin, origin_of, readme
from textless.units.dump import Dump
from textless.units.merges import FILE as MERGES
from textless.units.merges import MergeTable

CARD = "README.md"
ABOUT = "dump.json"
TARGET = re.compile(r"hub:([\w.-]+/[\w.-]+)", re.ASCII)
BARE = {".gitattributes", CARD}  # what the website writes into a new repository


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What of a dump goes to the hub: the files of the format, and no receipts or lists of failures.

    Attributes:
        files: by the path in the repository, the file, or its bytes where they differ from those of the folder.
        rows: of the dump.
        size: bytes of all files.
    """

    files: dict[str, Path | bytes]
    rows: int
    size: int


def upload_of(folder: str | Path, *, license: str | None = None) -> Upload:
    """The files of a dump, whose shards are checked.

    Args:
        folder: of the dump; it is not changed.
        license: of the audio, for the card and dump.json of the upload, where the dump states none or another.

    Raises:
        DumpError: no dump, a damaged one, or one without a licence.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise DumpError(f"{folder}: not a unit dump ({ABOUT} is missing); make one with `textless convert` or `encode`")
    dump = Dump(folder)
    stated = origin_of(folder)
    origin = Origin(license=license or stated.license, language=stated.language)
    if origin.license is None:
        raise DumpError(
            f"{folder}: states no licence, which others need to use it; give --license, such as cc-by-4.0 "
            "(`encode` and `convert` have it as well)"
        )
    files: dict[str, Path | bytes] = {CARD: folder / CARD, ABOUT: folder / ABOUT}
    shards = dump.shards()
    if origin != stated or not _states_licence(folder / CARD):
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files[ABOUT] = (json.dumps({**about, "license": origin.license}, indent=1) + "\n").encode()
        files[CARD] = _card(dump, origin, shards).encode()
    files |= {f"data/{shard.name}": shard for shard in shards}
    if MergeTable.of(folder, dump.contract):
        files[MERGES] = folder / MERGES
    size = sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files.values())
    return Upload(files=files, rows=len(dump), size=size)


def _states_licence(card: Path) -> bool:
    """Whether a card, which may have been edited by hand, has a licence in its header."""
    import yaml

    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        if header := re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8"), re.S):
            about = yaml.safe_load(header[1])
            return isinstance(about, dict) and bool(about.get("license"))
    return False


def _card(dump: Dump, origin: Origin, shards: list[Path]) -> str:
    import pyarrow.parquet

    totals = {"rows": len(dump), "units": 0, "frames": 0, **dump.totals}
    schemas = [pyarrow.parquet.read_schema(shard) for shard in shards]
    return readme(dump.contract, totals, origin, schemas, [shard.name for shard in shards])


def push_dump(
    folder: str | Path,
    target: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a dump as a data set; returns the address of its page.

    Args:
        folder: of the dump, with its card.
        target: `hub:OWNER/NAME`, at $HF_ENDPOINT if that is set. It is made where it does not exist. A dump that it
            holds is replaced: shards that are no longer there are removed in the same commit.
        private: make it private.
        revision: a branch, which is made where it does not exist; None: main.
        license: of the audio, where the dump does not state it.

    The token is huggingface_hub's: HF_TOKEN, or that of `hf auth login`. All is in one commit: after a failure nothing
    is published, and files that were sent already are not sent again.

    Raises:
        DumpError: see `upload_of`.
        OutputExistsError: the repository holds other things than a dump, or is public where `private` is asked for.
        TextlessError: no network, no token, or one that may not write there.
    """
    return push(upload_of(folder, license=license), target, private=private, revision=revision)


def push(upload: Upload, target: str, *, private: bool = False, revision: str | None = None) -> str:
    """As `push_dump`, of files that are chosen already."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    repo = repository(target)
    with _hub_errors(repo):
        api = HfApi()
        head, there = _prepare(api, repo, private, revision)
        operations: list[Any] = [CommitOperationAdd(path, file) for path, file in _open(upload.files)]
        gone = [name for name in there if re.fullmatch(r"data/[^/]+\.parquet", name) and name not in upload.files]
        operations += [CommitOperationDelete(name) for name in gone]
        message = f"Upload {upload.rows:,} rows of discrete speech units"
        api.create_commit(
            repo, operations, commit_message=message, repo_type="dataset", revision=revision, parent_commit=head
        )
    return f"{constants.ENDPOINT}/datasets/{repo}" + (f"/tree/{revision}" if revision else "")


def repository(target: str) -> str:
    """`OWNER/NAME` of `hub:OWNER/NAME`. Raises TextlessError for anything else."""
    if not (match := TARGET.fullmatch(target)):
        raise TextlessError(f"{target[:80]!r} is no place for a dump; give hub:OWNER/NAME")
    return match[1]


def _open(files: dict[str, Path | bytes]) -> Iterator[tuple[str, str | bytes]]:
    for path, file in files.items():
        yield path, file if isinstance(file, bytes) else str(file)


def _prepare(api: Any, repo: str, private: bool, revision: str | None) -> tuple[str | None, list[str]]:
    """The last commit of the repository, or of the branch, and its files; both are made where they do not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repo, repo_type="dataset")
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type="dataset", private=private or None)
        info = api.repo_info(repo, repo_type="dataset")
    if private and not info.private:
        raise OutputExistsError(f"{repo}: exists and is public; make it private on its page, or leave --private out")
    if revision:
        api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)
        info = api.repo_info(repo, repo_type="dataset", revision=revision)
    names = api.list_repo_files(repo, repo_type="dataset", revision=revision)
    if ABOUT not in names and (other := sorted(set(names) - BARE)):
        raise OutputExistsError(f"{repo}: holds {other[0]} and no unit dump; give another name, or another --revision")
    return info.sha, names


@contextlib.contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub and of its HTTP library into a TextlessError of one line."""
    from huggingface_hub import constants

    at = f"{constants.ENDPOINT}/datasets/{repo}"
    try:
        yield
    except TextlessError:
        raise
    except Exception as e:
        code = getattr(getattr(e, "response", None), "status_code", None)
        remedies = {
            401: "log in with `hf auth login`, or set HF_TOKEN, with a token that may write",
            403: f"the token may not write to {repo.partition('/')[0]}; log in with one that may (`hf auth login`)",
            404: "no such repository, or the token may not see it; check the name",
            412: "it was changed meanwhile; push again",
        }
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        why = f"HTTP {code}; {remedies[code]}" if code in remedies else f"{reason}; push again"
        raise TextlessError(f"{at}: cannot be written, and nothing is published ({why})") from None

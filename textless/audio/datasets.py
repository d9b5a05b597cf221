"""Public data sets by name: fetched, checked and unpacked into a folder for `textless encode` and the step `corpus`."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from textless.audio.archives import unpack
from textless.audio.fetch import Progress, fetch, one_at_a_time
from textless.errors import CorpusError, OutputExistsError, did_you_mean
from textless.files import write_text

MARK = ".textless.json"  # in an unpacked folder: the name of the data set and its number of audio files
AUDIO = (".flac", ".wav")
SPLITS = ("corpus", "id", "speaker", "split")  # columns of splits.tsv


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A .tar.gz whose members are all in one folder. `sha256` and `size` (bytes) are None if they are not published."""

    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A public corpus.

    Attributes:
        archives: unpacked into one folder, each without its outermost folder.
        files: the number of audio files in all archives.
        who: path of an audio file in that folder → (speaker, split).
        about: licence and attribution.
    """

    archives: tuple[Archive, ...]
    files: int
    who: Callable[[PurePosixPath], tuple[str, str]]
    about: str


# The speakers of train-clean-5 that tiny-en was not trained on; the speakers of dev-clean-2 are others, all unseen.
HELD_OUT = {"2416": "dev", "3664": "dev", "332": "test", "1867": "test", "1970": "test", "4640": "test"}


def _librispeech(path: PurePosixPath) -> tuple[str, str]:
    """PART/SPEAKER/CHAPTER/ID.flac"""
    part, speaker = path.parts[0], path.parts[-3]
    return speaker, HELD_OUT.get(speaker, "train") if part == "train-clean-5" else part


# By sentence, since some were read more than once; a misread sentence counts as another one.
SENTENCES = {
    "dev": """
        a0051 a0080 a0098 a0103 a0146 a0150 a0183 a0189 a0203 a0210 a0238 a0248 a0251 a0253 a0265 a0283 a0284 a0351
        a0362 a0395 a0408 a0423 a0436 a0479 a0501 a0511 a0521 a0529 a0564 a0573 a0578 b0091 b0095 b0106 b0141 b0159
        b0189 b0195 b0218 b0225 b0265 b0324 b0340 b0344 b0365 b0378 b0399 b0428 b0439 b0475 b0491 b0505 b0536 b0537
    """,
    "test": """
        a0004 a0008 a0009 a0013 a0023 a0062 a0088 a0131 a0132 a0137 a0162 a0178 a0180 a0188 a0190 a0193 a0200 a0208
        a0211 a0214 a0217 a0229 a0237 a0287 a0294 a0300 a0313 a0323 a0332 a0337 a0372 a0387 a0399 a0440 a0467 a0472
        a0489 a0491 a0495 a0532 a0545 a0546 a0551 a0588 b0010 b0035 b0039 b0055 b0068 b0077 b0078 b0088 b0099 b0121
        b0136 b0147 b0161 b0169 b0214 b0230 b0235 b0252 b0260 b0277 b0280 b0297 b0298 b0310 b0314 b0319 b0355 b0387
        b0408 b0422 b0432 b0441 b0450 b0464 b0502 b0531
    """,
}
MISREAD = ("arctic_a0062_1592747107", "arctic_b0439_1592528989", "arctic_b0537_1592524792")


def _kathleen(path: PurePosixPath) -> tuple[str, str]:
    """data/arctic_PROMPT_TIME.wav"""
    prompt = path.stem[len("arctic_") :][:5]
    if path.stem in MISREAD:
        return "kathleen", "train"
    return "kathleen", next((split for split, prompts in SENTENCES.items() if prompt in prompts), "train")


DATASETS = {
    "mini_librispeech": Dataset(
        archives=(
            Archive(
                url="https://www.openslr.org/resources/31/train-clean-5.tar.gz",
                sha256="47805806c8b15f7549f3c51bd6b7da72ec0128a34d32830c8014a88658c0292d",
                size=332_954_390,
            ),
            Archive(
                url="https://www.openslr.org/resources/31/dev-clean-2.tar.gz",
                sha256="176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012",
                size=126_046_265,
            ),
        ),
        files=1519 + 1089,
        who=_librispeech,
        about="CC BY 4.0: LibriSpeech ASR corpus, V. Panayotov, G. Chen, D. Povey, S. Khudanpur; "
        "prepared by OpenSLR (openslr.org/31)",
    ),
    "kathleen_en": Dataset(
        # GitHub packs a commit again for each download, so there is no checksum but gzip's, and the number of files.
        archives=(
            Archive(
                url="https://github.com/rhasspy/dataset-voice-kathleen/archive/"
                "c51cb971036a127359b43c621f26ca5081eab13e.tar.gz"
            ),
        ),
        files=1620,
        who=_kathleen,
        about="CC0: Rhasspy dataset-voice-kathleen (github.com/rhasspy/dataset-voice-kathleen)",
    ),
}


def fetch_dataset(
    name: str, folder: Path | str, *, progress: Progress = lambda done, total, what: None
) -> tuple[Path, bool]:
    """Fetch a data set into `folder/NAME`, and write its manifest, its words and its splits.

    These are `folder/NAME.tsv` (audio, id, speaker, split), `folder/NAME.txt` (id, words; if the archives hold any) and
    its lines of `folder/splits.tsv`. The folder is renamed into place when it is complete; the next call finishes one
    that was killed. An existing folder is not changed.

    Returns the manifest, and whether anything was unpacked.

    Raises ModelError as `fetch`, OutputExistsError when the folder is not a data set of `textless fetch`, CorpusError
    when an archive is damaged or holds anything but plain files in its own folder, when files are missing, and when the
    folder cannot be written.
    """
    if name not in DATASETS:
        raise CorpusError(f"no data set {name!r}{did_you_mean(name, DATASETS)}")
    dataset, folder = DATASETS[name], Path(folder)
    target, work = folder / name, folder / f"{name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / ".fetch.lock"):
            if new := not target.exists():
                archives = [fetch(a.url, sha256=a.sha256, size=a.size, progress=progress) for a in dataset.archives]
                shutil.rmtree(work, ignore_errors=True)
                try:
                    for path in archives:
                        unpack(path, work, progress)
                    files = sum(1 for _ in _audio(work))
                    if files != dataset.files:
                        raise CorpusError(
                            f"{name}: the archives hold {files} audio files where {dataset.files} are expected; "
                            "try again"
                        )
                except CorpusError:
                    shutil.rmtree(work, ignore_errors=True)
                    _forget(dataset, archives)
                    raise
                write_text(work / MARK, json.dumps({"dataset": name, "files": files}) + "\n")
                work.rename(target)
            _check_whole(target, name)
            _write_tables(target, name, dataset)
    except OSError as e:
        raise CorpusError(
            f"{e.filename or folder}: cannot be written ({e.strerror or e}); make room, or give another folder with -o"
        ) from None
    return folder / f"{name}.tsv", new


def _forget(dataset: Dataset, paths: list[Path]) -> None:
    """Remove archives without a checksum from the cache, after one of them turned out to be wrong."""
    for archive, path in zip(dataset.archives, paths, strict=True):
        if archive.sha256 is None:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def _audio(folder: Path) -> Iterator[PurePosixPath]:
    """Audio files below a folder, relative to it, sorted."""
    yield from (PurePosixPath(p.relative_to(folder).as_posix()) for p in sorted(folder.rglob("*")) if p.suffix in AUDIO)


def _check_whole(target: Path, name: str) -> None:
    try:
        files = json.loads((target / MARK).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise OutputExistsError(
            f"{target}: exists and was not made by `textless fetch`; give another folder with -o"
        ) from None
    count = sum(1 for _ in _audio(target))
    if count != files:
        raise CorpusError(f"{target}: holds {count} of the {files} audio files of {name}; remove it and fetch it again")


def _write_tables(target: Path, name: str, dataset: Dataset) -> None:
    """Write the manifest and the words if they are missing, and append to splits.tsv what it lacks."""
    rows = [(path, path.stem, *dataset.who(path)) for path in _audio(target)]
    manifest, splits = target.with_name(f"{name}.tsv"), target.with_name("splits.tsv")
    if not manifest.exists():
        write_text(
            manifest, _table([("audio", "id", "speaker", "split"), *((f"{name}/{p}", *rest) for p, *rest in rows)])
        )
    text = target.with_name(f"{name}.txt")
    if not text.exists() and (words := _words(target, {row[1] for row in rows})):
        write_text(text, _table(sorted(words.items())))
    lines: list[Sequence[str]] = [SPLITS]
    if splits.exists():
        lines = []
        with open(splits, encoding="utf-8", newline="") as f, contextlib.suppress(UnicodeDecodeError, csv.Error):
            lines += csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not lines or tuple(lines[0]) != SPLITS:
            raise OutputExistsError(
                f"{splits}: has other columns than {', '.join(SPLITS)}; give another folder with -o"
            )
    known = {line[1] for line in lines if len(line) == len(SPLITS)}
    if new := [(name, *rest) for _, *rest in rows if rest[0] not in known]:
        write_text(splits, _table([*lines, *new]))


def _words(target: Path, ids: set[str]) -> dict[str, str]:
    """The words of files by id: LibriSpeech's lines of id and words in `*.trans.txt`, or `ID.txt` next to the audio."""
    out: dict[str, str] = {}
    for path in sorted(target.rglob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = (
            [line.partition(" ") for line in text.splitlines()]
            if path.name.endswith(".trans.txt")
            else [(path.stem, "", text)]
        )
        out |= {name: " ".join(words.split()) for name, _, words in lines if name in ids and words.strip()}
    return out


def _table(rows: Iterable[Sequence[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)

"""Files of strangers: their bytes, and every error about them in one line."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textless.errors import ModelError
from textless.pickles.machine import DAMAGED, shown


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Every error as a ModelError of one line that begins with the path: damaged bytes can raise anything."""
    try:
        yield
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None
    except FileNotFoundError:
        raise ModelError(f"{path}: does not exist; check the path") from None
    except MemoryError:
        raise ModelError(f"{path}: needs more memory than there is; if it should be small, {DAMAGED}") from None
    except OSError as e:
        raise ModelError(f"{path}: cannot be read ({e.strerror or shown(e)}); check the file") from None
    except Exception as e:
        raise ModelError(
            f"{path}: is cut short, damaged, or of another kind ({type(e).__name__}: {shown(e)}); {DAMAGED}"
        ) from None


def mapped(path: Path | str) -> mmap.mmap:
    """The file's bytes. Reading past the end gives fewer, so no length in the file can ask for memory; writes stay in memory."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ModelError(f"is a {'folder' if path.is_dir() else 'device or pipe'} where a file is wanted; give a file")
    if not path.stat().st_size:
        raise ModelError(f"is empty; {DAMAGED}")
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)

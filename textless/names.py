"""Ids, speakers and splits in one form, so that what two programs write for one name is equal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file name that are not UTF-8, which Python keeps as surrogates, become `\\udcXX`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(name: str) -> str:
    """The form in which names are compared: encodable, and composed (Unicode NFC), as keyboards write; macOS decomposes file names."""
    return name if name.isascii() else unicodedata.normalize("NFC", encodable(name))


def repeated(names: Iterable[str]) -> str | None:
    """The first name that comes a second time."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def by_plain_name(values: Mapping[str, Value]) -> dict[str, Value]:
    """The same values under plain names."""
    return {plain(name): value for name, value in values.items()}

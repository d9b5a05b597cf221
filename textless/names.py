"""Ids, speakers and splits in one Unicode form, so that names from different programs compare equal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: surrogates, in which Python keeps the bytes of odd file names, become `\\udcXX`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(name: str) -> str:
    """The form in which names are compared: encodable, in Unicode NFC, as typed; macOS decomposes file names."""
    return name if name.isascii() else unicodedata.normalize("NFC", encodable(name))


def repeated(names: Iterable[str]) -> str | None:
    """The first duplicate, None if there is none."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def by_plain_name(values: Mapping[str, Value]) -> dict[str, Value]:
    """The values, with their names in `plain` form."""
    return {plain(name): value for name, value in values.items()}

"""Names of a package that are imported on first use, so that `import textless` loads nothing that is not used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, where: Mapping[str, str], *, rest: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        where: the module that each name is in, or is.
        rest: a module in which all other names are looked up, for a package that was a module before 0.2.
    """

    def find(name: str) -> Any:
        if name in where:
            module = importlib.import_module(where[name])
            return module if where[name] == f"{package}.{name}" else getattr(module, name)
        if rest and not name.startswith("__") and hasattr(module := importlib.import_module(rest), name):
            return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted(where)

"""What a pickle held, as plain data."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from textless.errors import ModelError
from textless.pickles.machine import DEPTH, Name, Stub, hashable


def plain(value: Any) -> Any:
    """What was loaded, with every `Stub` and `Name` turned into plain data; tensors, arrays and other values stay as they are.

    OmegaConf containers become dicts and lists (interpolations and "???" as they stand), other objects the dict of their attributes, enum
    members their value, classes their name, numpy scalars Python numbers. What is shared stays shared.
    Raises ModelError when a value holds itself or is nested too deeply.
    """
    done: dict[int, Any] = {}  # by identity: what is reached a thousand times is turned once
    inside: set[int] = set()

    def turn(value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is Name:
            return value.name
        if isinstance(value, np.generic):
            return value.item()
        if kind not in (Stub, dict, OrderedDict, list, tuple):
            return value
        if id(value) in done:
            return done[id(value)]
        if id(value) in inside or depth > DEPTH:
            raise ModelError(f"a value holds itself or is nested deeper than {DEPTH}; it cannot be taken as plain data")
        inside.add(id(value))
        if kind is Stub:
            result = turn(_content(value), depth + 1)
        elif kind in (list, tuple):
            result = kind([turn(v, depth + 1) for v in value])
        else:
            result = kind()
            for key, v in value.items():
                (key,) = hashable([turn(key, depth + 1)])  # of an enum member it is the value
                result[key] = turn(v, depth + 1)
        inside.discard(id(value))
        done[id(value)] = result
        return result

    return turn(value, 0)


_NOTHING: dict = {}


def _content(stub: Stub) -> Any:
    """What a stub is about; an object that lives as long as the stub, as `plain` knows objects by their identity."""
    state = stub.state
    if (
        stub.name.startswith("omegaconf.") and type(state) is dict
    ):  # the other attributes are _metadata, and _parent, which leads back up
        for key in ("_content", "_val"):
            if key in state:
                return state[key]
    if stub.items is not None:
        return stub.items
    if state is None and len(stub.args) == 1:  # an enum member is its class called with its value
        return stub.args[0]
    return state if state is not None else stub.args or _NOTHING

"""How long what is missing will take, going by what took how long before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from textless.engine.explain import differences
from textless.engine.job import Job
from textless.engine.shards import Pool, split_rows
from textless.engine.step import MapStep, Source, Step
from textless.engine.store import Store


def estimate(store: Store, steps: list[Step]) -> list[float | None]:
    """Seconds of each step; None where none of its kind was ever made here, or nothing says how much there is to do.

    The nearest of its kind gives the seconds a shard, or a step of training. A shard that is there costs nothing.
    """
    manifests = list(store.manifests())
    return [_estimate(store, step, [m for m in manifests if m["step"] == step.type]) for step in steps]


def _estimate(store: Store, step: Step, made: list[dict[str, Any]]) -> float | None:
    # What was made in several attempts only tells of the last; what was found whole in the pool tells nothing.
    made = [m for m in made if m["attempts"] == 1 and m.get("amount") != 0]
    if not made:
        return None
    nearest = min(made, key=lambda m: len(differences(store, step.type, step, m)))
    amount = _amount(store, step)
    if amount is None or nearest.get("amount") is None:
        return nearest["seconds"]
    return nearest["seconds"] / nearest["amount"] * amount


def _amount(store: Store, step: Step) -> int | None:
    """What is to be done: shards that are missing, or steps of training; None where it has not come to be known."""
    if not isinstance(step, MapStep):
        return getattr(step, "steps", None)
    if any(not isinstance(s, Source) and not store.has(s) for n, s in step.inputs().items() if n in step.rows_from):
        return None
    pool = Pool(store.work(step) / "scratch" / "shards", store.root / "shards")
    with tempfile.TemporaryDirectory() as folder:
        shards = split_rows(step.rows(Job(Path(folder), store.inputs(step), lambda done, total, what: None)))
    return sum(pool.find(store.keys.shard(step, members)) is None for members in shards)

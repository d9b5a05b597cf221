"""How long missing steps will take, from the times of similar steps in the store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from textless.engine.explain import differences
from textless.engine.job import Job, no_progress
from textless.engine.shards import Pool, split_rows
from textless.engine.step import MapStep, Source, Step
from textless.engine.store import Store


def estimate(store: Store, steps: list[Step]) -> list[float | None]:
    """Seconds of each step; None where the store has no step of its type.

    The most similar step of the same type gives the seconds per shard, or per training step. Existing shards cost
    nothing.
    """
    manifests = list(store.manifests())
    return [_estimate(store, step, [m for m in manifests if m["step"] == step.type]) for step in steps]


def _estimate(store: Store, step: Step, manifests: list[dict[str, Any]]) -> float | None:
    # Of several attempts, only the time of the last is known; a step whose shards all existed took no time.
    manifests = [m for m in manifests if m["attempts"] == 1 and m.get("amount") != 0]
    if not manifests:
        return None
    nearest = min(manifests, key=lambda m: len(differences(store, step.type, step, m)))
    amount = _amount(store, step)
    if amount is None or nearest.get("amount") is None:
        return nearest["seconds"]
    return nearest["seconds"] / nearest["amount"] * amount


def _amount(store: Store, step: Step) -> int | None:
    """Missing shards, or training steps; None where it is not known yet."""
    if not isinstance(step, MapStep):
        return getattr(step, "steps", None)
    if any(not isinstance(s, Source) and not store.has(s) for n, s in step.inputs().items() if n in step.rows_from):
        return None
    pool = Pool(store.work(step) / "scratch" / "shards", store.root / "shards")
    with tempfile.TemporaryDirectory() as folder:
        shards = split_rows(step.rows(Job(Path(folder), store.inputs(step), no_progress)))
    return sum(pool.find(store.keys.shard(step, members)) is None for members in shards)

"""Why a step will run: what differs from the nearest result of its kind, down to the root causes."""

from __future__ import annotations

from typing import Any

from textless.engine.manifest import source_hash
from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store


def why(pipeline: Pipeline, store: Store, name: str) -> list[str]:
    """Why a step will run, or did not have to, down to the root causes: a line each."""
    pipeline.pick([name])
    step = pipeline.steps[name]
    if isinstance(step, Source):
        return [f"{name} is a source, identified by its content: {store.keys.of(step)[:12]}"]
    if manifest := store.manifest(step):
        lines = [f"{name} is done: {store.name(step)}"]
        if manifest["source"] != source_hash():
            lines.append("the source code has changed since; raise the step's version if its result should change")
        return lines
    now, key = store.keys.lineage(step), store.keys.of(step)
    others = [m for m in store.manifests() if m["step"] == step.type]
    if not others:
        return [f"{name} has never been made in {store.root}"]
    # The nearest of its kind is the one that was probably meant; of equals the newest.
    causes = [_causes(m["lineage"], now, m["key"], key, name, set()) for m in others]
    nearest = min(range(len(others)), key=lambda i: len(causes[i]))
    return [f"{name} differs from {step.type}-{others[nearest]['key'][:12]}, the nearest of its kind:", *causes[nearest]]


def _causes(old: dict[str, Any], new: dict[str, Any], old_key: str, new_key: str, where: str, told: set[tuple[str, str]]) -> list[str]:
    """Recursive difference of two payloads. What several ways lead to is told once."""
    if old_key == new_key or (old_key, new_key) in told:
        return []
    told.add((old_key, new_key))
    a, b = old[old_key], new[new_key]
    if a["step"] != b["step"]:
        return [f"  {where}: step {a['step']} → {b['step']}"]
    out = []
    if a["version"] != b["version"]:
        out.append(f"  {where}: version of step {b['step']} {a['version']} → {b['version']}")
    for name in sorted(a["fields"].keys() | b["fields"].keys()):
        before, after = (d["fields"].get(name, "the default") for d in (a, b))
        if before != after:
            out.append(f"  {where}.{name}: {before} → {after}")
    if a.get("content") != b.get("content"):
        out.append(f"  {where}: its content changed")
    for name in sorted(a["inputs"].keys() | b["inputs"].keys()):
        before, after = a["inputs"].get(name), b["inputs"].get(name)
        if before is None or after is None:
            out.append(f"  {where}.{name}: {'added' if before is None else 'removed'}")
        else:
            out += _causes(old, new, before, after, f"{where}.{name}", told)
    return out

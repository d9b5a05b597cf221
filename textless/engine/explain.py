"""Why a step will run: its differences from the most similar result, down to the root causes. How a result was made."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from textless.engine.manifest import source_hash
from textless.engine.pipeline import Pipeline
from textless.engine.step import Source, Step
from textless.engine.store import Store
from textless.text import duration


def why(pipeline: Pipeline, store: Store, name: str) -> list[str]:
    """Why a step will or will not run, down to the root causes: a line each."""
    pipeline.pick([name])
    step = pipeline.steps[name]
    if isinstance(step, Source):
        return [f"{name} is a source, identified by its content: {store.keys.of(step)[:12]}"]
    if manifest := store.manifest(step):
        lines = [f"{name} is done: {store.name(step)}"]
        if manifest["source"] != source_hash():
            lines.append("the source code has changed since; raise the step's version if its result should change")
        return lines
    others = [m for m in store.manifests() if m["step"] == step.type]
    if not others:
        return [f"{name} has never been made in {store.root}"]
    # The most similar one is probably the one that the user expects to be reused; of equal ones the newest.
    causes = [differences(store, name, step, m) for m in others]
    nearest = min(range(len(others)), key=lambda i: len(causes[i]))
    return [
        f"{name} differs from {step.type}-{others[nearest]['key'][:12]}, the most similar one:",
        *causes[nearest],
    ]


def differences(store: Store, name: str, step: Step, manifest: dict[str, Any]) -> list[str]:
    """The differences between a step and one that was made, down to the root causes: a line each."""
    return _causes(manifest["lineage"], store.keys.lineage(step), manifest["key"], store.keys.of(step), name, set())


def _causes(
    old: dict[str, Any], new: dict[str, Any], old_key: str, new_key: str, where: str, seen: set[tuple[str, str]]
) -> list[str]:
    """Recursive difference of two payloads. An input that is reached on several paths is reported once."""
    if old_key == new_key or (old_key, new_key) in seen:
        return []
    seen.add((old_key, new_key))
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
            out += _causes(old, new, before, after, f"{where}.{name}", seen)
    return out


def provenance(store: Store, name: str, step: Step) -> list[str]:
    """How a result was made, down to the sources: a line each, inputs indented below. A repeated one is only named."""
    lines: list[str] = []
    seen: set[str] = set()

    def add(field: str, step: Step, depth: int) -> None:
        key, payload = store.keys.of(step), store.keys.payload(step)
        where = f"{'  ' * depth}{field}: "
        if isinstance(step, Source):
            places = {
                f.name: str(v)
                for f in fields(step)
                if f.metadata.get("path") and (v := getattr(step, f.name)) is not None
            }
            lines.append(f"{where}{step.type} {key[:12]}{_listed({**payload['fields'], **places})}")
            return
        if key in seen:
            lines.append(f"{where}{store.name(step)}, as above")
            return
        seen.add(key)
        lines.append(f"{where}{store.name(step)}, version {step.version}{_listed(payload['fields'])}")
        if manifest := store.manifest(step):
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest["finished"]))
            libraries = ", ".join(
                f"{k} {v}" for k, v in manifest["versions"].items() if k in ("textless", "python", "torch")
            )
            lines.append(
                f"{'  ' * depth}  made {when} on {manifest['host']} in {duration(manifest['seconds'])} with {libraries}"
            )
        else:
            lines.append(f"{'  ' * depth}  no longer in the store")
        for field, parent in step.inputs().items():
            add(field, parent, depth + 1)

    add(name, step, 0)
    return lines


def _listed(settings: dict[str, Any]) -> str:
    return "".join(f", {k} {v}" for k, v in settings.items())

"""Pipelines: a graph of named steps, what of it is missing, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textless.engine import ranks
from textless.engine.step import Source, Step
from textless.engine.store import Progress, Store, source_hash
from textless.errors import PipelineError, did_you_mean


@dataclass
class Pipeline:
    """Steps by name. `temporary` names those whose artefacts are dropped once nothing wants them."""

    steps: dict[str, Step]
    temporary: set[str] = field(default_factory=set)

    def pick(self, targets: Iterable[str]) -> list[str]:
        """The targets, or without any the steps that no other takes. Raises PipelineError for an unknown name."""
        targets = list(targets)
        for name in targets:
            if name not in self.steps:
                raise PipelineError(f"no step {name!r} in the pipeline{did_you_mean(name, self.steps)}")
        if targets:
            return targets
        taken = {id(s) for step in self.steps.values() for s in step.inputs().values()}
        return [n for n, s in self.steps.items() if id(s) not in taken and not isinstance(s, Source)]

    def name_of(self, step: Step) -> str:
        return next((n for n, s in self.steps.items() if s is step), step.type)

    def plan(self, store: Store, targets: Iterable[str] = ()) -> list[Step]:
        """What is missing, inputs first. Inputs are asked for only where the step itself is missing."""
        order: list[Step] = []
        seen: set[str] = set()

        def visit(step: Step) -> None:
            if isinstance(step, Source) or store.keys.of(step) in seen or store.has(step):
                return
            for parent in step.inputs().values():
                visit(parent)
            order.append(step)
            seen.add(store.keys.of(step))

        for name in self.pick(targets):
            visit(self.steps[name])
        store.save_hashes()
        return order

    def run(
        self,
        store: Store,
        targets: Iterable[str] = (),
        *,
        started: Callable[[str, int, int], None] = lambda name, n, total: None,
        progress: Progress = lambda done, total, what: None,
    ) -> dict[str, Path]:
        """Make what is missing and return the targets' folders by name. `started` is called with each step's name, number and the count.

        Of several processes the first makes everything, and is the one to call `started` and `progress`. The others join in
        collective steps, and wait for the targets alone: what lies between may be dropped before they have seen it.
        """
        wanted = self.pick(targets)
        missing = self.plan(store, wanted)
        folders = {name: store.folder(self.steps[name]) for name in wanted if not isinstance(self.steps[name], Source)}
        if ranks.rank():
            for step in missing:
                store.join(step)
            for name in folders:
                store.wait(self.steps[name])
            return folders
        for n, step in enumerate(missing, 1):
            started(self.name_of(step), n, len(missing))
            store.run(step, progress)
        if missing:
            for name in self.temporary - set(wanted):
                store.drop(self.steps[name])
        return folders

    def failed(self, store: Store, targets: Iterable[str] = ()) -> dict[str, tuple[int, Path]]:
        """Rows that could not be done on the way to the targets: number and list, by the step's name."""
        out: dict[str, tuple[int, Path]] = {}
        seen: set[int] = set()

        def visit(step: Step) -> None:
            if id(step) in seen:
                return
            seen.add(id(step))
            manifest = None if isinstance(step, Source) else store.manifest(step)
            if manifest and manifest["failures"]:
                out[self.name_of(step)] = manifest["failures"], store.folder(step) / "failures.jsonl"
            for parent in step.inputs().values():
                visit(parent)

        for name in self.pick(targets):
            visit(self.steps[name])
        return out

    def state(self, store: Store, name: str) -> str:
        """`source`, `done`, `started` (a work folder is there) or `missing`."""
        step = self.steps[name]
        if isinstance(step, Source):
            return "source"
        if store.has(step):
            return "done"
        return "started" if store.work(step).exists() else "missing"

    def why(self, store: Store, name: str) -> list[str]:
        """Why a step will run, or did not have to, down to the root causes: a line each."""
        self.pick([name])
        step = self.steps[name]
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
        causes = [_causes(m["lineage"], now, m["key"], key, name) for m in others]
        nearest = min(range(len(others)), key=lambda i: len(causes[i]))
        return [f"{name} differs from {step.type}-{others[nearest]['key'][:12]}, the nearest of its kind:", *causes[nearest]]


def _causes(old: dict[str, Any], new: dict[str, Any], old_key: str, new_key: str, where: str) -> list[str]:
    """Recursive difference of two payloads."""
    if old_key == new_key:
        return []
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
            out += _causes(old, new, before, after, f"{where}.{name}")
    return out

"""Pipelines: a graph of named steps, and which of them are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textless import ranks
from textless.engine import live
from textless.engine.gc import record_run, roots
from textless.engine.job import Progress, no_progress
from textless.engine.lease import guard
from textless.engine.step import Source, Step
from textless.engine.store import Store
from textless.errors import PipelineError, StoreError, did_you_mean, quoted

REPLANS = 3  # times that inputs may vanish during a run, because another run has dropped them


@dataclass
class Pipeline:
    """Steps by name.

    Attributes:
        temporary: names of steps whose artefacts are dropped once nothing needs them.
        variants: of a sweep, the swept settings that a step depends on, by the step's full name,
            `name@setting=value,…`.
        file: where it was read from.
    """

    steps: dict[str, Step]
    temporary: set[str] = field(default_factory=set)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    file: str = ""

    def pick(self, targets: Iterable[str]) -> list[str]:
        """The targets; by default the steps that are no input of another. A swept step's bare name means all variants.

        Raises PipelineError for an unknown name.
        """
        targets = list(targets)
        if not targets:
            inputs = {id(s) for step in self.steps.values() for s in step.inputs().values()}
            return [n for n, s in self.steps.items() if id(s) not in inputs and not isinstance(s, Source)]
        swept: dict[str, list[str]] = {}
        for name in self.variants:
            swept.setdefault(name.partition("@")[0], []).append(name)
        picked: dict[str, None] = {}
        for name in targets:
            if name not in self.steps and name not in swept:
                raise PipelineError(
                    f"no step {quoted(name)} in the pipeline{did_you_mean(name, [*self.steps, *swept])}"
                )
            picked |= dict.fromkeys([name] if name in self.steps else swept[name])
        return list(picked)

    def name_of(self, step: Step) -> str:
        return next((n for n, s in self.steps.items() if s is step), step.type)

    def above(self, targets: Iterable[str]) -> list[Step]:
        """The targets and their direct and indirect inputs, each step once, inputs first."""
        order: dict[int, Step] = {}

        def visit(step: Step) -> None:
            if id(step) not in order:
                for parent in step.inputs().values():
                    visit(parent)
                order[id(step)] = step

        for name in self.pick(targets):
            visit(self.steps[name])
        return list(order.values())

    def plan(self, store: Store, targets: Iterable[str] = ()) -> list[Step]:
        """Missing steps, inputs first. Inputs are looked at only where the step itself is missing."""
        order = self._missing(store, self.pick(targets), set())[0]
        store.save_hashes()
        return order

    def wanted(self, store: Store, targets: Iterable[str], remote: set[str]) -> list[str]:
        """Names of the remote artefacts that a run would otherwise make."""
        return self._missing(store, self.pick(targets), remote)[1]

    def _missing(self, store: Store, targets: list[str], remote: set[str]) -> tuple[list[Step], list[str]]:
        """Steps to make, inputs first, and artefacts to pull instead."""
        order: list[Step] = []
        pulled: list[str] = []
        seen: set[str] = set()

        def visit(step: Step) -> None:
            if isinstance(step, Source) or store.keys.of(step) in seen or store.has(step):
                return
            seen.add(store.keys.of(step))
            if store.name(step) in remote:
                pulled.append(store.name(step))
                return
            for parent in step.inputs().values():
                visit(parent)
            order.append(step)

        for name in targets:
            visit(self.steps[name])
        return order, pulled

    def run(
        self,
        store: Store,
        targets: Iterable[str] = (),
        *,
        started: Callable[[str, int, int], None] = lambda name, n, total: None,
        progress: Progress = no_progress,
    ) -> dict[str, Path]:
        """Make missing steps and return the targets' folders by name.

        Of several processes the first makes everything, and it alone calls `started` and `progress`. The others join
        collective steps and wait for the targets; they cannot wait for other steps, which may be dropped at any time.

        Args:
            started: called with each step's name, its number, and the number of steps.
        """
        names = self.pick(targets)
        folders = {name: store.folder(self.steps[name]) for name in names if not isinstance(self.steps[name], Source)}
        if ranks.rank():
            for step in self.plan(store, names):
                store.join(step)
            for name in folders:
                store.wait(self.steps[name])
            return folders
        record = store.root, self.file, {n: store.name(self.steps[n]) for n in folders}, self._needed(store, names)
        wants = [store.name(step) for step in self.above(names) if not isinstance(step, Source)]
        with live.registered(store.root, wants):
            record_run(*record)
            try:
                count = self._make(store, names, started, progress)
            finally:
                record_run(*record)  # again: the days for which it is kept count from the end of the run
        if count:
            for name in self.temporary - set(names):
                self._drop(store, name)
        return folders

    def _make(
        self, store: Store, targets: list[str], started: Callable[[str, int, int], None], progress: Progress
    ) -> int:
        """Make missing steps, and return the number of steps that were made."""
        for step in self.above(targets):
            if not isinstance(step, Source) and store.work(step).exists() and store.has(step):
                store.run(step)  # was killed just after publishing: this removes what is left
        count = 0
        for left in reversed(range(REPLANS + 1)):
            missing = self.plan(store, targets)
            for n, step in enumerate(missing):
                count += 1
                started(self.name_of(step), count, count + len(missing) - n - 1)
                try:
                    store.run(step, progress)
                except Exception:
                    if left and any(not isinstance(s, Source) and not store.has(s) for s in step.inputs().values()):
                        break
                    raise
            else:
                break
        return count

    def failed(self, store: Store, targets: Iterable[str] = ()) -> dict[str, tuple[int, Path]]:
        """Failed rows of the targets and their inputs: their number and the file of them, by the step's name."""
        out: dict[str, tuple[int, Path]] = {}
        for step in self.above(targets):
            manifest = None if isinstance(step, Source) else store.manifest(step)
            if manifest and manifest["failures"]:
                out[self.name_of(step)] = manifest["failures"], store.folder(step) / "failures.jsonl"
        return out

    def state(self, store: Store, name: str) -> str:
        """`source`, `done`, `damaged`, `started` (a work folder exists) or `missing`."""
        step = self.steps[name]
        if isinstance(step, Source):
            return "source"
        if store.has(step):
            return "done"
        if store.folder(step).exists():
            return "damaged"
        return "started" if store.work(step).exists() else "missing"

    def _needed(self, store: Store, targets: list[str]) -> list[str]:
        """Artefacts of the targets and their inputs, except those that are dropped at the end."""
        dropped = {id(self.steps[name]) for name in self.temporary - set(targets)}
        return [store.name(s) for s in self.above(targets) if not isinstance(s, Source) and id(s) not in dropped]

    def _drop(self, store: Store, name: str) -> None:
        """Drop a temporary artefact, unless a process works on a step that takes it, or another run needs it."""
        step = self.steps[name]
        takers = [s for s in self.steps.values() if any(parent is step for parent in s.inputs().values())]
        with contextlib.suppress(StoreError), guard(store.root / "work"):  # StoreError: a damaged record may need it
            artefact = store.name(step)
            needed = artefact in roots(store.root) or any(run.may_want(artefact) for run in live.runs(store.root))
            if not needed and not any(map(store.busy, takers)):
                store.drop(step)

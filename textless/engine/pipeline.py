"""Pipelines: a graph of named steps, and what of it is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textless import ranks
from textless.engine import live
from textless.engine.gc import needed, record_run
from textless.engine.job import Progress
from textless.engine.lease import guard
from textless.engine.step import Source, Step
from textless.engine.store import Store
from textless.errors import PipelineError, StoreError, did_you_mean, quoted

REPLANS = 3  # times that inputs may vanish under a run: another one on the same store had done with them


@dataclass
class Pipeline:
    """Steps by name.

    Attributes:
        temporary: names of those whose artefacts are dropped once nothing wants them.
        variants: of a sweep, the swept settings that a step depends on, by the step's full name, `name@setting=value,…`.
        file: where it was read from.
    """

    steps: dict[str, Step]
    temporary: set[str] = field(default_factory=set)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    file: str = ""

    def pick(self, targets: Iterable[str]) -> list[str]:
        """The targets, or without any the steps that no other takes. The bare name of a swept step stands for all its variants.

        Raises PipelineError for an unknown name.
        """
        targets = list(targets)
        if not targets:
            taken = {id(s) for step in self.steps.values() for s in step.inputs().values()}
            return [n for n, s in self.steps.items() if id(s) not in taken and not isinstance(s, Source)]
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
        """The targets and everything that they depend on, each key once, inputs first."""
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
        """What is missing, inputs first. Inputs are asked for only where the step itself is missing."""
        order = self._missing(store, self.pick(targets), set())[0]
        store.save_hashes()
        return order

    def wanted(self, store: Store, targets: Iterable[str], elsewhere: set[str]) -> list[str]:
        """Of the artefacts that are elsewhere, those that a run would not have to make if they were here."""
        return self._missing(store, self.pick(targets), elsewhere)[1]

    def _missing(self, store: Store, targets: list[str], elsewhere: set[str]) -> tuple[list[Step], list[str]]:
        order: list[Step] = []
        wanted: list[str] = []
        seen: set[str] = set()

        def visit(step: Step) -> None:
            if isinstance(step, Source) or store.keys.of(step) in seen or store.has(step):
                return
            seen.add(store.keys.of(step))
            if store.name(step) in elsewhere:
                wanted.append(store.name(step))
                return
            for parent in step.inputs().values():
                visit(parent)
            order.append(step)

        for name in targets:
            visit(self.steps[name])
        return order, wanted

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
        folders = {name: store.folder(self.steps[name]) for name in wanted if not isinstance(self.steps[name], Source)}
        if ranks.rank():
            for step in self.plan(store, wanted):
                store.join(step)
            for name in folders:
                store.wait(self.steps[name])
            return folders
        record = store.root, self.file, {n: store.name(self.steps[n]) for n in folders}, self._needed(store, wanted)
        with live.alive(store.root, [store.name(step) for step in self.above(wanted) if not isinstance(step, Source)]):
            record_run(*record)
            try:
                made = self._make(store, wanted, started, progress)
            finally:
                record_run(*record)  # what it needs is kept from its end on
        if made:
            for name in self.temporary - set(wanted):
                self._drop(store, name)
        return folders

    def _make(
        self, store: Store, wanted: list[str], started: Callable[[str, int, int], None], progress: Progress
    ) -> int:
        """Make what is missing, and return how many steps were."""
        for step in self.above(wanted):
            if not isinstance(step, Source) and store.work(step).exists() and store.has(step):
                store.run(step)  # killed when it had just been published: what is left is swept up
        made = 0
        for left in reversed(range(REPLANS + 1)):
            missing = self.plan(store, wanted)
            for step in missing:
                started(self.name_of(step), made := made + 1, made + len(missing) - missing.index(step) - 1)
                try:
                    store.run(step, progress)
                except Exception:
                    if left and any(not isinstance(s, Source) and not store.has(s) for s in step.inputs().values()):
                        break
                    raise
            else:
                break
        return made

    def failed(self, store: Store, targets: Iterable[str] = ()) -> dict[str, tuple[int, Path]]:
        """Rows that could not be done on the way to the targets: number and list, by the step's name."""
        out: dict[str, tuple[int, Path]] = {}
        for step in self.above(targets):
            manifest = None if isinstance(step, Source) else store.manifest(step)
            if manifest and manifest["failures"]:
                out[self.name_of(step)] = manifest["failures"], store.folder(step) / "failures.jsonl"
        return out

    def state(self, store: Store, name: str) -> str:
        """`source`, `done`, `damaged`, `started` (a work folder is there) or `missing`."""
        step = self.steps[name]
        if isinstance(step, Source):
            return "source"
        if store.has(step):
            return "done"
        if store.folder(step).exists():
            return "damaged"
        return "started" if store.work(step).exists() else "missing"

    def _needed(self, store: Store, targets: list[str]) -> list[str]:
        """Artefacts that these targets stand on, but for those that are dropped anyway."""
        passing = {id(self.steps[name]) for name in self.temporary - set(targets)}
        return [store.name(s) for s in self.above(targets) if not isinstance(s, Source) and id(s) not in passing]

    def _drop(self, store: Store, name: str) -> None:
        """Drop a temporary artefact, unless somebody is at a step that takes it, or another run wants or keeps it."""
        step = self.steps[name]
        takers = [s for s in self.steps.values() if any(parent is step for parent in s.inputs().values())]
        with contextlib.suppress(StoreError), guard(store.root / "work"):  # a record that is damaged may want it
            wanted = store.name(step) in needed(store.root) or any(
                run.may_want(store.name(step)) for run in live.runs(store.root)
            )
            if not wanted and not any(map(store.busy, takers)):
                store.drop(step)

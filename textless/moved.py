"""Old names of modules, from before 0.2: importable for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "textless.cli_pipelines": ("textless.cli.pipelines",),
    "textless.commands": ("textless.cli.commands",),
    "textless.containers": ("textless.audio.containers",),
    "textless.corpus": ("textless.audio.corpus",),
    "textless.curves": ("textless.training.tensorboard",),
    "textless.datasets": ("textless.audio.datasets",),
    "textless.distributed": ("textless.training.distributed",),
    "textless.doctor": ("textless.cli.doctor",),
    "textless.edits": ("textless.metrics.edit_distance",),
    "textless.engine.keep": ("textless.engine.gc",),
    "textless.engine.ranks": ("textless.engine.collective", "textless.ranks"),
    "textless.engine.recipe": ("textless.engine.yaml",),
    "textless.engine.scalars": ("textless.engine.yaml",),
    "textless.engine.sweep": ("textless.engine.yaml",),
    "textless.fetch": ("textless.audio.fetch",),
    "textless.figures": ("textless.metrics.table",),
    "textless.inputs": ("textless.cli.inputs",),
    "textless.intervals": ("textless.metrics.bootstrap",),
    "textless.lm.causal": ("textless.lm.hf.causal",),
    "textless.lm.diversity": ("textless.metrics.diversity",),
    "textless.lm.fairseq": ("textless.lm.gslm.fairseq",),
    "textless.lm.llama": ("textless.lm.hf.llama",),
    "textless.lm.pretrained": ("textless.lm.hf.pretrained",),
    "textless.lm.reader": ("textless.lm.fast_decode",),
    "textless.lm.score": ("textless.metrics.lm",),
    "textless.lm.ulm": ("textless.lm.gslm.ulm",),
    "textless.outputs": ("textless.cli.outputs", "textless.cli.locks"),
    "textless.progress": ("textless.cli.progress",),
    "textless.recognise": ("textless.metrics.asr",),
    "textless.report.figures": ("textless.report.html", "textless.report.media", "textless.report.numbers"),
    "textless.signals": ("textless.cli.signals",),
    "textless.units.abx": ("textless.metrics.abx_error",),
    "textless.units.align": ("textless.metrics.align",),
    "textless.units.checkpoints": ("textless.units.encoders.convert",),
    "textless.units.difference": ("textless.metrics.difference",),
    "textless.units.dtw": ("textless.metrics.dtw",),
    "textless.units.encode": (
        "textless.units.tokenizer",
        "textless.units.encoders.load",
        "textless.units.encoders.hubert_encoder",
        "textless.units.encoders.signal",
    ),
    "textless.units.encoder": ("textless.units.encoders.base",),
    "textless.units.extract": ("textless.units.encoders.extract",),
    "textless.units.foreign": ("textless.units.encoders.transformers",),
    "textless.units.hubert": ("textless.units.encoders.hubert",),
    "textless.units.hubert_frames": ("textless.units.encoders.hubert_frames",),
    "textless.units.items": ("textless.metrics.items", "textless.metrics.alignments"),
    "textless.units.ladder": ("textless.units.mfcc_lda.ladder",),
    "textless.units.lda": ("textless.units.mfcc_lda.lda",),
    "textless.units.logmel": ("textless.audio.mel",),
    "textless.units.measure": ("textless.metrics.tokenizer",),
    "textless.units.mfcc": ("textless.audio.mfcc",),
    "textless.units.perturb": ("textless.metrics.perturb",),
    "textless.units.pretrain": ("textless.units.encoders.pretrain",),
    "textless.units.projected": ("textless.units.encoders.projected",),
    "textless.units.published": ("textless.units.encoders.zoo",),
    "textless.units.quality": (
        "textless.metrics.units",
        "textless.metrics.alignments",
        "textless.metrics.pnmi",
        "textless.metrics.bitrate",
    ),
    "textless.units.robustness": ("textless.metrics.robustness",),
    "textless.units.types": ("textless.types",),
    "textless.units.voice": ("textless.units.mfcc_lda.vtln",),
    "textless.vocoder.adversary": ("textless.vocoder.discriminators",),
    "textless.vocoder.bootstrap": ("textless.metrics.speech", "textless.metrics.difference"),
    "textless.vocoder.checkpoint": ("textless.vocoder.hifigan.checkpoint",),
    "textless.vocoder.clips": ("textless.vocoder.data",),
    "textless.vocoder.duration": ("textless.vocoder.predictors",),
    "textless.vocoder.f0": ("textless.audio.f0",),
    "textless.vocoder.generator": ("textless.vocoder.hifigan.generator",),
    "textless.vocoder.istft": ("textless.vocoder.head",),
    "textless.vocoder.mcd": ("textless.metrics.mcd",),
    "textless.vocoder.pitch": ("textless.vocoder.predictors",),
    "textless.vocoder.quality": ("textless.metrics.speech",),
    "textless.vocoder.rows": ("textless.vocoder.data", "textless.vocoder.backbone", "textless.vocoder.base"),
    "textless.vocoder.trunk": ("textless.vocoder.backbone",),
    "textless.waveforms": ("textless.audio.waveform",),
    "textless.weights": ("textless.model_io",),
}


class _Alias(ModuleType):
    """A module that looks its names up in the modules that it became."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for place in MOVED[self.__name__]:
                if hasattr(module := importlib.import_module(place), name):
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class Finder:
    """A finder and loader of `sys.meta_path` for the old names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is now {' and '.join(MOVED[spec.name])}", DeprecationWarning, stacklevel=2)
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: names are looked up on use."""


def install() -> None:
    """Make the old names importable, after all other finders."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())

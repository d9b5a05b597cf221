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
    "textless.corpus": ("textless.audio.corpus", "textless.audio.manifests", "textless.audio.io"),
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
    "textless.pickles.data": ("textless.pickles",),
    "textless.pickles.files": ("textless.pickles",),
    "textless.pickles.joblibfile": ("textless.pickles",),
    "textless.pickles.machine": ("textless.pickles",),
    "textless.pickles.torchfile": ("textless.pickles",),
    "textless.progress": ("textless.cli.progress",),
    "textless.recognise": ("textless.metrics.asr",),
    "textless.report.figures": ("textless.report.html", "textless.report.media", "textless.report.numbers"),
    "textless.signals": ("textless.cli.signals",),
    "textless.units.abx": ("textless.metrics.abx_error",),
    "textless.units.align": ("textless.metrics.align",),
    "textless.units.checkpoints": (
        "textless.units.encoders.convert",
        "textless.units.encoders.layouts.by_shapes",
        "textless.units.encoders.layouts.transformers",
    ),
    "textless.units.difference": ("textless.metrics.difference",),
    "textless.units.dtw": ("textless.metrics.dtw",),
    "textless.units.encode": (
        "textless.units.tokenizer",
        "textless.units.encoders.load",
        "textless.units.encoders.hubert_encoder",
        "textless.units.encoders.signal",
        "textless.devices",
    ),
    "textless.units.encoder": ("textless.units.encoders.base",),
    "textless.units.encoders.zoo": ("textless.zoo",),
    "textless.units.extract": ("textless.units.encoders.extract", "textless.devices"),
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
    "textless.units.projected": ("textless.units.encoders.projected", "textless.units.encoders.load"),
    "textless.units.published": ("textless.zoo",),
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
# Names that changed with their module; others are looked up under the same name.
RENAMED: dict[str, tuple[str, str]] = {
    "textless.edits.levenshtein": ("textless.metrics.edit_distance", "edit_distance"),
    "textless.engine.keep.damage": ("textless.engine.manifest", "damage"),
    "textless.engine.keep.forget": ("textless.engine.gc", "remove_records"),
    "textless.engine.keep.needed": ("textless.engine.gc", "roots"),
    "textless.engine.keep.runs": ("textless.engine.gc", "records"),
    "textless.engine.ranks.call": ("textless.engine.collective", "announce"),
    "textless.engine.ranks.called": ("textless.engine.collective", "announced"),
    "textless.engine.ranks.corner": ("textless.engine.collective", "private_folder"),
    "textless.lm.causal.Past": ("textless.lm.hf.causal", "PastKeyValues"),
    "textless.lm.reader.Place": ("textless.lm.fast_decode", "Positions"),
    "textless.lm.reader.RMS": ("textless.lm.fast_decode", "FastRMSNorm"),
    "textless.lm.reader.Reader": ("textless.lm.fast_decode", "FastDecoder"),
    "textless.lm.reader.packed": ("textless.lm.fast_decode", "pack"),
    "textless.lm.reader.turning": ("textless.lm.fast_decode", "rotary_tables"),
    "textless.recognise.listen": ("textless.metrics.asr", "recognise"),
    "textless.units.foreign.ForeignEncoder": ("textless.units.encoders.transformers", "TransformersEncoder"),
    "textless.units.foreign.load_foreign": ("textless.units.encoders.transformers", "load_transformers"),
    "textless.units.hubert.Trunk": ("textless.units.encoders.hubert", "TransformerEncoder"),
    "textless.units.logmel.FLOOR": ("textless.audio.mel", "HTK_FLOOR"),
    "textless.units.logmel.hz_to_mel": ("textless.audio.mel", "hz_to_htk"),
    "textless.units.logmel.mel_edges": ("textless.audio.mel", "htk_edges"),
    "textless.units.logmel.mel_filters": ("textless.audio.mel", "htk_filters"),
    "textless.units.robustness.edit_distances": ("textless.metrics.robustness", "unit_edit_distances"),
    "textless.vocoder.adversary.Judgement": ("textless.vocoder.discriminators", "Outputs"),
    "textless.vocoder.trunk.Trunk": ("textless.vocoder.backbone", "Backbone"),
}


class _Alias(ModuleType):
    """A module that looks its names up in the modules that it became."""

    def __getattr__(self, name: str) -> Any:
        if renamed := RENAMED.get(f"{self.__name__}.{name}"):
            return getattr(importlib.import_module(renamed[0]), renamed[1])
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

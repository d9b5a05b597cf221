"""What planning refuses: values that no step takes, with file, line and field, before anything runs."""

from __future__ import annotations

import math

import pytest

from textless.checks import OneOf
from textless.errors import PipelineError, StepTypeError, StepValueError
from textless.steps import STEPS
from textless.units.encoders.hubert import PRESETS


def planned(tmp_path, line):
    from textless.engine.yaml import load_pipeline

    steps = (
        "corpus: {manifest: a.wav}\n mfcc: {step: frames, audio: $corpus, encoder: mfcc}\n "
        "pitch: {step: f0, audio: $corpus}\n"
    )
    steps += " km: {step: kmeans, frames: $mfcc, n_units: 4}\n units: {step: assign, frames: $mfcc, codebook: $km}\n"
    steps += " hubert: {step: pretrain, audio: $corpus, labels: $units, preset: nano, steps: 5}\n"
    (tmp_path / "p.yaml").write_text(f"steps:\n {steps} x: {{{line}}}\n")
    return load_pipeline(tmp_path / "p.yaml", STEPS)


WRONG = {
    "step: frames, audio: $corpus": {
        "encoder": ("mffc",),
        "encoder: mfcc, fraction": ("0", "1.5", "-0.1"),
        "encoder: mfcc, context": ("-1",),
        "encoder: $hubert, layer": ("0", "3", "-1"),
        "encoder: mfcc, layer": ("1",),
        "encoder: mfcc, window": ("-1",),
        "encoder: mfcc, precision": ("auto", "fp64"),
        "encoder: mfcc, device": ("gpu0", "cuda:x"),
        "encoder: mfcc, batch_seconds": ("0",),
        "encoder: mfcc, seed": ("-1", "4294967296"),
    },
    "step: kmeans, frames: $mfcc": {
        "n_units": ("-5", "0", "2000000"),
        "n_units: 4, algorithm": ("elkan",),
        "n_units: 4, init": ("ones",),
        "n_units: 4, transform": ("zscore",),
        "n_units: 4, iterations": ("0",),
        "n_units: 4, restarts": ("0",),
        "n_units: 4, tolerance": ("-1",),
        "n_units: 4, max_frames": ("0", "3"),
    },
    "step: pretrain, audio: $corpus, labels: $units": {
        "steps": ("0", "-1"),
        **{
            f"steps: 5, {field}": values
            for field, values in {
                "preset": ("medium",),
                "batch": ("0",),
                "crop_seconds": ("0",),
                "lr": ("0", "-1"),
                "mask_prob": ("1.1", "-1"),
                "mask_span": ("0",),
                "unmasked_weight": ("-1",),
                "dropout": ("1", "-0.1"),
                "layer_drop": ("1",),
                "head": ("mlp", "keep"),
                "layer_decay": ("0", "1.5", "-1"),
                "precision": ("fp16",),
                "micro_batch": ("0",),
                "device": ("tpu",),
            }.items()
        },
    },
    "step: train_lm, units: $units": {
        "preset": ("medium",),
        "steps: 5, preset": ("medium",),
        "steps": ("0",),
        "tokens": ("-1",),
        "minutes": ("0", "-3"),
        "steps: 5, minutes": ("1",),
        "steps: 5, context": ("1", "10000"),
        "steps: 5, batch_tokens": ("0",),
        "steps: 5, schedule": ("linear",),
        "steps: 5, lr": ("-1",),
    },
    "step: continue, lm: $hubert, prompts: $units": {
        "seconds": ("-1",),
        "prompt_seconds": ("0",),
        "samples": ("0",),
        "limit": ("0",),
        "temperature": ("-0.1",),
        "top_k": ("0",),
        "top_p": ("0", "1.1"),
        "min_p": ("2",),
        "repetition_penalty": ("0",),
        "no_repeat_ngram": ("0",),
        "precision": ("bf16",),
    },
    "step: f0, audio: $corpus": {"frame_rate": ("0", "-50", "33", "1e-300")},
    "step: train_vocoder, audio: $corpus, units: $units": {
        "steps: 5, preset": ("large",),
        "steps: 5, adversarial": ("medium",),
        "steps: 5, crop_seconds": ("-1",),
    },
    "step: resynth, units: $units, vocoder: $hubert": {"durations": ("guess",), "level": ("loud",)},
    "step: ladder, audio: $corpus": {"hours": ("0",), "n_clusters": ("40",), "rounds": ("0",), "dim": ("0",)},
    "step: lda, frames: $mfcc": {"method": ("ica", "lda"), "codebook: $km, dim": ("0",)},
    "step: abx, frames: $mfcc": {"distance": ("cosine",), "max_items": ("0",)},
    "step: model": {"name: a, file": ("b",)},
}


@pytest.mark.parametrize("step", WRONG)
def test_planning_refuses_values_that_no_step_takes(tmp_path, step):
    for fields, values in WRONG[step].items():
        for value in values:
            with pytest.raises(PipelineError, match=r"p\.yaml:\d+: ") as e:
                planned(tmp_path, f"{step}, {fields}: {value}")
            assert "\n" not in str(e.value)
            field = fields.split(", ")[-1].split()[0]
            if (
                "needs" not in str(e.value)
                and "one of the two" not in str(e.value)
                and "give alignments" not in str(e.value)
            ):
                assert field in str(e.value)
                assert value in str(e.value)


def test_planning_says_what_is_allowed(tmp_path):
    for line, said in (
        (
            "step: kmeans, frames: $mfcc, n_units: -5",
            "kmeans.n_units is -5 where a whole number from 1 to 16777216 is wanted",
        ),
        (
            "step: train_lm, units: $units, steps: 1, preset: medium",
            "train_lm.preset is 'medium'; known: nano, tiny, small, base, gslm",
        ),
        (
            "step: frames, audio: $corpus, encoder: mfcc, fraction: 0",
            "frames.fraction is 0.0 where a number above 0 to 1 is wanted",
        ),
        (
            "step: frames, audio: $corpus, encoder: $hubert, layer: 3",
            "frames.layer is 3, but the encoder has layers 1 to 2",
        ),
    ):
        with pytest.raises(PipelineError) as e:
            planned(tmp_path, line)
        assert str(e.value).endswith(said), str(e.value)


def test_steps_built_in_python_are_checked_alike():
    for wrong in (math.nan, math.inf, "fast", True, None, -1):
        with pytest.raises(StepValueError, match=r"^train_lm\.lr is .* where a number above 0 is wanted$"):
            STEPS["train_lm"](units=None, steps=1, lr=wrong)


def test_choices_of_steps_are_those_of_the_library():
    """They are written out, since planning imports nothing heavy."""
    from textless.audio.io import SAMPLE_RATE
    from textless.checks import _checked_hints
    from textless.lm.fast_decode import LINEAR
    from textless.lm.model import PRESETS as LMS
    from textless.steps import vocoder
    from textless.training.configs import HUBERT_LAYERS
    from textless.units.encoders.signal import SIGNAL
    from textless.units.kmeans import ALGORITHMS, INITS, TRANSFORMS
    from textless.units.mfcc_lda.lda import METHODS
    from textless.vocoder.discriminators import SIZES
    from textless.vocoder.model import PRESETS as VOCODERS

    def known(step, field):
        hint = _checked_hints(STEPS[step])[field]
        hints = (hint, *getattr(hint, "__args__", ()))
        return next(
            set(rule.known) for h in hints for rule in getattr(h, "__metadata__", ()) if isinstance(rule, OneOf)
        )

    assert {name: config.layers for name, config in PRESETS.items()} == HUBERT_LAYERS
    assert known("train_lm", "preset") == set(LMS)
    assert known("train_vocoder", "preset") == set(VOCODERS)
    assert known("train_vocoder", "adversarial") == set(SIZES)
    assert known("continue", "precision") == set(LINEAR)
    assert known("kmeans", "algorithm") == set(ALGORITHMS)
    assert known("kmeans", "init") == set(INITS)
    assert known("kmeans", "transform") == set(TRANSFORMS)
    assert known("lda", "method") == set(METHODS)
    from textless.steps.units import FrontEnd

    assert set(FrontEnd.__metadata__[0].known) == set(SIGNAL)
    assert vocoder.SAMPLE_RATE == SAMPLE_RATE


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("step: train_lm, units: $corpus, steps: 1", "train_lm.units must be units, not a step corpus"),
        ("step: train_lm, units: $units, dev: $mfcc, steps: 1", "train_lm.dev must be units, not a step frames"),
        ("step: pretrain, audio: $corpus, labels: $km, steps: 1", "pretrain.labels must be units, not a step kmeans"),
        ("step: assign, frames: $mfcc, codebook: $units", "assign.codebook must be codebook, not a step assign"),
        ("step: frames, audio: $corpus, encoder: $km, layer: 1", "frames.encoder must be encoder, not a step kmeans"),
        ("step: resynth, units: $units, vocoder: $hubert", "resynth.vocoder must be vocoder, not a step pretrain"),
        ("step: difference, a: $corpus, b: $units", "difference.a must be metrics, not a step corpus"),
    ],
)
def test_planning_refuses_steps_of_another_kind(tmp_path, line, said):
    with pytest.raises(PipelineError, match=r"p\.yaml:\d+: ") as caught:
        planned(tmp_path, line)
    assert said in str(caught.value)


def test_inputs_of_steps_built_in_python_are_checked():
    audio = STEPS["corpus"](manifest="a.wav")
    frames = STEPS["frames"](audio=audio, encoder="mfcc")
    codebook = STEPS["kmeans"](frames=frames, n_units=4)
    for kind, fields, said in (
        ("frames", {"audio": "a.wav", "encoder": "mfcc"}, "frames.audio must be corpus, not 'a.wav'"),
        ("frames", {"audio": codebook, "encoder": "mfcc"}, "frames.audio must be corpus, not a step kmeans"),
        ("frames", {"audio": audio, "encoder": 5}, "frames.encoder must be a text or a step, not 5"),
        ("assign", {"frames": codebook, "codebook": codebook}, "assign.frames must be frames, not a step kmeans"),
        ("assign", {"frames": frames, "codebook": "km.npy"}, "assign.codebook must be a step, not 'km.npy'"),
        ("train_lm", {"units": frames, "steps": 1}, "train_lm.units must be units, not a step frames"),
        ("resynth", {"units": frames, "vocoder": codebook, "f0": 5}, "resynth.f0 must be f0 or nothing, not 5"),
    ):
        with pytest.raises(StepTypeError) as caught:
            STEPS[kind](**fields)
        assert str(caught.value) == said

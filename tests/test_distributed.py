"""A batch that is split, into micro-batches or over processes, is the same batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import textless.training.loop
from textless.errors import TrainingError
from textless.lm import train_lm
from textless.training import distributed
from textless.training.loop import Dropout, inverse_sqrt, perplexity, update
from textless.types import UnitContract, Units
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.pretrain import pretrain
from textless.vocoder import Clip, train_vocoder

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=7)


class Noise:
    """What PackedAudio offers, without files: noises of different lengths."""

    ids = ("a", "b", "c")
    lengths = np.array([16000, 9000, 12000])

    def waveform(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        return (0.1 * np.random.default_rng(i).standard_normal(self.lengths[i]).astype(np.float32))[start:stop]


def run_pretrain(folder, **changes):
    labels = [np.random.default_rng(i).integers(0, 7, n_frames(int(n))) for i, n in enumerate(Noise.lengths)]
    options = {
        "n_classes": 7,
        "preset": "nano",
        "steps": 20,
        "batch": 5,
        "crop_seconds": 0.7,
        "layer_drop": 0.3,
    }
    folder.mkdir(exist_ok=True)
    return pretrain(Noise(), labels, folder=folder, **{**options, **changes})


def run_lm(folder, **changes):
    draw = np.random.default_rng(0)
    documents = [Units(draw.integers(0, 7, n), draw.integers(1, 9, n), CONTRACT) for n in (30, 5, 70, 12, 1)]
    options = {"contract": CONTRACT, "preset": "nano", "steps": 20, "context": 32, "batch_tokens": 160, "dropout": 0.2}
    model, figures = train_lm(documents, checkpoint=folder / "lm.pt", schedule="inverse_sqrt", **{**options, **changes})
    return model, figures["curve"]


def run_vocoder(folder, **changes):
    draw, audio = np.random.default_rng(0), Noise()
    clips = [
        Clip(Units(draw.integers(0, 7, n // 320), None, CONTRACT), lambda a, b, i=i: audio.waveform(i, a, b), int(n))
        for i, n in enumerate(audio.lengths)
    ]
    options = {"contract": CONTRACT, "preset": "nano", "steps": 20, "batch": 5, "crop_seconds": 0.8}
    model, figures = train_vocoder(clips, checkpoint=folder / "vocoder.pt", **{**options, **changes})
    return model, figures["curve"]


def run_judged(folder, **changes):
    options = {
        "contract": CONTRACT,
        "preset": "nano",
        "steps": 20,
        "batch": 5,
        "crop_seconds": 0.2,
        "f0": True,
        "adversarial": "small",
    }
    draw, audio = np.random.default_rng(0), Noise()
    clips = [
        Clip(
            Units(draw.integers(0, 7, n // 320), None, CONTRACT),
            lambda a, b, i=i: audio.waveform(i, a, b),
            int(n),
            f0=np.full(n // 320, 120.0),
        )
        for i, n in enumerate(audio.lengths)
    ]
    model, figures = train_vocoder(clips, **{**options, **changes})
    return model, figures["curve"]


def run_further(folder, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        start = Hubert(PRESETS["nano"])
    further = {"freeze_front_end": True, "layer_decay": 0.5}
    labels = [np.random.default_rng(9 + i).integers(0, 7, n_frames(int(n))) for i, n in enumerate(Noise.lengths)]
    return run_pretrain(folder / "further", **{"start": start, "dev": (Noise(), labels), **further, **changes})


TRAININGS = {
    "pretrain": run_pretrain,
    "further": run_further,
    "lm": run_lm,
    "vocoder": run_vocoder,
    "judged": run_judged,
}


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_give_the_gradient_of_the_batch(name, micro_batch, tmp_path, monkeypatch):
    gradients = []
    clip = nn.utils.clip_grad_norm_

    def keep(parameters, norm):
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        return clip(parameters, norm)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", keep)
    rows = [TRAININGS[name](tmp_path, steps=1, micro_batch=m)[1][-1] for m in (None, micro_batch)]
    updates = len(gradients) // 2
    for whole, split in zip(gradients[:updates], gradients[updates:], strict=True):
        assert (whole - split).abs().max() < 2e-6 * whole.abs().max()
    for figure, value in rows[0].items():
        assert rows[1][figure] == pytest.approx(value, rel=1e-5), figure


def test_two_processes_give_the_curve_of_one(tmp_path):
    """gloo on a CPU, in float64; both processes report the same figures, and the first alone writes checkpoints.

    The order of a sum changes last bits. A change of the weights stays in proportion, about 1 to 1, until an
    activation, a difference in an L1 loss or a clamped value changes its sign: then a gradient jumps. Changes of 1e-8
    reach such a sign among the millions of a step: within 20 steps one of 6e-8, float32's rounding, makes 2e-4 of
    `adversarial`, even where all else is float64. So curves in float32 cannot tell a rank's wrong gradient from
    rounding. In float64 rounding stays at 1e-16 and reaches no sign.
    """
    code = f"""
        import json, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_distributed as t
        t.textless.training.loop.CHECKPOINT_SECONDS = t.textless.training.loop.CHECKPOINT_STEPS = 0
        t.in_float64()
        json.dump(t.curves(t.Path(%r)), sys.stdout)
    """
    (tmp_path / "alone").mkdir()
    first, second = launch(code % str(tmp_path))
    assert not first[1] + second[1]
    assert first == second
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == ["checkpoint.pt", "lm.pt", "vocoder.pt"]
    [(alone, errors)] = launch(code % str(tmp_path / "alone"), 1)
    assert not errors
    together = json.loads(first[0])
    for name, rows in json.loads(alone).items():
        assert len(rows) >= 4
        for expected, row in zip(rows, together[name], strict=True):
            assert row == {figure: pytest.approx(value, rel=1e-12) for figure, value in expected.items()}, name


def curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Of the trainings, in rows of two steps or fewer."""
    defaults = textless.training.loop.train.__kwdefaults__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textless.training.loop.train, "__kwdefaults__", {**defaults, "log_every": 2})
        return {name: run(folder, steps=8)[1] for name, run in TRAININGS.items()}


def in_float64() -> None:
    """Let everything in this process that asks for float32 have float64; for a process of its own, as tables are
    cached.
    """
    from_numpy = torch.from_numpy
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.from_numpy = lambda x: from_numpy(x).double() if x.dtype == np.float32 else from_numpy(x)


def launch(code: str, processes: int = 2) -> list[tuple[str, str]]:
    """Output and errors of processes that know each other as torchrun would have them, each on one thread as torchrun
    does.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    return [child.communicate(timeout=300) for child in children]


def test_parts_partition_the_rows(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    seen = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert all(part.stop - part.start <= 2 for part in distributed.parts(10, 2))
        seen += [i for part in distributed.parts(10, 2) for i in range(part.start, part.stop)]
    assert seen == list(range(10))
    with pytest.raises(TrainingError, match="a batch of 2 rows cannot be split over 3 processes"):
        distributed.parts(2)
    with pytest.raises(TrainingError, match="micro_batch is 0"):
        distributed.parts(10, 0)


def test_processes_without_a_launcher(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="start the processes with torchrun"):
        distributed.wait()
    with pytest.raises(TrainingError, match="process 0 of this host has no GPU"):
        distributed.place("cuda")


def test_dropout_of_a_part_is_that_of_the_batch():
    dropout, x = Dropout(0.5), torch.ones(6, 40)
    weight = nn.Parameter(torch.ones(40))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    seen: dict[int | None, torch.Tensor] = {}
    for micro_batch in (None, 1, 4):
        rows = []

        def losses(part, rows=rows):
            rows.append(dropout(x[part] * weight))
            return {"loss": rows[-1].sum()}

        torch.manual_seed(3)
        update(optimiser, losses, rows=6, lr=0.0, clip=1.0, micro_batch=micro_batch)
        seen[micro_batch] = torch.cat(rows).detach()
    assert torch.equal(seen[None], seen[1])
    assert torch.equal(seen[None], seen[4])
    assert 0.3 < (seen[None] == 0).float().mean() < 0.7


def test_inverse_sqrt_is_fairseqs():
    """fairseq counts updates from 1: lr = updates * peak / warmup, then peak * warmup^0.5 * updates^-0.5."""
    for updates in range(1, 400):
        expected = updates * 5e-4 / 100 if updates < 100 else 5e-4 * 100**0.5 * updates**-0.5
        assert inverse_sqrt(updates - 1, peak=5e-4, warmup=100) == pytest.approx(expected)


def test_perplexity():
    assert perplexity(torch.tensor([3, 3, 3, 0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 0.0]])).tolist() == pytest.approx([1, 2, 1])

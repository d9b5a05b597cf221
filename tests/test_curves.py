"""TensorBoard: what is written, what a resumption does to it, and that the training does not notice."""

import math

import numpy as np
import pytest
import torch
from test_distributed import run_lm, run_pretrain, run_vocoder

import textless.training.loop
from textless.training.tensorboard import Board

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def points(folder, tag):
    return [(e.step, pytest.approx(e.value)) for e in read(folder).Scalars(tag)]


def test_tags_of_the_three_trainings(tmp_path):
    run_pretrain(tmp_path / "scratch", steps=2, log=Board(tmp_path / "board", "pretrain"))
    run_lm(tmp_path / "scratch", steps=2, log=Board(tmp_path / "board", "train_lm"))
    board = Board(tmp_path / "board", "train_vocoder")
    run_vocoder(tmp_path / "scratch", steps=2, log=board, listen=board.listen)
    tags = read(tmp_path / "board").Tags()
    both = {"loss", "grad_norm", "lr"}
    assert set(tags["scalars"]) == {
        f"{name}/{figure}"
        for name, figures in (
            (
                "pretrain",
                {"masked_loss", "masked_accuracy", "unmasked_accuracy", "label_perplexity", "prediction_perplexity"},
            ),
            ("pretrain", {"audio_hours_per_hour"}),
            ("train_lm", {"duration_loss", "tokens_per_second"}),
            ("train_vocoder", {"mel", "duration", "audio_hours_per_hour"}),
        )
        for figure in figures | both
    }
    assert tags["audio"] == ["train_vocoder/sample"]
    assert read(tmp_path / "board").Audio("train_vocoder/sample")[0].sample_rate == 16000


def test_a_resumed_curve_has_each_point_once(tmp_path, monkeypatch):
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_STEPS", 4)

    def attempt(killed_at):
        board = Board(tmp_path / "board", "lm")

        def log(step, row):
            board(step, row)
            if step == killed_at:
                raise KeyboardInterrupt

        return run_lm(tmp_path, log=log)[1]

    for killed_at in (2, 14):  # before the first checkpoint, and two rows after the third
        with pytest.raises(KeyboardInterrupt):
            attempt(killed_at)
    curve = attempt(None)
    assert len(list((tmp_path / "board").iterdir())) == 3
    assert points(tmp_path / "board", "lm/loss") == [(row["step"], row["loss"]) for row in curve]


def test_what_is_no_number_is_left_out(tmp_path):
    board = Board(tmp_path, "x")
    board(1, {"step": 1.0, "loss": math.nan, "rate": math.inf, "good": 2.0})
    assert points(tmp_path, "x/good") == [(1, 2.0)]
    assert read(tmp_path).Tags()["scalars"] == ["x/good"]


def test_neither_curves_nor_samples_change_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("textless.vocoder.train.LISTEN_STEPS", 50)
    options = {"steps": 60, "batch": 1, "crop_seconds": 0.1}
    heard = []
    board = Board(tmp_path / "board", "vocoder")
    (tmp_path / "a").mkdir()
    watched, curve = run_vocoder(tmp_path / "a", log=board, listen=lambda *sample: heard.append(sample), **options)
    alone, expected = run_vocoder(tmp_path, **options)
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )
    assert curve == expected
    assert "audio_hours_per_hour" not in curve[-1]  # a clock
    assert [step for step, _, _ in heard] == [50, 60]
    assert heard[0][1].shape == (16000,)
    assert heard[0][1].dtype == np.float32

"""Training the unit language model: packing, loss, resumption, and that it learns what there is to learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adamw import check, recorded

import textless.training.loop
from textless.errors import ContractError, TrainingError
from textless.lm import LMConfig, UnitLM, load_lm, train_lm
from textless.lm.model import PRESETS
from textless.lm.packing import Documents, Packer, document_mask
from textless.lm.train import evaluate, losses, unigram_nll
from textless.training.configs import LMTrainConfig
from textless.types import UnitContract, Units

N = 12
CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=N)


def grammar(count: int, seed: int) -> list[Units]:
    """u follows u - 1 by 1 + (unit before it) mod 3, so two units of context say all; a unit u lasts 1 + u mod 5
    frames.
    """
    draw, out = np.random.default_rng(seed), []
    for _ in range(count):
        units = draw.integers(0, N, 1).tolist()
        units.append((units[0] + 1) % N)
        for _ in range(int(draw.integers(8, 40))):
            units.append((units[-1] + 1 + units[-2] % 3) % N)
        units = np.array(units)
        out.append(Units(units, 1 + units % 5, CONTRACT))
    return out


def packer(documents: list[Units], context: int, seed: int = 0) -> Packer:
    return Packer(Documents.pack(documents, n_units=N, max_duration=4), context=context, seed=seed)


@pytest.fixture(scope="module")
def lm() -> UnitLM:
    generator = torch.Generator().manual_seed(0)
    model = UnitLM(LMConfig(n_units=N, dim=32, layers=2, heads=2, ffn_dim=48, context=64, max_duration=4), CONTRACT)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (p.ndim == 1))
    return model.eval()


# --- packing ----------------------------------------------------------------------------------------------------------


def test_an_epoch_holds_every_token_once_and_rows_are_functions_of_seed_and_number() -> None:
    documents = [
        *grammar(9, seed=1),
        Units(np.arange(200) % N, np.full(200, 3), CONTRACT),
    ]  # the last is longer than rows
    total = sum(len(d) + 1 for d in documents)
    p = packer(documents, context=32)
    seen = np.zeros((len(documents), 201), int)
    for row in range(5 * total // 32 + 1):
        pieces = p.pieces(row)
        assert sum(length for _, _, length in pieces) == 32
        for document, start, length in pieces:
            assert 0 <= start < start + length <= len(documents[document]) + 1
            seen[document, start : start + length] += 1
    for document, counts in zip(documents, seen, strict=True):
        assert set(counts[: len(document) + 1]) <= {5, 6}
        assert not counts[len(document) + 1 :].any()
    assert packer(documents, 32).pieces(77) == p.pieces(77)  # whatever was asked before
    assert packer(documents, 32, seed=1).pieces(77) != p.pieces(77)
    stream = [
        document for row in range(2 * total // 32 + 1) for document, _, length in p.pieces(row) for _ in range(length)
    ]
    assert stream[:total] != stream[total : 2 * total]  # shuffled again


def test_rows_hold_documents_between_ends() -> None:
    documents = grammar(9, seed=2)
    p = packer(documents, context=32)
    batch = p.batch(3, 4)
    for row, tokens, positions, targets, durations in zip(range(3, 7), *(t.tolist() for t in batch[:4]), strict=True):
        at = 0
        for document, start, length in p.pieces(row):
            d = documents[document]
            whole = [N, *d.units.tolist(), N]
            classes = [-100, *np.minimum(d.durations - 1, 3).tolist()]  # 5 frames are as 4 to a head of 4
            assert tokens[at : at + length] == whole[start : start + length]
            assert targets[at : at + length] == whole[start + 1 : start + length + 1]
            assert durations[at : at + length] == classes[start : start + length]
            assert positions[at : at + length] == list(range(length))
            at += length


@pytest.mark.parametrize("n_units", [N, 65535, 65536])
def test_documents_on_disk_are_those_in_memory(tmp_path, n_units: int) -> None:
    documents = [
        *grammar(9, seed=2),
        Units([], [], CONTRACT),
        Units([1, n_units - 1], [1, 70000], CONTRACT.with_(n_units=n_units)),
    ]
    options = {"n_units": n_units, "max_duration": 4}
    memory, disk = (Documents.pack(documents, folder=folder, **options) for folder in (None, tmp_path / "some"))
    assert isinstance(disk.tokens, np.memmap)
    assert memory.tokens.dtype == disk.tokens.dtype == (np.uint16 if n_units < 65536 else np.uint32)
    assert len(memory.lengths) == 10
    for name in ("tokens", "durations", "lengths"):
        assert np.array_equal(getattr(memory, name), getattr(disk, name))
    again = Documents.pack(iter(()), folder=tmp_path / "some", **options)  # nothing is read twice
    rows = [Packer(d, context=16, seed=1).batch(5, 4) for d in (memory, again)]
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
    assert [u.tolist() for u in disk.units()] == [d.units.tolist() for d in documents if len(d)]
    for most, count in ((0, 1), (int(disk.lengths[:3].sum()), 3), (int(disk.lengths[:4].sum()) - 1, 3)):
        assert len(disk.units(most)) == count
    whole = (tmp_path / "some" / "durations").read_bytes()
    for damaged in (whole + b"\0\0", whole[:-1], b""):
        (tmp_path / "some" / "durations").write_bytes(damaged)
        with pytest.raises(TrainingError, match="damaged; remove the folder"):
            Documents.pack(documents, folder=tmp_path / "some", **options)


def test_what_was_cut_short_on_disk_is_written_anew(tmp_path) -> None:
    def cut():
        yield from grammar(3, seed=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Documents.pack(cut(), n_units=N, max_duration=4, folder=tmp_path / "some")
    assert not (tmp_path / "some").exists()
    assert len(Documents.pack(grammar(5, seed=1), n_units=N, max_duration=4, folder=tmp_path / "some").lengths) == 5


def test_document_mask_is_block_diagonal_and_causal() -> None:
    mask = document_mask(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))[:, 0]
    for row, blocks in zip(mask, ([0, 0, 0, 1, 1], [0, 1, 1, 1, 1]), strict=True):
        for i in range(5):
            for j in range(5):
                assert row[i, j] == (j <= i and blocks[i] == blocks[j])


def test_packed_loss_is_that_of_the_documents_one_by_one(lm: UnitLM) -> None:
    documents = grammar(9, seed=3)
    p = packer(documents, context=64)
    batch = p.batch(0, 3)
    with torch.inference_mode():
        units, durations = losses(lm, batch)
        unit_nats, duration_nats = [], []
        for row in range(3):
            for document, start, length in p.pieces(row):
                d = documents[document]
                whole = torch.tensor([N, *d.units.tolist(), N])[start : start + length + 1]
                classes = torch.tensor([-100, *np.minimum(d.durations - 1, 3).tolist()])[start : start + length]
                hidden = lm(whole[None, :-1])[0]
                unit_nats += F.cross_entropy(lm.unit_logits(hidden), whole[1:], reduction="none").tolist()
                known = classes >= 0
                classes = classes[known]
                duration_nats += F.cross_entropy(lm.duration_logits(hidden)[known], classes, reduction="none").tolist()
    assert len(unit_nats) == 3 * 64 > len(duration_nats)
    assert float(units) == pytest.approx(np.mean(unit_nats), abs=1e-5)
    assert float(durations) == pytest.approx(np.mean(duration_nats), abs=1e-5)


def test_packed_loss_of_a_whole_document_is_its_nll(lm: UnitLM) -> None:
    d = Units(np.arange(63) % N, np.full(63, 2), CONTRACT)
    units, _ = losses(lm, packer([d], context=64).batch(0, 2))
    assert units.item() == pytest.approx(lm.nll(d).mean(), abs=1e-5)


def test_the_gradient_is_that_of_the_documents_one_by_one() -> None:
    """Of the first two steps: mean cross-entropy of the tokens and a quarter of that of the durations, by
    backpropagation through each piece of a document alone; clipped at 1."""
    documents = grammar(9, seed=3)
    options = {
        "steps": 2,
        "preset": "nano",
        "context": 16,
        "batch_tokens": 48,
        "dropout": 0.0,
        "contract": CONTRACT,
        "seed": 5,
    }
    with recorded() as records:
        train_lm(documents, **options)
    [record] = records
    torch.manual_seed(5)
    model = UnitLM(LMConfig(n_units=N, context=16, **PRESETS["nano"]), CONTRACT)
    parameters = sorted(model.parameters(), key=lambda p: p.ndim < 2)  # matrices first
    rows = Packer(Documents.pack(documents, n_units=N, max_duration=model.config.max_duration), context=16, seed=5)
    for n in range(2):
        units, durations = [], []
        for p, value in zip(parameters, record.before[n], strict=True):
            if n == 0:
                assert np.array_equal(p.detach(), value)
            p.data, p.grad = torch.from_numpy(value.copy()), None
        for document, start, length in (piece for row in range(3 * n, 3 * n + 3) for piece in rows.pieces(row)):
            d = documents[document]
            whole = torch.tensor([N, *d.units.tolist(), N])[start : start + length + 1]
            hidden = model(whole[None, :-1])[0]
            units += [-F.linear(hidden, model.embed.weight).log_softmax(-1)[range(length), whole[1:]]]
            logs = F.linear(hidden, model.duration.weight).log_softmax(-1)
            durations += [-logs[k, d.durations[start + k - 1] - 1] for k in range(length) if start + k]
        (torch.cat(units).mean() + 0.25 * torch.stack(durations).mean()).backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))
        scale = min(1, 1 / norm)
        for p, gradient in zip(parameters, record.gradients[n], strict=True):
            # Sums of 48 terms, each off by some roundings through a handful of layers.
            assert np.abs(scale * p.grad.numpy() - gradient).max() < 1e-5 * scale * norm


def test_a_step_is_that_of_adamw_written_out() -> None:
    """AdamW (0.9, 0.95), 1e-8, decay 0.1, of a gradient that is clipped at 1. Its rate rises for 3 % of the steps to
    the peak, and falls in a cosine to a twentieth of it."""
    with recorded() as records:
        _, figures = train_lm(
            grammar(9, seed=3), contract=CONTRACT, steps=67, preset="nano", context=8, batch_tokens=8, lr=2e-3
        )
    [record] = records
    assert figures["curve"][0]["grad_norm"] > 1
    assert max(record.norms()) == pytest.approx(1, rel=1e-5)
    check(record, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    falling = [1e-4 + 1.9e-3 * (1 + math.cos(math.pi * n / 65)) / 2 for n in range(65)]
    assert record.rates == pytest.approx([1e-3, 2e-3, *falling])


def test_every_step_draws_its_own_random_numbers() -> None:
    def drawn(seed: int) -> list[float]:
        found: list[float] = []

        def step(n: int) -> dict[str, float]:
            found.append(float(torch.rand(())))
            return {"loss": 0.0}

        textless.training.loop.train(step, {}, steps=5, seed=seed)
        return found

    assert len(set(drawn(0))) == 5
    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))


# --- figures ----------------------------------------------------------------------------------------------------------


def test_evaluate(lm: UnitLM) -> None:
    dev = grammar(4, seed=4)
    figures = evaluate(lm, dev)
    total, tokens, frames = (
        sum(lm.nll(d).sum() for d in dev),
        sum(len(d) + 1 for d in dev),
        sum(int(d.durations.sum()) for d in dev),
    )
    assert figures["nll_per_unit"] == pytest.approx(total / tokens)
    assert figures["bits_per_second"] == pytest.approx(total / math.log(2) / (frames / 50))


def test_unigram() -> None:
    train, dev = [Units([0, 1, 0], [1, 1, 1])], [Units([2, 0])]
    # counts + 1 of 0, 1, 2, </s>: 3, 2, 1, 2
    found = unigram_nll(Documents.pack(train, n_units=3, max_duration=9), dev, 3)
    assert found == pytest.approx(-(math.log(1 / 8) + math.log(3 / 8) + math.log(2 / 8)) / 3)


# --- learning ---------------------------------------------------------------------------------------------------------

QUICK = {"contract": CONTRACT, "preset": "nano", "context": 64, "batch_tokens": 256, "lr": 3e-3}


@pytest.fixture(scope="module")
def learnt() -> tuple[UnitLM, dict]:
    return train_lm(grammar(200, seed=5), steps=150, dev=grammar(20, seed=6), **QUICK)


def test_learns_a_grammar(learnt) -> None:
    lm, figures = learnt
    assert not lm.training
    assert figures["unigram_nll_per_unit"] > 2.3
    # What remains is the first unit and the length: about 2.5 nats, and 3.5 over a document of 26 tokens.
    assert figures["nll_per_unit"] < 0.45
    assert figures["bits_per_second"] == pytest.approx(evaluate(lm, grammar(20, seed=6))["bits_per_second"])
    assert figures["steps"] == 150
    assert figures["tokens"] == 150 * 256
    scored = [row for row in figures["curve"] if "nll_per_unit" in row]
    assert len(scored) == 10
    assert scored[-1]["nll_per_unit"] == figures["nll_per_unit"] < scored[0]["nll_per_unit"]


def test_learns_durations(learnt) -> None:
    lm, figures = learnt
    assert figures["curve"][-1]["duration_loss"] < 0.1
    new = lm.continue_units(grammar(1, seed=7)[0].between(0, 0.5), seconds=4, temperature=0, only_new=True)
    assert (new.durations[:-1] == 1 + new.units[:-1] % 5).all()
    u = new.units
    right = u[2:] == (u[1:-1] + 1 + u[:-2] % 3) % N
    assert right.mean() > 0.9


def test_repeats_are_joined_before_training() -> None:
    documents = grammar(20, seed=8)
    literal = [Units(d.frames(), None, CONTRACT) for d in documents]
    a, _ = train_lm(documents, steps=3, **QUICK)
    b, _ = train_lm(literal, steps=3, **QUICK)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_bf16_learns_too_and_keeps_fp32_parameters() -> None:
    lm, figures = train_lm(grammar(100, seed=5), steps=60, precision="bf16", **QUICK)
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    assert figures["curve"][-1]["loss"] < 0.7 * figures["curve"][0]["loss"]


def test_schedules_differ_after_their_peak() -> None:
    documents = grammar(20, seed=8)
    cosine, inverse = (
        train_lm(documents, steps=100, schedule=s, **QUICK)[1]["curve"] for s in ("cosine", "inverse_sqrt")
    )
    assert cosine[0]["lr"] > 0.9 * inverse[0]["lr"]
    peak, warmup = QUICK["lr"], 3
    assert inverse[-1]["lr"] == pytest.approx(np.mean([peak * (warmup / n) ** 0.5 for n in range(91, 101)]))
    assert cosine[-1]["lr"] == pytest.approx(peak / 20, rel=0.2)


def test_dropout_is_of_training_alone() -> None:
    documents = grammar(20, seed=8)
    with_, without = (train_lm(documents, steps=3, dropout=d, **QUICK)[0] for d in (0.3, 0.0))
    assert not torch.equal(with_.embed.weight, without.embed.weight)
    assert with_.config == without.config
    assert np.array_equal(with_.nll(documents[0]), with_.nll(documents[0]))


# --- resumption -------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_STEPS", 4)
    documents, dev = grammar(40, seed=9), grammar(4, seed=10)
    wanted, figures = train_lm(documents, steps=30, dev=dev, **QUICK)

    def interrupt(n: int, row: dict) -> None:
        if n == 15:
            raise Interrupted

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train_lm(documents, steps=30, dev=dev, checkpoint=checkpoint, log=interrupt, **QUICK)
    assert torch.load(checkpoint, weights_only=True)["step"] == 12
    steps = []
    resumed, again = train_lm(
        documents, steps=30, dev=dev, checkpoint=checkpoint, log=lambda n, row: steps.append(n), **QUICK
    )
    assert steps[0] == 15  # not from the beginning
    assert all(torch.equal(a, b) for a, b in zip(wanted.parameters(), resumed.parameters(), strict=True))
    assert again == figures


def test_seeds_and_the_global_generator() -> None:
    documents = grammar(20, seed=8)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    a, _ = train_lm(documents, steps=2, seed=0, **QUICK)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(321)
    b, _ = train_lm(documents, steps=2, seed=0, **QUICK)
    c, _ = train_lm(documents, steps=2, seed=1, **QUICK)
    assert torch.equal(a.embed.weight, b.embed.weight)
    assert not torch.equal(a.embed.weight, c.embed.weight)


def test_documents_are_taken_one_by_one_and_trained_on_from_disk(tmp_path) -> None:
    documents = grammar(20, seed=8)
    a, _ = train_lm(documents, steps=3, **QUICK)
    b, _ = train_lm(iter(documents), steps=3, scratch=tmp_path, **QUICK)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert (tmp_path / "documents" / "tokens").exists()


def test_a_budget_of_minutes(tmp_path, monkeypatch) -> None:
    """A clock on which each look takes a second: the schedule follows it, and an interruption does not count."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(textless.training.loop.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_STEPS", 10)
    documents = grammar(20, seed=8)
    _, figures = train_lm(documents, minutes=6, dev=grammar(3, seed=6), **QUICK)
    assert 150 < figures["steps"] <= 180  # a step looks twice
    assert all("nll_per_unit" in row for row in figures["curve"])  # each time that a tenth is over
    assert figures["nll_per_unit"] > 0
    assert figures["tokens"] == figures["steps"] * 256
    assert figures["curve"][-1]["step"] == figures["steps"]
    assert figures["curve"][0]["lr"] > 10 * figures["curve"][-1]["lr"]

    def interrupt(n: int, row: dict) -> None:
        if n == 100:
            raise Interrupted

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train_lm(documents, minutes=6, checkpoint=checkpoint, log=interrupt, **QUICK)
    for _ in range(1000):
        next(ticks)
    _, resumed = train_lm(documents, minutes=6, checkpoint=checkpoint, **QUICK)
    assert 150 < resumed["steps"] <= 180
    assert [row["step"] for row in resumed["curve"]] == [50, 100, 150, resumed["steps"]]


# --- bad requests -----------------------------------------------------------------------------------------------------


def test_a_budget_of_tokens_is_that_of_as_many_steps() -> None:
    documents = grammar(20, seed=8)
    a, figures = train_lm(documents, tokens=700, **QUICK)  # of 256 a step
    b, _ = train_lm(
        documents,
        LMTrainConfig(steps=5, **{k: v for k, v in QUICK.items() if k != "contract"}),
        steps=3,
        contract=CONTRACT,
    )
    assert (figures["steps"], figures["tokens"]) == (3, 768)
    assert torch.equal(a.embed.weight, b.embed.weight)


def test_minutes_are_of_one_process(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="minutes is a budget for one process, and there are 2"):
        train_lm(grammar(3, seed=0), minutes=1, **QUICK)


def test_what_cannot_be_trained_says_why() -> None:
    documents = grammar(3, seed=0)
    for changes, error, message in (
        ({"preset": "huge"}, TrainingError, "known: nano, tiny"),
        ({"precision": "fp16"}, TrainingError, "known: fp32, bf16"),
        ({"schedule": "linear"}, TrainingError, "known: cosine, inverse_sqrt"),
        ({"batch_tokens": 32}, TrainingError, "less than one row"),
        ({"minutes": 1}, TrainingError, "in steps, tokens or minutes; give one of the three"),
        ({"steps": None}, TrainingError, "in steps, tokens or minutes; give one of the three"),
        ({"steps": None, "minutes": 0}, TrainingError, "minutes is 0 where a number above 0"),
        ({"contract": UnitContract()}, ContractError, "n_units"),
        ({"contract": CONTRACT.with_(encoder="logmel")}, ContractError, "encoder is mfcc in the training units"),
    ):
        with pytest.raises(error, match=message):
            train_lm(documents, **{**QUICK, "steps": 1, **changes})
    with pytest.raises(TrainingError, match="no units"):
        train_lm([Units([], [], CONTRACT)], steps=1, **QUICK)
    with pytest.raises(ContractError, match="encoder is logmel in the dev units"):
        train_lm(documents, steps=1, dev=[Units([1], None, CONTRACT.with_(encoder="logmel"))], **QUICK)
    assert {"tiny", "small", "base", "gslm"} <= set(PRESETS)


@pytest.mark.parametrize(("budget", "steps"), [({"steps": 7}, 7), ({"tokens": 700}, 3), ({"tokens": 769}, 4)])
def test_a_budget_in_steps_or_tokens(tmp_path, monkeypatch, budget, steps):
    """Three rows of 80 tokens fit into 256: an update learns from 240 of them, or with 64 from all."""
    import textless.lm
    from textless.engine.job import Job
    from textless.steps import TrainLM
    from textless.units.dump import UnitRow, finish_dump, write_shard

    contract = UnitContract(n_units=10, frame_rate=50.0)
    (tmp_path / "dump" / "data").mkdir(parents=True)
    rows = [UnitRow(id="a", units=Units.of(np.arange(10), contract))]
    write_shard(tmp_path / "dump" / "data" / "00000.parquet", rows, contract=contract)
    finish_dump(tmp_path / "dump", contract=contract)
    asked = []
    monkeypatch.setattr(textless.lm, "train_lm", lambda rows, config, **kw: asked.append(config.updates) or 1 / 0)
    job = Job(tmp_path / "made", {"units": tmp_path / "dump"}, lambda *a: None)
    with pytest.raises(ZeroDivisionError):
        TrainLM(units=None, batch_tokens=256, context=64 if budget.get("tokens") == 769 else 80, **budget).run(job)
    assert asked == [steps]
    for wrong in ({}, {"steps": 1, "tokens": 1}, {"tokens": 1, "minutes": 1.0}):
        with pytest.raises(TrainingError, match="needs a budget, in steps, tokens or minutes; give one of the three"):
            TrainLM(units=None, **wrong).run(job)


def test_the_step_says_how_each_speaker_of_dev_does(tmp_path) -> None:
    from textless.engine.job import Job
    from textless.metrics.lm import by_speaker
    from textless.steps import Corpus, Encode, Model, TrainLM
    from textless.units.dump import Dump, UnitRow, finish_dump, write_shard

    places = {}
    for name, count in (("units", 20), ("dev", 6)):
        places[name] = tmp_path / name
        (places[name] / "data").mkdir(parents=True)
        documents = enumerate(grammar(count, seed=count))
        rows = [UnitRow(id=f"{i}", units=Units(d.frames(), None, CONTRACT), speaker="ab"[i % 2]) for i, d in documents]
        write_shard(places[name] / "data" / "00000.parquet", rows, contract=CONTRACT, durations=False)
        finish_dump(places[name], contract=CONTRACT)
    job = Job(tmp_path / "made", places, lambda *a: None)
    job.path.mkdir(exist_ok=True)
    dev = Encode(audio=Corpus(manifest="x"), encoder="mfcc", codebook=Model(name="tiny-en"))  # inputs are the job's
    TrainLM(units=None, dev=dev, preset="nano", steps=4, context=64, batch_tokens=256).run(job)
    assert set(job.metrics["speakers"]) == {"a", "b"}
    joined = [replace(row, units=row.units.deduplicated()) for row in Dump(places["dev"])]
    for speaker, figures in by_speaker(load_lm(job.path), joined).items():
        assert job.metrics["speakers"][speaker] == pytest.approx(figures)

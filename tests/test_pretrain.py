import json
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from adamw import check, recorded

import textless.training.loop
from conftest import GOLDEN
from textless.audio.corpus import Corpus, PackedAudio
from textless.audio.io import read_audio
from textless.audio.mel import htk_log_mel, normalise
from textless.errors import TrainingError
from textless.pickles import load_torch
from textless.steps import Pretrain
from textless.units.encoders import pretrain as pretraining
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.hubert import PRESETS, Hubert, HubertConfig
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.pretrain import CropSource, Head, pretrain, span_mask
from textless.units.mfcc_lda.vtln import DIM, Voice

NANO = PRESETS["nano"]
SMALL = {"conv_dim": 16, "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 32, "pos_conv_kernel": 8, "pos_conv_groups": 2}
WAVE = HubertConfig(**SMALL, conv_norm="layer", conv_bias=True)


@pytest.fixture
def audio(speech, tmp_path):
    return PackedAudio.build(Corpus.load(speech), tmp_path / "packed")


@pytest.fixture
def labels(audio):
    """Loud or quiet: something that the spectrum tells."""
    out = []
    for i, samples in enumerate(audio.lengths):
        wave = audio.waveform(i)
        energy = [np.square(wave[320 * t : 320 * t + 400]).mean() for t in range(n_frames(int(samples)))]
        out.append((energy > np.median(energy)).astype(np.int64))
    return out


def test_span_mask():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        mask = span_mask(rng, [200, 60, 4], prob=0.8, span=10)
        assert mask.shape == (3, 200)
        assert not mask[1, 60:].any()
        assert mask[2].any()
        assert not mask[2, 4:].any()
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[0], [0]))))
        assert (np.diff(edges)[::2] >= 10).all()  # spans may join, none is shorter
        shares.append(mask[0].mean())
    # starts without replacement: 1 - (1 - 0.08)^10 of the frames, about
    assert 0.5 < np.mean(shares) < 0.62


def test_the_number_of_spans_is_rounded_at_random():
    """Of spans of one frame, as many frames as spans: 0.5 · 9 is four or five, each half of the time.

    The last frame begins none.
    """
    masks = span_mask(np.random.default_rng(0), [9] * 4000, prob=0.5, span=1)
    counts = masks.sum(1)
    assert set(counts) == {4, 5}
    assert counts.mean() == pytest.approx(4.5, abs=0.03)  # four standard errors
    assert masks.any(0).tolist() == [True] * 8 + [False]  # fairseq draws starts below length - span, too


@pytest.mark.parametrize("config", [NANO, WAVE, replace(WAVE, pre_ln=True)], ids=["logmel", "conv", "pre_ln"])
def test_losses_are_those_of_the_rows_by_hand(config, audio, tmp_path, monkeypatch):
    """Crops of three lengths, padded together, against each of them alone without padding; masked frames count 1,
    others 0.3.
    """
    spans = [(0, 0, 49), (1, 3, 30), (2, 10, 12)]
    draw = np.random.default_rng(0)
    labels = [draw.integers(0, 5, n_frames(int(n))) for n in audio.lengths]
    masks = draw.random((3, 49)) < 0.4
    for row, (_, _, frames) in zip(masks, spans, strict=True):
        row[frames:] = False
    monkeypatch.setattr(CropSource, "draw", lambda *args, **options: spans)
    monkeypatch.setattr(pretraining, "span_mask", lambda *args, **options: masks)
    torch.manual_seed(0)
    arguments = {
        "n_classes": 5,
        "start": Hubert(config),
        "steps": 1,
        "batch": 3,
        "head": "cosine",
        "folder": _new(tmp_path / "training"),
    }
    [found] = pretrain(audio, labels, unmasked_weight=0.3, **arguments)[1]

    torch.manual_seed(0)
    model, head = Hubert(config), Head(config.dim, 5, "cosine")
    source = CropSource(audio, model, tmp_path)
    nats, hits = {True: [], False: []}, {True: [], False: []}
    for (i, start, frames), row in zip(spans, masks, strict=True):
        mask = row[:frames]
        with torch.no_grad():
            logits = head(model(source.crop(i, start, frames)[None], mask=torch.from_numpy(mask)[None])[0])[0].double()
        for t in range(frames):
            label = labels[i][start + t]
            nats[bool(mask[t])].append(float(logits[t].logsumexp(0) - logits[t, label]))
            hits[bool(mask[t])].append(int(logits[t].argmax()) == label)
    masked, unmasked = np.mean(nats[True]), np.mean(nats[False])
    # A cosine is off by a few roundings of float32, 2^-24 each, and counts ten times.
    assert found["masked_loss"] == pytest.approx(masked, rel=1e-5)
    assert found["loss"] == pytest.approx(masked + 0.3 * unmasked, rel=1e-5)
    assert found["masked_accuracy"] == pytest.approx(np.mean(hits[True]))
    assert found["unmasked_accuracy"] == pytest.approx(np.mean(hits[False]))


def test_a_step_is_that_of_adamw_written_out(audio, tmp_path):
    """AdamW (0.9, 0.98), 1e-6, decay 0.01, of a gradient that is clipped at 5. Its rate rises for a twelfth of the
    steps to the peak, and falls in a cosine to a twentieth of it."""
    labels = [np.random.default_rng(i).integers(0, 50, n_frames(int(n))) for i, n in enumerate(audio.lengths)]
    arguments = {
        "n_classes": 50,
        "start": Hubert(replace(NANO, dim=16, ffn_dim=16, conv_dim=16)),
        "steps": 24,
        "batch": 1,
        "crop_seconds": 0.3,
    }
    with recorded() as records:
        _, [row] = pretrain(audio, labels, folder=tmp_path, unmasked_weight=60.0, lr=2e-3, head="cosine", **arguments)
    [record] = records
    assert row["grad_norm"] > 5
    assert record.norms() == pytest.approx([5] * 4, rel=1e-5)
    check(record, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    falling = [1e-4 + 1.9e-3 * (1 + math.cos(math.pi * n / 22)) / 2 for n in range(22)]
    assert record.rates == pytest.approx([1e-3, 2e-3, *falling])


@pytest.mark.parametrize("level", [0.002, 0.5])
def test_a_quiet_file_is_normalised_as_the_model_does(level, tmp_path):
    """Where the variance, 4e-6, is less than the 1e-5 that is added to it."""
    (tmp_path / "speech").mkdir()
    wave = (level * np.random.default_rng(0).uniform(-1, 1, 8000) + level).astype(np.float32)
    soundfile.write(tmp_path / "speech" / "a.wav", wave, 16000, subtype="PCM_16")
    audio = PackedAudio.build(Corpus.load(tmp_path / "speech"), tmp_path / "packed")
    x = audio.waveform(0).astype(np.float64)
    source = CropSource(audio, Hubert(replace(WAVE, normalisation="layer_norm_1e-5")), tmp_path)
    want = ((x - x.mean()) / np.sqrt(x.var() + 1e-5))[3 * 320 : 3 * 320 + 4 * 320 + 80]
    np.testing.assert_allclose(source.crop(0, 3, 4), want, rtol=1e-5, atol=1e-5)


def test_dropout_is_that_of_the_call(audio, labels, tmp_path):
    losses = [
        pretrain(
            audio,
            labels,
            n_classes=2,
            preset="nano",
            steps=1,
            batch=2,
            crop_seconds=0.5,
            dropout=p,
            folder=_new(tmp_path / str(p)),
        )[1]
        for p in (0.0, 0.5)
    ]
    assert losses[0][0]["masked_loss"] != losses[1][0]["masked_loss"]
    assert losses[0][0]["label_perplexity"] == losses[1][0]["label_perplexity"]  # of the same frames


@pytest.mark.parametrize("size", ["base", "large"])
def test_losses_are_those_of_fairseq(size):
    """Cosine logits over its K + 4 classes (the dictionary's specials come first), on the mask and the labels that it
    recorded.
    """
    expected = json.loads((GOLDEN / f"hubert_{size}.json").read_text())
    recorded = np.load(GOLDEN / f"hubert_{size}.npz")
    weights = load_torch(GOLDEN / f"hubert_{size}.pt")["model"]
    model = open_checkpoint(GOLDEN / f"hubert_{size}.pt").load()
    head = Head(
        model.config.dim,
        *weights["label_embs_concat"].shape[:1],
        "cosine",
        final_dim=weights["label_embs_concat"].shape[1],
    )
    head.load_state_dict(
        {
            "label_embs": weights["label_embs_concat"],
            "final_proj.weight": weights["final_proj.weight"],
            "final_proj.bias": weights["final_proj.bias"],
        }
    )
    waveform = torch.from_numpy(read_audio(GOLDEN / "clip.flac"))
    mask = torch.from_numpy(recorded["mask"])
    with torch.no_grad():
        x, _ = model(model.prepare(waveform)[None], mask=mask[None])
        if model.config.pre_ln:  # its last norm is not loaded, because no layer's output needs it
            x = F.layer_norm(x, x.shape[2:], weights["encoder.layer_norm.weight"], weights["encoder.layer_norm.bias"])
        nats = F.cross_entropy(head(x)[0], torch.from_numpy(recorded["labels"]).long() + 4, reduction="none")
    for which, rows in (("masked", mask), ("unmasked", ~mask)):
        assert int(rows.sum()) == expected[f"{which}_n"]
        assert float(nats[rows].sum()) == pytest.approx(expected[f"{which}_sum"], rel=1e-5)


@pytest.mark.parametrize("config", [NANO, WAVE], ids=["logmel", "conv"])
def test_a_crop_is_a_part_of_the_file(config, audio, tmp_path):
    """The front end gives for a crop what it gives for the whole file, but at the crop's edges."""
    torch.manual_seed(0)
    model = Hubert(config).eval()
    source = CropSource(audio, Hubert(config), tmp_path)
    whole = model.feature_extractor(model.prepare(torch.from_numpy(audio.waveform(1)))[None])[0]
    assert len(whole) == source.frames[1]
    part = model.feature_extractor(source.crop(1, 7, 20)[None])[0]
    assert part.shape == (20, config.conv_dim)
    torch.testing.assert_close(part[2:-2], whole[9:25], atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize(("normalisation", "epsilon"), [("layer_norm_1e-5", 1e-5), ("zscore_1e-7", 1e-7)])
def test_a_file_is_normalised_as_a_whole_and_read_once(normalisation, epsilon, audio, tmp_path, monkeypatch):
    reads = []
    read = PackedAudio.waveform

    def counted(self, i, start=0, stop=None):
        reads.append((i, start, stop))
        return read(self, i, start, stop)

    monkeypatch.setattr(PackedAudio, "waveform", counted)
    source = CropSource(audio, Hubert(replace(WAVE, normalisation=normalisation)), tmp_path)
    crops = [source.crop(i, start, 5) for i, start in ((0, 3), (1, 0), (0, 3), (0, 9))]
    assert [i for i, _, stop in reads if stop is None] == [0, 1]
    whole = torch.from_numpy(read(audio, 0))
    want = (whole - whole.mean()) / torch.sqrt(whole.var(unbiased=False) + epsilon)
    for crop, start in ((crops[0], 3), (crops[2], 3), (crops[3], 9)):
        assert torch.equal(crop, want[320 * start : 320 * (start + 4) + 400])


def test_resumes_bit_for_bit(audio, labels, tmp_path, monkeypatch):
    arguments = {"n_classes": 2, "preset": "nano", "steps": 12, "batch": 2, "crop_seconds": 0.5}
    whole, curve = pretrain(audio, labels, folder=_new(tmp_path / "whole"), **arguments)

    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(
        textless.training.loop.train, "__kwdefaults__", {**textless.training.loop.train.__kwdefaults__, "log_every": 3}
    )

    def kill(step, row):
        if step == 9:
            raise KeyboardInterrupt

    folder = _new(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        pretrain(audio, labels, folder=folder, log=kill, **arguments)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 6
    seen = []
    resumed, resumed_curve = pretrain(
        audio, labels, folder=folder, log=lambda step, row: seen.append(step), **arguments
    )
    assert seen == [9, 12]
    assert [row["step"] for row in resumed_curve] == [3, 6, 9, 12]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert curve[-1]["step"] == 12


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_learns(audio, labels, tmp_path, head):
    _, curve = pretrain(
        audio,
        labels,
        n_classes=2,
        preset="nano",
        steps=150,
        folder=tmp_path,
        batch=4,
        crop_seconds=0.6,
        lr=2e-3,
        head=head,
    )
    assert curve[-1]["unmasked_accuracy"] > 0.85
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]


def test_layer_drop(audio, labels, tmp_path):
    """A block is left out for the whole batch and learns nothing in that step; crops and masks are as they were."""
    torch.manual_seed(0)
    model, mel = Hubert(NANO), torch.randn(2, 39, NANO.n_mels)
    _, (first, second) = model(mel, skip=[1])
    assert torch.equal(first, second)
    second.sum().backward()
    grads = [[p.grad is not None for p in block.parameters()] for block in model.encoder.layers]
    assert all(grads[0])
    assert not any(grads[1])

    arguments = {"n_classes": 2, "preset": "nano", "batch": 2, "crop_seconds": 0.5}
    seen = {}
    for drop in (0.0, 0.5, 0.99):
        steps = pretrain(audio, labels, folder=_new(tmp_path / str(drop)), steps=1, layer_drop=drop, **arguments)[1]
        seen[drop] = steps[0]["label_perplexity"], steps[0]["masked_loss"]
    assert seen[0.0][0] == seen[0.99][0]
    assert seen[0.0][1] != seen[0.99][1]


def test_cosine_logits_equal_the_formula():
    torch.manual_seed(0)
    head, x = Head(8, 5, "cosine"), torch.randn(3, 8)
    logits = head(x)
    for i in range(3):
        for k in range(5):
            a, e = head.final_proj(x[i]), head.label_embs[k]
            assert logits[i, k].item() == pytest.approx((a @ e / (a.norm() * e.norm()) / 0.1).item(), rel=1e-4)


def test_labels_must_fit(audio, labels, tmp_path):
    arguments = {"preset": "nano", "steps": 1, "folder": tmp_path}
    with pytest.raises(TrainingError, match="2 label sequences for 3 files"):
        pretrain(audio, labels[:2], n_classes=2, **arguments)
    with pytest.raises(TrainingError, match="a: 48 labels for 49 frames"):
        pretrain(audio, [labels[0][:-1], *labels[1:]], n_classes=2, **arguments)
    with pytest.raises(TrainingError, match="label 1 is outside 0 … 0"):
        pretrain(audio, labels, n_classes=1, **arguments)
    with pytest.raises(TrainingError, match="layer_drop is 1"):
        pretrain(audio, labels, n_classes=2, layer_drop=1, **arguments)
    with pytest.raises(TrainingError, match="head is 'round'"):
        pretrain(audio, labels, n_classes=2, head="round", **arguments)


def test_divergence_is_an_error_and_keeps_the_checkpoint(tmp_path):
    module = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="diverged at step 2"):
        textless.training.loop.train(
            lambda n: {"loss": float("nan") if n else 1.0}, {"m": module}, steps=4, seed=0, log_every=2
        )


def _new(folder):
    folder.mkdir()
    return folder


def test_crops_of_a_batch_are_of_one_length_and_every_second_is_as_likely():
    source = CropSource.__new__(CropSource)
    source.frames = np.array([0, 30, 35, 40, 45, 50, 60, 70, 80, 400, 150, 100, 240])
    seconds, padded, spread, last = np.zeros(13), 0, [], np.zeros(13, int)
    for n in range(4000):
        spans = source.draw(np.random.default_rng(n), size=4, frames=100)
        lengths = [frames for _, _, frames in spans]
        spread.append(max(lengths) - min(lengths))
        padded += sum(max(lengths) - x for x in lengths)
        for i, start, frames in spans:
            assert frames == min(source.frames[i], 100)
            assert 0 <= start <= source.frames[i] - frames
            seconds[i] += 1
            last[i] = max(last[i], start + frames)
    assert last.tolist() == source.frames.tolist()  # a crop may end where its file does
    np.testing.assert_allclose(seconds / seconds.sum(), source.frames / source.frames.sum(), atol=0.01)
    assert max(spread) <= 30
    assert padded < 0.02 * 4000 * 4 * 100


def test_dropout_keeps_the_mean_and_is_drawn_from_torchs_generator():
    dropout, x = textless.training.loop.Dropout(0.1), torch.ones(50, 2000)
    torch.manual_seed(0)
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), first)
    kept = first > 0
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.004)
    torch.testing.assert_close(first[kept], torch.full((int(kept.sum()),), 256 / 230))
    assert float(first.mean()) == pytest.approx(1.0, abs=0.005)
    assert torch.equal(dropout.eval()(x), x)


def test_an_encoder_is_trained_further(audio, labels, tmp_path):
    settings = {"n_classes": 2, "preset": "nano", "batch": 2, "crop_seconds": 0.5}
    for name in "abc":
        (tmp_path / name).mkdir()
    first, _ = pretrain(audio, labels, steps=3, folder=tmp_path / "a", **settings)
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    further, _ = pretrain(audio, labels, steps=1, lr=1e-30, start=first, folder=tmp_path / "b", **settings)
    for name, tensor in further.state_dict().items():
        assert torch.equal(tensor, weights[name])
    smaller, _ = pretrain(
        audio, labels, steps=1, start=Hubert(replace(NANO, layers=1)), folder=tmp_path / "c", **settings
    )
    assert smaller.config.layers == 1  # the preset is ignored
    wider = Pretrain(audio=None, labels=None, steps=1, preset="tiny")
    with pytest.raises(TrainingError, match="preset is nano, but the encoder to start from is tiny"):
        Pretrain(audio=None, labels=None, steps=1, preset="nano", start=wider)


def test_a_voice_becomes_part_of_the_encoder(audio, labels, tmp_path, monkeypatch):
    """And of what it is trained on: the spectrograms of the training are those that it will hear in."""
    torch.manual_seed(0)
    voice = Voice(torch.randn(DIM, 4), torch.randn(20, 4))
    monkeypatch.setitem(PRESETS, "nano", replace(NANO, n_mels=80))
    settings = {"n_classes": 2, "preset": "nano", "steps": 1, "batch": 2, "crop_seconds": 0.5}
    model, _ = pretrain(audio, labels, voice=voice, folder=_new(tmp_path / "first"), **settings)
    assert (model.config.voice_clusters, model.config.voice_dim) == (20, 4)
    rounded = voice.centroids.half().float()
    assert torch.equal(model.voice.centroids, rounded)
    crop = CropSource(audio, model, tmp_path / "first").crop(0, 3, 10)
    waveform = torch.from_numpy(audio.waveform(0))
    torch.testing.assert_close(crop, model.prepare(waveform)[6:25], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(crop, normalise(htk_log_mel(waveform))[6:25], atol=0.05)
    for k, further in enumerate((voice, None)):
        again, _ = pretrain(audio, labels, voice=further, start=model, folder=_new(tmp_path / str(k)), **settings)
        assert torch.equal(again.voice.centroids, rounded)
    plain = Hubert(replace(NANO, n_mels=80))
    for k, (other, start) in enumerate(((Voice(torch.randn(DIM, 4), torch.randn(20, 4)), model), (voice, plain))):
        with pytest.raises(TrainingError, match="another voice"):
            pretrain(audio, labels, voice=other, start=start, folder=_new(tmp_path / f"other{k}"), **settings)

"""Pre-training that goes on from a model of another project, or of ours."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_distributed import Noise

import textless.training.loop
from conftest import GOLDEN
from textless.audio.corpus import Corpus, PackedAudio
from textless.engine.step import Keys
from textless.engine.store import Store
from textless.errors import ModelError, StepTypeError, TrainingError
from textless.pickles import load_torch
from textless.steps import Corpus as Audio
from textless.steps import Encode, Frames, KMeans, Ladder, Model, Pretrain
from textless.units.encoders import pretrain as pretraining
from textless.units.encoders import start as starting
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.hubert import PRESETS, Hubert, HubertConfig
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.load import load_encoder
from textless.units.encoders.pretrain import CropSource, pretrain, span_mask
from textless.units.encoders.start import Head, load_pretrained

BASE, LARGE = GOLDEN / "hubert_base.pt", GOLDEN / "hubert_large.pt"
STILL = 1e-30  # a learning rate that moves no weight
SMALL = {"conv_dim": 16, "dim": 32, "layers": 2, "heads": 2, "ffn_dim": 32, "pos_conv_kernel": 8, "pos_conv_groups": 2}


@pytest.fixture
def clip_audio(tmp_path):
    """The clip of the golden losses, decoded."""
    return PackedAudio.build(Corpus.load(GOLDEN / "clip.flac"), tmp_path / "packed")


@pytest.fixture
def go(tmp_path):
    """Train on three noises with random labels; every call has a folder of its own."""

    def go(start, *, classes=7, folder=None, **options):
        if folder is None:
            folder = tmp_path / f"training{len(list(tmp_path.glob('training*')))}"
        folder.mkdir(exist_ok=True)
        labels = random_labels(classes)
        options = {"steps": 3, "batch": 2, "crop_seconds": 0.5, **options}
        return pretrain(Noise(), labels, n_classes=classes, folder=folder, start=start, **options)

    return go


def random_labels(classes):
    return [np.random.default_rng(i).integers(0, classes, n_frames(int(n))) for i, n in enumerate(Noise.lengths)]


def saved(folder, config):
    torch.manual_seed(1)
    save_encoder(folder, Hubert(config))
    return folder


def saved_by_transformers(folder, model_type):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    kind = {"hubert": transformers.HubertModel, "wav2vec2": transformers.Wav2Vec2ForPreTraining}[model_type]
    config = kind.config_class(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, num_codevectors_per_group=4, codevector_dim=8,
        proj_codevector_dim=8,
    )  # fmt: skip
    kind(config).save_pretrained(folder)
    return folder


SOURCES = {
    "fairseq-base": lambda folder: BASE,
    "fairseq-large": lambda folder: LARGE,
    "ours-conv": lambda folder: saved(folder / "m", HubertConfig(**SMALL, normalisation="zscore_1e-7")),
    "ours-logmel": lambda folder: saved(folder / "m", PRESETS["nano"]),
    "tiny-en": lambda folder: Model(name="tiny-en").part("encoder"),
    "hubert": lambda folder: saved_by_transformers(folder / "m", "hubert"),
    "wav2vec2": lambda folder: saved_by_transformers(folder / "m", "wav2vec2"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_features_at_step_0_are_those_of_the_source(name, go, clip, tmp_path):
    """And the network that is trained, another program in float32, computes them up to rounding."""
    source = SOURCES[name](tmp_path)
    model, _ = go(source, steps=1, lr=STILL)
    save_encoder(tmp_path / "saved", model)
    wave = clip[:32000]
    with torch.inference_mode():
        layers = model(model.prepare(torch.from_numpy(wave))[None])[1]
    for layer, ours in enumerate(layers, 1):
        theirs = load_encoder(source, layer).encode_one(wave)
        saved = load_encoder(tmp_path / "saved", layer).encode_one(wave)
        assert np.abs(saved - theirs).max() <= 1e-6 * np.abs(theirs).max(), layer
        assert np.abs(ours[0].numpy() - theirs).max() <= 2e-5 * np.abs(theirs).max(), layer


@pytest.mark.parametrize("size", ["base", "large"])
def test_losses_with_a_kept_head_are_those_of_fairseq(size, clip_audio, tmp_path, monkeypatch):
    """The recorded mask and labels, over all K + 4 classes of its dictionary."""
    expected = json.loads((GOLDEN / f"hubert_{size}.json").read_text())
    recorded = np.load(GOLDEN / f"hubert_{size}.npz")
    labels, mask = recorded["labels"].astype(np.int64), recorded["mask"]
    monkeypatch.setattr(CropSource, "draw", lambda *args, **options: [(0, 0, len(mask))])
    monkeypatch.setattr(pretraining, "span_mask", lambda *args, **options: mask[None])
    options = {"head": "keep", "unmasked_weight": 1.0, "steps": 1, "batch": 1, "folder": tmp_path}
    start, classes = GOLDEN / f"hubert_{size}.pt", {"base": 100, "large": 50}[size]
    _, [row] = pretrain(clip_audio, [labels], start=start, n_classes=classes, **options)
    masked, unmasked = (expected[f"{which}_sum"] / expected[f"{which}_n"] for which in ("masked", "unmasked"))
    assert row["masked_loss"] == pytest.approx(masked, rel=1e-5)
    assert row["loss"] - row["masked_loss"] == pytest.approx(unmasked, rel=1e-5)


def test_new_labels_have_a_new_head_and_a_kept_head_is_trained(go):
    new = go(BASE, classes=30, head="linear", steps=1)[1]
    assert new[0]["masked_loss"] == pytest.approx(math.log(30), abs=1.5)
    curve = [go(BASE, classes=100, head="keep", steps=steps, lr=1e-3)[1][-1] for steps in (1, 12)]
    assert curve[1]["loss"] < curve[0]["loss"]


@pytest.mark.parametrize(
    ("given", "option", "frozen"),
    [("file", None, True), ("file", False, False), ("model", None, False), ("model", True, True)],
)
def test_the_front_end_of_a_start_from_outside_is_frozen(given, option, frozen, go):
    before = load_pretrained(BASE).state_dict()
    model, _ = go(BASE if given == "file" else load_pretrained(BASE), freeze_front_end=option)
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor, before[name])
        assert same == (frozen and name.startswith("feature_extractor.")), name


@pytest.mark.parametrize("source", [BASE, LARGE], ids=["post_ln", "pre_ln"])
def test_layers_learn_at_decayed_rates(source, go):
    """The first step of AdamW moves a weight by its rate, lr · decay^(distance to the head), whatever its gradient.

    By a few percent less where that is not far above epsilon. The rate of the only step is the peak.
    """
    before = load_pretrained(source).state_dict()
    model, _ = go(source, steps=1, lr=1e-3, layer_decay=0.5, freeze_front_end=False, unmasked_weight=1.0)
    depths = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("bias", "spec_embed")) and ".k_proj" not in name:  # vectors do not decay
            top = name.startswith("encoder.layer_norm") and model.config.pre_ln
            block = int(name.split(".")[2]) + 1 if name.startswith("encoder.layers.") else 0
            depth = 0 if top else 4 + 1 - block
            moved = (tensor - before[name]).abs().max().item()
            depths.setdefault(depth, []).append(moved / 1e-3)
    assert sorted(depths) == ([0] if model.config.pre_ln else []) + [1, 2, 3, 4, 5]
    for depth, moves in depths.items():
        assert moves == pytest.approx([0.5**depth] * len(moves), rel=0.15), depth


@pytest.mark.parametrize("name", ["fairseq-base", "fairseq-large", "tiny-en"])
def test_every_weight_that_is_trained_is_in_one_group(name, tmp_path):
    model, head = load_pretrained(SOURCES[name](tmp_path)), Head(8, 3, "cosine")
    groups = [p for group in pretraining._groups(model, head, 0.5) for p in group["params"]]
    assert len(groups) == len({id(p) for p in groups})
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    assert {id(p) for p in groups} == {id(p) for p in trained}


def test_a_decay_of_one_is_none(go):
    weights = [go(BASE, layer_decay=decay)[0].state_dict() for decay in (1.0, 1 - 1e-12)]
    for name, tensor in weights[0].items():
        # The clipped norm is summed in another order.
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-5)


def test_resumes_bit_for_bit(go, tmp_path, monkeypatch):
    options = {"classes": 100, "head": "keep", "layer_decay": 0.7, "steps": 12, "dropout": 0.1}
    whole, _ = go(BASE, **options)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(textless.training.loop, "CHECKPOINT_STEPS", 1)
    defaults = textless.training.loop.train.__kwdefaults__
    monkeypatch.setattr(textless.training.loop.train, "__kwdefaults__", {**defaults, "log_every": 3})

    def kill(step, row):
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(BASE, folder=tmp_path / "part", log=kill, **options)
    assert torch.load(tmp_path / "part" / "checkpoint.pt", weights_only=True)["step"] == 6
    resumed, _ = go(BASE, folder=tmp_path / "part", **options)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_held_out_is_measured_and_changes_nothing(go, tmp_path):
    """The start of each file, under the same mask every time, in batches of other sizes than their number."""
    labels = random_labels(7)
    settings = {"dropout": 0.2, "layer_drop": 0.3, "preset": "nano"}
    plain, _ = go(None, **settings)
    heads = []

    class Kept(Head):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            heads.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "Head", Kept)
        model, [row] = go(None, dev=(Noise(), labels), **settings)
    for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    generator, nats, hits = np.random.default_rng((0, 0)), [], []
    for files in ((0, 1), (2,)):
        masks = span_mask(generator, [25] * len(files), prob=0.8, span=10)
        for i, mask in zip(files, masks, strict=True):
            whole = model.prepare(torch.from_numpy(Noise().waveform(i)))
            crop = whole[:49].half().float()
            with torch.inference_mode():
                logits = heads[0](model(crop[None], mask=torch.from_numpy(mask)[None])[0])[0]
            target = torch.from_numpy(labels[i][:25])
            nats += F.cross_entropy(logits, target, reduction="none")[mask].tolist()
            hits += (logits.argmax(-1) == target)[mask].tolist()
    assert row["dev_masked_loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert row["dev_masked_accuracy"] == pytest.approx(np.mean(hits))


def test_a_published_name_brings_its_normalisation(go, tmp_path, monkeypatch):
    """The published one holds, not that of the processor file; the published layer is that of units alone."""
    folder = saved_by_transformers(tmp_path / "m", "hubert")
    monkeypatch.setattr(starting, "resolve_encoder", lambda name: {"name": (folder, 1, "layer_norm_1e-5")}[name])
    model, _ = go("name", steps=1, lr=STILL)
    assert model.config == replace(open_checkpoint(folder).config, normalisation="layer_norm_1e-5")
    assert len(model.encoder.layers) == 2


def test_a_mask_embedding_that_is_missing_is_drawn(tmp_path, go):
    """As in torchaudio's files."""
    from safetensors.torch import load_file, save_file

    saved(tmp_path / "m", HubertConfig(**SMALL))
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, tmp_path / "m" / "model.safetensors")
    drawn = [go(tmp_path / "m", steps=1, lr=STILL, seed=seed)[0].masked_spec_embed for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert 0 <= drawn[0].min() < 0.2 < 0.8 < drawn[0].max() <= 1


def test_what_does_not_fit_is_one_line(go, tmp_path):
    class Short(Noise):
        lengths = np.array([400, 719, 400])

    def refused(error, line, *args, **options):
        with pytest.raises(error) as e:
            go(*args, **options)
        assert str(e.value) == line

    new = "train a new one"
    refused(
        TrainingError,
        f"{BASE}: its head is for 100 labels where there are 7; {new} (head: linear or cosine)",
        BASE,
        head="keep",
    )
    ours = saved(tmp_path / "m", PRESETS["nano"])
    refused(ModelError, f"{ours}: has no pre-training head of fairseq's to keep; {new}", ours, head="keep")
    line = "head is keep, but only a file, folder or name to start from brings a head; give one"
    refused(TrainingError, line, None, head="keep")
    line = "freeze_front_end would freeze random weights; give start, or leave it out"
    refused(TrainingError, line, None, preset="nano", freeze_front_end=True)
    short = (Short(), [np.zeros(1, np.int64)] * 3)
    refused(TrainingError, "no file of dev is as long as two frames (45 ms)", None, preset="nano", dev=short)
    line = f"preset is small, 8 layers of 512, but {BASE} has 4 of 64; leave preset out: the start has its own shape"
    refused(TrainingError, line, BASE, preset="small")
    with pytest.raises(ModelError, match=r"gone\.pt: no such file or folder, and no published encoder has this name"):
        go(tmp_path / "gone.pt")
    theirs = saved_by_transformers(tmp_path / "theirs", "hubert")
    (theirs / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    line = f"{theirs}: sampling_rate: takes audio at 8000 Hz; textless reads 16000 Hz"
    refused(ModelError, line, theirs)
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "config.json").write_text('{"kind": "ladder"}')
    line = f"{tmp_path / 'ladder'}: holds a model of kind 'ladder' where a hubert is wanted"
    refused(ModelError, line, tmp_path / "ladder")
    content = load_torch(BASE)
    changed = replace(open_checkpoint(BASE), temperature=0.2)
    with pytest.raises(ModelError, match=f"its pre-training head has temperature 0.2, not 0.1; {new}$"):
        changed.load_head()
    weights = content["model"] | {"final_proj.weight": torch.zeros(64, 64), "final_proj.bias": torch.zeros(64)}
    for_two = replace(changed, get=weights.__getitem__, temperature=0.1)
    with pytest.raises(ModelError, match=f"its pre-training head is for several sets of labels; {new}$"):
        for_two.load_head()


def test_a_pipeline_goes_on_from_a_model(speech, tmp_path):
    audio, corpus = Audio(manifest=str(speech)), str(speech)
    km = KMeans(frames=Frames(audio=audio, encoder="mfcc"), n_units=5)
    train, dev = Audio(manifest=[f"{corpus}/a.wav", f"{corpus}/b.wav"]), Audio(manifest=f"{corpus}/c.wav")
    labels, dev_labels = (Encode(audio=part, encoder="mfcc", codebook=km) for part in (train, dev))
    start = Model(file=str(BASE))
    step = Pretrain(audio=audio, labels=labels, dev=dev_labels, start=start, steps=2, batch=2, crop_seconds=0.5)
    store = Store(tmp_path / "store")
    for needed in (km.frames, km, labels, dev_labels):
        store.run(needed)
    folder = store.run(step)
    config = json.loads((folder / "config.json").read_text())
    assert (config["front_end"], config["layers"], config["dim"]) == ("conv", 4, 64)
    assert store.manifest(step)["metrics"]["dev_masked_loss"] > 0
    before, after = (open_checkpoint(place).load(1).state_dict() for place in (BASE, folder))
    assert torch.equal(before["feature_extractor.conv_layers.0.conv.weight"].half().float(),
                       after["feature_extractor.conv_layers.0.conv.weight"])  # fmt: skip
    with pytest.raises(TrainingError, match=r"^a is in both labels and dev; measure on files that are not trained on$"):
        store.run(replace(step, dev=labels))


def test_planning_a_start():
    audio = Audio(manifest="x")
    labels = Encode(audio=audio, encoder="mfcc", codebook=KMeans(frames=Frames(audio=audio, encoder="mfcc"), n_units=5))
    fields = {"audio": audio, "labels": labels, "steps": 1}
    with pytest.raises(StepTypeError, match=r"^pretrain\.start must be .*pretrain or model.*, not a step ladder$"):
        Pretrain(start=Ladder(audio=audio), **fields)
    with pytest.raises(TrainingError, match=r"^pretrain\.head is keep, but a step model alone brings a head"):
        Pretrain(head="keep", **fields)
    with pytest.raises(TrainingError, match="would freeze random weights"):
        Pretrain(freeze_front_end=True, **fields)
    adapted = Pretrain(start=Model(name="tiny-en"), **fields)
    assert adapted.layers() == Pretrain(start=adapted, **fields).layers() == 4
    with pytest.raises(ModelError, match=r"frames\.layer is 5, but the encoder has layers 1 to 4"):
        Frames(audio=audio, encoder=adapted, layer=5)


def test_new_options_do_not_change_keys():
    audio = Audio(manifest="x")
    labels = Encode(audio=audio, encoder="mfcc", codebook=KMeans(frames=Frames(audio=audio, encoder="mfcc"), n_units=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Audio, "content", lambda self, hash_file: "c")
        payload = Keys(lambda file: "0").payload(Pretrain(audio=audio, labels=labels, steps=1))
    assert payload["fields"] == {"steps": 1}
    assert set(payload["inputs"]) == {"audio", "labels"}

import json
import shutil

import numpy as np
import pytest
import torch

from conftest import GOLDEN
from textless.audio.mfcc import mfcc
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import ContractError, ModelError, TrainingError
from textless.steps import STEPS
from textless.types import UnitContract
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.load import load_encoder, save_projected
from textless.units.encoders.projected import ProjectedEncoder
from textless.units.encoders.signal import SIGNAL
from textless.units.frames import read_frames
from textless.units.kmeans import Codebook
from textless.units.mfcc_lda.lda import DIM, LdaEncoder, context_mfcc, fit_lda, fit_projection
from textless.units.quantizers import load_codebook
from textless.units.tokenizer import Tokenizer


def test_context_is_made_of_neighbours(clip):
    frames = context_mfcc(clip)
    cepstra = mfcc(clip)[::2, :13]
    cepstra = (cepstra - cepstra.mean(0)) / cepstra.std(0)
    assert frames.shape == (370, DIM)
    for t in (0, 1, 100, 369):
        want = np.concatenate([cepstra[np.clip(t + k, 0, 369)] for k in range(-3, 4)])
        np.testing.assert_allclose(frames[t], want, atol=1e-3)


def test_projection_whitens_within_clusters():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 60, 6000)
    mixing = rng.standard_normal((DIM, DIM)).astype(np.float32)
    frames = (3 * rng.standard_normal((60, DIM))[labels] + rng.standard_normal((6000, DIM))).astype(np.float32) @ mixing
    encoder = fit_lda(frames, labels, dim=10)
    projected = frames @ encoder.projection
    within = projected - np.stack([projected[labels == k].mean(0) for k in range(60)])[labels]
    np.testing.assert_allclose(np.cov(within.T), np.eye(10), atol=0.15)
    assert projected.var(0).min() > 2  # between clusters there is more


def test_is_an_encoder(clip, tmp_path):
    rng = np.random.default_rng(0)
    encoder = fit_lda(rng.standard_normal((4000, DIM)).astype(np.float32), rng.integers(0, 60, 4000), dim=12)
    encoder.save(tmp_path)
    back = load_encoder(tmp_path)
    assert isinstance(back, LdaEncoder)
    assert back.contract == encoder.contract
    assert np.array_equal(back.encode_one(clip), encoder.encode_one(clip))
    assert back.encode_one(clip).shape == (n_frames(len(clip)), 12)


def same_directions(a, b, atol):
    """Columns are equal but for their signs."""
    np.testing.assert_allclose(a * np.sign((a * b).sum(0)), b, atol=atol)


def clusters(n=5000, k=30, dim=12, offset=0.0):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    labels[labels == 7] = 8  # one without a frame …
    labels[17] = 7  # … but for a single one
    scale = 1 / np.arange(1, dim + 1)
    return ((rng.standard_normal((k, dim))[labels] + rng.standard_normal((n, dim))) * scale + offset).astype(
        np.float32
    ), labels


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_projection_is_scikit_learns(offset):
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    frames, labels = clusters(offset=offset)
    keep, exact = labels != 7, frames.astype(np.float64)
    theirs = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-4, n_components=5).fit(exact[keep], labels[keep])
    want = theirs.scalings_[:, :5]
    pieces = [(frames[i : i + 333], labels[i : i + 333]) for i in range(0, 5000, 333)]
    same_directions(fit_projection(pieces, dim=5), want, atol=1e-3 * np.abs(want).max())
    same_directions(
        fit_projection([(frames, labels), (frames[:0], labels[:0])], dim=5), want, atol=1e-3 * np.abs(want).max()
    )
    axes = fit_projection(((x, None) for x, _ in pieces), dim=12, method="pca")
    same_directions(axes, PCA(12).fit(exact).components_.T, atol=1e-2)
    variances = (exact @ axes).var(0)
    assert (np.diff(variances) < 0).all()
    assert variances.sum() == pytest.approx(exact.var(0).sum(), rel=1e-5)


def test_bad_pieces():
    frames, labels = clusters()
    with pytest.raises(TrainingError, match="20 clusters cannot make 40 dimensions"):
        fit_lda(np.zeros((100, DIM), np.float32), np.arange(100) % 20)
    with pytest.raises(TrainingError, match="no frames to fit a projection on"):
        fit_projection([], dim=2)
    with pytest.raises(TrainingError, match="frames of 12 dimensions cannot be projected to 13"):
        fit_projection([(frames, labels)], dim=13)
    with pytest.raises(TrainingError, match="method is 'ica'; known: lda, pca"):
        fit_projection([(frames, labels)], dim=2, method="ica")
    with pytest.raises(TrainingError, match="frames after the first 5000 have 11 dimensions, not 12"):
        fit_projection([(frames, labels), (frames[:, 1:], labels)], dim=2)
    with pytest.raises(TrainingError, match="frames after the first 5000 are not finite"):
        fit_projection([(frames, labels), (frames * np.float32(np.nan), labels)], dim=2)


def naive_context(frames, n):
    index = np.arange(len(frames))[:, None] + np.arange(-n, n + 1)
    return frames[index.clip(0, len(frames) - 1)].reshape(len(frames), -1)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("base", ["mfcc", "lda", "fairseq", "ours"])
def test_an_encoder_on_another(clip, tmp_path, base, context):
    rng, layer = np.random.default_rng(0), None
    source = base
    if base == "lda":
        LdaEncoder(rng.standard_normal((DIM, 20)).astype(np.float32)).save(source := tmp_path / "lda")
    elif base == "fairseq":
        source, layer = shutil.copy(GOLDEN / "hubert_large.pt", tmp_path / "model.pt"), 2
    elif base == "ours":
        torch.manual_seed(0)
        save_encoder(source := tmp_path / "ours", Hubert(PRESETS["nano"]))
        (source / "manifest.json").write_text("{}")
        layer = 2
    below = load_encoder(source, layer)
    projection = rng.standard_normal((below.dim * (2 * context + 1), 6)).astype(np.float32)
    save_projected(tmp_path / "made", source, projection, layer=layer, context=context)
    made = ProjectedEncoder(below, projection, context=context)
    if base != "mfcc":
        shutil.move(source, tmp_path / "elsewhere")  # it is self-contained
    encoder = load_encoder(tmp_path / "made")
    assert not list((tmp_path / "made").rglob("manifest.json"))

    want = naive_context(below.encode_one(clip), context) @ projection
    frames = encoder.encode_one(clip)
    assert frames.shape == (encoder.n_frames(len(clip)), encoder.dim) == (below.n_frames(len(clip)), 6)
    np.testing.assert_allclose(frames, want, atol=1e-4 * np.abs(want).max())
    files = [clip[:5000], clip[:9999]]
    for file, got in zip(files, encoder.encode_batch(files), strict=True):
        np.testing.assert_allclose(got, encoder.encode_one(file), atol=1e-4 * np.abs(want).max())
    streamed = np.concatenate(list(encoder.stream(lambda: (clip[i : i + 7777] for i in range(0, len(clip), 7777)))))
    np.testing.assert_allclose(streamed, frames, atol=1e-4 * np.abs(want).max())

    assert encoder.contract == load_encoder(tmp_path / "made", layer).contract == made.contract
    assert encoder.contract.with_(encoder=None) == below.contract.with_(encoder=None)
    others = [below, ProjectedEncoder(below, projection + 1, context=context), ProjectedEncoder(below, context=1)]
    if layer:
        others.append(ProjectedEncoder(load_encoder(tmp_path / "elsewhere", 1), projection, context=context))
    assert len({e.contract.encoder for e in [encoder, *others]}) == len(others) + 1


def test_context_over_short_pieces():
    class Base:
        dim, sample_rate, frame_rate, precision, contract = 3, 16000, 50.0, "fp32", UnitContract(encoder="x")

        def stream(self, pieces):
            yield from pieces()

    frames = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
    encoder = ProjectedEncoder(Base(), context=3)
    for cuts in ([], [1], [2, 3, 4], [5, 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]):
        for n in (1, 2, 7, 11):
            got = np.concatenate(
                list(encoder.stream(lambda n=n, cuts=cuts: [x for x in np.split(frames[:n], cuts) if len(x)]))
            )
            assert np.array_equal(got, naive_context(frames[:n], 3))


def test_bad_encoder_on_another(tmp_path):
    with pytest.raises(
        ModelError, match="a projection of 5 dimensions does not fit an encoder of 117, context included"
    ):
        ProjectedEncoder(load_encoder("mfcc"), np.zeros((5, 2)), context=1)
    save_projected(tmp_path, "mfcc", np.zeros((39, 2), np.float32), layer=None)
    with pytest.raises(ModelError, match="was fitted on layer None, not 3"):
        load_encoder(tmp_path, 3)
    config = json.loads((tmp_path / "config.json").read_text())
    for base in ("/etc", "base/../../x"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "base": base}))
        with pytest.raises(ModelError, match="is not inside it"):
            load_encoder(tmp_path)


LADDER = """
steps:
  corpus:  {manifest: SPEECH}
  context: {step: frames, audio: $corpus, encoder: context_mfcc, fraction: 0.7}
  km0:     {step: kmeans, frames: $context, n_units: 12}
  lda1:    {step: lda, frames: $context, codebook: $km0, dim: 6}
  ladder1: {step: frames, audio: $corpus, encoder: $lda1, fraction: 0.7}
  km1:     {step: kmeans, frames: $ladder1, n_units: 12}
  lda2:    {step: lda, frames: $context, codebook: $km1, labelled: $ladder1, dim: 6}
  ladder2: {step: frames, audio: $corpus, encoder: $lda2}
  km2:     {step: kmeans, frames: $ladder2, n_units: 10}
  labels:  {step: assign, frames: $ladder2, codebook: $km2}
  pca:     {step: lda, method: pca, frames: $context, dim: 6}
  hubert:  {step: model, file: HUBERT}
  hidden:  {step: frames, audio: $corpus, encoder: $hubert, layer: 2, context: 1}
  km3:     {step: kmeans, frames: $hidden, n_units: 10, max_frames: 100, restarts: 2}
  lda3:    {step: lda, frames: $hidden, codebook: $km3, dim: 4}
  top:     {step: frames, audio: $corpus, encoder: $lda3}
  km4:     {step: kmeans, frames: $top, n_units: 8, algorithm: minibatch}
  units:   {step: encode, audio: $corpus, encoder: $lda3, codebook: $km4}
  mixed:   {step: lda, frames: $context, codebook: $km3, labelled: $hidden, dim: 6}
  foreign: {step: lda, frames: $context, codebook: $km1, dim: 6}
"""


def test_the_ladder_as_steps(speech, tmp_path):
    torch.manual_seed(0)
    save_encoder(tmp_path / "hubert", Hubert(PRESETS["nano"]))
    (tmp_path / "ladder.yaml").write_text(
        LADDER.replace("SPEECH", str(speech)).replace("HUBERT", str(tmp_path / "hubert"))
    )
    pipeline = load_pipeline(tmp_path / "ladder.yaml", STEPS)
    store = Store(tmp_path / "store")
    pipeline.run(store, ["labels", "pca", "units"])
    at = {name: store.folder(step) for name, step in pipeline.steps.items() if name not in ("corpus", "hubert")}

    def gathered(name):
        return np.concatenate([frames for _, frames in read_frames(at[name])])

    # The second projection is of the first frames, fitted on clusters of the projected ones.
    labels = load_codebook(at["km1"]).predict(gathered("ladder1"))
    want = fit_projection([(gathered("context"), labels)], dim=6)
    same_directions(load_encoder(at["lda2"]).projection, want, atol=1e-3 * np.abs(want).max())
    np.testing.assert_allclose(
        gathered("context") @ load_encoder(at["lda1"]).projection, gathered("ladder1"), atol=1e-3
    )
    axes = load_encoder(at["pca"]).projection
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)

    # On a network: the same frames, in one encoder that needs nothing else.
    shutil.rmtree(tmp_path / "hubert")
    want = gathered("hidden") @ load_encoder(at["lda3"]).projection
    np.testing.assert_allclose(gathered("top"), want, atol=1e-3 * np.abs(want).max())
    assert gathered("hidden").shape[1] == 3 * PRESETS["nano"].dim
    assert store.manifest(pipeline.steps["lda3"])["contract"]["layer"] == 2
    assert load_encoder(at["lda3"]).contract.to_dict() == store.manifest(pipeline.steps["lda3"])["contract"]
    metrics = store.manifest(pipeline.steps["km3"])["metrics"]
    assert metrics["frames"] == 100
    assert {"inertia", "inertia_curve", "dead_units", "repaired_units"} <= set(metrics)

    for name, error, match in (
        ("mixed", TrainingError, "frames in .* with one fraction and seed"),
        ("foreign", ContractError, "encoder is .* in the codebook but context_mfcc in the encoder"),
    ):
        with pytest.raises(error, match=match):
            pipeline.run(store, [name])


@pytest.mark.parametrize("name", SIGNAL)
def test_signal_encoders_keep_their_promises(name, clip):
    encoder = load_encoder(name)
    frames = encoder.encode(clip)
    assert frames.dtype == np.float32
    assert frames.shape == (encoder.n_frames(len(clip)), encoder.dim)
    assert encoder.contract.encoder == name
    assert encoder.contract.frame_rate == encoder.frame_rate
    two = encoder.encode([clip, clip[:5000]])
    assert np.array_equal(two[0], frames)
    assert len(two[1]) == encoder.n_frames(5000)


def test_tokenizer_refuses_a_codebook_of_another_encoder():
    with pytest.raises(ContractError, match="encoder is logmel in the codebook but mfcc in the encoder"):
        Tokenizer(load_encoder("mfcc"), Codebook(np.zeros((2, 39)), UnitContract(encoder="logmel")))
    with pytest.raises(ContractError, match="3 dimensions but the encoder 39"):
        Tokenizer(load_encoder("mfcc"), Codebook(np.eye(3)))

"""Other tools' k-means files: each is read as its own tool reads it, and a hostile one runs nothing."""

import io
import os
import pickle
import struct
import zipfile

import faiss
import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.cluster import MiniBatchKMeans

from textless.errors import ModelError
from textless.units.centroids import read_centroids
from textless.units.faiss_index import read_faiss
from textless.units.kmeans import Codebook
from textless.units.quantizers import load_codebook

CENTROIDS = np.random.default_rng(0).standard_normal((12, 24)).astype(np.float32)
FRAMES = np.random.default_rng(1).standard_normal((2000, 24)).astype(np.float32)


def write_npz(path):
    np.savez(path, centroids=CENTROIDS, counts=np.ones(12))


def write_compressed(path):
    np.savez_compressed(path, np.asfortranarray(CENTROIDS))


def write_pint(path):
    save_file({"cluster_centers": CENTROIDS}, path)


def write_bshall(path):
    """What hubert.model.kmeans100 downloads."""
    torch.save({"n_features_in_": 24, "_n_threads": 4, "cluster_centers_": torch.from_numpy(CENTROIDS)}, path)


def write_double(path):
    """A dict of numpy arrays, as torch.save pickles them."""
    torch.save({"cluster_centers_": CENTROIDS.astype(np.float64), "labels": np.zeros((2, 2))}, path)


def write_speechbrain(path):
    """MiniBatchKMeans through joblib, whatever the name ends with."""
    kmeans = MiniBatchKMeans(12, random_state=0, n_init=1).fit(FRAMES)
    kmeans.cluster_centers_ = CENTROIDS
    joblib.dump(kmeans, path)


def write_flat(path):
    index = faiss.IndexFlatL2(24)
    index.add(CENTROIDS)
    faiss.write_index(index, str(path))


WRITERS = {
    "named.npz": write_npz,
    "compressed.npz": write_compressed,
    "kmeans_12.safetensors": write_pint,
    "kmeans.pt": write_bshall,
    "arrays.pt": write_double,
    "tensor.pt": lambda path: torch.save(torch.from_numpy(CENTROIDS), path),
    "tensor.pth": lambda path: torch.save(torch.from_numpy(CENTROIDS), path, _use_new_zipfile_serialization=False),
    "kmeans.ckpt": write_speechbrain,
    "kmeans-cluster-12-layer-7.pt": write_speechbrain,
    "km.bin": write_speechbrain,
    "kmeans.index": write_flat,
    "kmeans": write_flat,
}


@pytest.mark.parametrize("name", WRITERS)
def test_centroids_are_those_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    codebook = load_codebook(tmp_path / name)
    np.testing.assert_array_equal(codebook.centroids, CENTROIDS)
    assert codebook.contract.encoder is None
    assert codebook.contract == Codebook(CENTROIDS).contract


def test_half_precision_is_read_exactly(tmp_path):
    torch.save(torch.from_numpy(CENTROIDS).bfloat16(), tmp_path / "a.pt")
    expected = torch.from_numpy(CENTROIDS).bfloat16().float().numpy()
    np.testing.assert_array_equal(load_codebook(tmp_path / "a.pt").centroids, expected)


FACTORIES = [
    "Flat",
    "IVF12,Flat",
    "IVF12,SQ8",
    "PCAR8,IVF12,Flat",
    "PCA8,Flat",
    "RR24,IVF12,Flat",
    "OPQ4_16,IVF12_HNSW32,PQ4x4fsr",  # that of mHuBERT-147
    "IVF12,PQ4x4fs",
]


def write_index(path, factory, n=12):
    index = faiss.index_factory(24, factory)
    with open(os.devnull, "w") as null:  # faiss asks for more training vectors
        old = os.dup(2)
        os.dup2(null.fileno(), 2)
        index.train(FRAMES)
        os.dup2(old, 2)
        os.close(old)
    index.add(FRAMES[:n])
    faiss.write_index(index, str(path))
    return index


@pytest.mark.parametrize("factory", FACTORIES)
def test_units_are_those_of_faiss(tmp_path, factory):
    index = write_index(tmp_path / "a.index", factory)
    frames, inner = FRAMES, index
    if isinstance(index, faiss.IndexPreTransform):
        frames, inner = faiss.downcast_VectorTransform(index.chain.at(0)).apply_py(FRAMES), index.index
    inner = faiss.downcast_index(inner)
    inner = faiss.downcast_index(inner.quantizer) if hasattr(inner, "quantizer") else inner
    if isinstance(inner, faiss.IndexHNSWFlat):
        inner = faiss.downcast_index(inner.storage)  # the search through the graph is approximate
    distances, units = inner.search(frames, 2)
    codebook = load_codebook(tmp_path / "a.index")
    assert codebook.dim == 24
    same = codebook.predict(FRAMES) == units[:, 0]
    assert same[distances[:, 1] - distances[:, 0] > 1e-3].all()
    assert same.mean() > 0.99


@pytest.mark.parametrize("factory", ["IVF12,Flat", "OPQ4_16,IVF12_HNSW32,PQ4x4fsr", "PCAR8,IVF12,Flat"])
def test_a_cut_index_is_refused_at_every_length(tmp_path, factory):
    write_index(tmp_path / "a.index", factory)
    data = (tmp_path / "a.index").read_bytes()
    whole = read_faiss(tmp_path / "a.index")
    needed = 0
    for size in [*range(200), *range(200, len(data), 499)]:
        (tmp_path / "cut.index").write_bytes(data[:size])
        try:
            np.testing.assert_array_equal(read_faiss(tmp_path / "cut.index"), whole)
        except ModelError as e:
            needed = size
            assert str(e).startswith(f"{tmp_path / 'cut.index'}: ")  # noqa: PT017
            assert "\n" not in str(e)  # noqa: PT017
    assert 200 < needed < len(data)  # what follows the centroids is not read


def flat(dim=2, count=3, metric=1, length=None, kind=b"IxF2", body=None):
    body = np.arange(6, dtype="<f4").tobytes() if body is None else body
    return kind + struct.pack("<iqqqBi", dim, count, 1, 1, 1, metric) + struct.pack("<Q", length or 6) + body


def linear(dim_in, dim_out, values):
    return b"LTra" + struct.pack("<BQ", 0, values.size) + values.astype("<f4").tobytes() + struct.pack(
        "<QiiB", 0, dim_in, dim_out, 1
    )  # fmt: skip


def behind(matrix, inner, dim):
    return b"IxPT" + struct.pack("<iqqqBii", dim, 0, 1, 1, 1, 1, 1) + matrix + inner


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (flat(length=2**61), "is cut short"),
        (flat(count=2**40), "has vectors of another size than it states"),
        (flat(dim=-2, count=-3), "has vectors of another size than it states"),
        (flat(metric=0, kind=b"IxFI"), "compares by faiss's metric 0, not by Euclidean distance"),
        (flat(body=np.full(6, np.nan, "<f4").tobytes()), "NaN or infinite"),
        (b"ilod" + bytes(100), "holds a faiss index of kind 'ilod', not k-means"),
        (b"\xff\n\x1b\x00" + bytes(100), r"kind '\\xff\\n\\x1b\\x00', not k-means"),
        (b"IxPT" + struct.pack("<iqqqBii", 2, 0, 1, 1, 1, 1, 0) * 1000, "not k-means"),
        ((b"IxPT" + struct.pack("<iqqqBii", 2, 0, 1, 1, 1, 1, 0)) * 5000 + flat(), "not k-means"),
        (behind(b"VNrm" + bytes(20), flat(), 2), "transforms vectors by 'VNrm', which is no linear map"),
        (behind(linear(3, 2, np.eye(2, 3) * 2), flat(), 3), "a matrix that is not orthonormal"),
        (behind(linear(1, 2, np.ones(2)), flat(), 1), "a matrix that is not orthonormal"),
        (behind(linear(4, 2, np.eye(2, 3)), flat(), 4), "a linear map of another size"),
        (behind(linear(4, 1, np.eye(1, 4)), flat(), 4), "has parts of different sizes"),
        (behind(linear(3, 2, np.eye(2, 3)), flat(), 4), "has parts of different sizes"),
        (
            behind(linear(9000, 1, np.eye(1, 9000)), flat(1, 9000, 1, 9000, body=bytes(36000)), 9000),
            "has more and wider centroids than any k-means",
        ),
    ],
)
def test_a_hostile_index_is_refused(tmp_path, data, message):
    (tmp_path / "a.index").write_bytes(data)
    with pytest.raises(ModelError, match=r"^[^\n]*a\.index: [^\n]*" + message):
        load_codebook(tmp_path / "a.index")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def hostile_torch(path, thing):
    torch.save({"cluster_centers_": torch.ones(2, 2), "more": thing}, path)


def hostile_zip(path, thing):
    with zipfile.ZipFile(path, "w") as z, z.open("centroids.npy", "w") as member:
        np.lib.format.write_array(member, np.array([thing], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("kmeans.pt", hostile_torch),
        ("kmeans.ckpt", lambda path, thing: joblib.dump(thing, path)),
        ("kmeans.pkl", lambda path, thing: path.write_bytes(pickle.dumps(thing))),
        ("kmeans.pth", lambda path, thing: torch.save(thing, path, _use_new_zipfile_serialization=False)),
        ("kmeans.npz", hostile_zip),
        ("kmeans.index", lambda path, thing: path.write_bytes(pickle.dumps(thing))),
        ("kmeans.safetensors", lambda path, thing: path.write_bytes(pickle.dumps(thing))),
    ],
)
def test_nothing_runs(tmp_path, name, write):
    canary = tmp_path / "canary"
    write(tmp_path / name, Hostile(canary))
    with pytest.raises(ModelError, match=r"^[^\n]+$") as e:
        load_codebook(tmp_path / name)
    assert str(e.value).startswith(f"{tmp_path / name}: ")
    assert not canary.exists()


@pytest.mark.parametrize("name", WRITERS)
def test_half_a_download_is_refused(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for size in (0, 5, 100, len(data) // 2):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"^[^\n]+$"):
            load_codebook(tmp_path / name)


def test_an_archive_that_grows_is_refused(tmp_path):
    """80 kB of zeros are 80 MB; a header may also promise more than there is."""
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2 * 10**7, 1)}
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as z, z.open("centroids.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, shape)
        for _ in range(20):
            member.write(bytes(4 * 10**6))
    with pytest.raises(ModelError, match=r"a\.npz: grows to more than \d+ MiB"):
        read_centroids(tmp_path / "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 24)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as z:
        z.writestr("centroids.npy", header.getvalue() + bytes(96))
    with pytest.raises(ModelError, match=r"b\.npz: is cut short, damaged"):
        read_centroids(tmp_path / "b.npz")


def test_what_is_no_codebook_is_refused(tmp_path):
    torch.save({"a.weight": torch.ones(3, 4), "b\n.weight": torch.ones(4, 4)}, tmp_path / "two.pt")
    torch.save({"step": 7, "names": ["a"]}, tmp_path / "none.pt")
    np.savez(tmp_path / "words.npz", centroids=np.array([["a", "b"]]))
    torch.save(torch.ones(3), tmp_path / "vector.pt")
    torch.save(torch.ones(3, 2) * float("nan"), tmp_path / "nan.pt")
    np.savez(tmp_path / "empty.npz")
    np.save(tmp_path / "km.npy", CENTROIDS)
    for name, message in (
        ("two.pt", r"holds 2 tables \('a\.weight', 'b\\n\.weight'\) and says of none that it holds centroids"),
        ("none.pt", r"holds no k-means \(no cluster_centers_\) but 'names', 'step'; give"),
        ("words.npz", "holds centroids of type <U1, which are not numbers"),
        ("vector.pt", r"centroids must be \(K, D\), got shape \(3,\)"),
        ("nan.pt", "centroids hold NaN"),
        ("empty.npz", "holds no k-means"),
        ("km.npy#3", "has no heads of blocks, as SpidR and DinoSR have; leave #3 out"),
    ):
        with pytest.raises(ModelError, match=message):
            load_codebook(tmp_path / name)

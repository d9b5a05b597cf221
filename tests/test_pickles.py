import bz2
import collections
import enum
import io
import os
import pathlib
import pickle
import random
import sys
import types
import typing
import zipfile
import zlib
from argparse import Namespace
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import sklearn.cluster
import torch

from conftest import GOLDEN
from textless import pickles
from textless.errors import ModelError
from textless.pickles import Stub, load_joblib, load_torch, plain

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """A file that hostile pickles try to make, by a command or by the import of `stranger`; no test may leave it or new
    modules behind.
    """
    file = tmp_path / "canary"
    (tmp_path / "stranger.py").write_text(f"open({str(file)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    ordered, modules = set(vars(collections.OrderedDict)), set(sys.modules)
    yield file
    assert not file.exists()
    assert {
        name for name in set(sys.modules) - modules if not name.startswith(("torch.", "numpy.", "encodings."))
    } == set()
    assert set(vars(collections.OrderedDict)) == ordered


# ---- opcodes by hand: what no Pickler would write


class Code(bytes):
    """Opcodes that leave one value."""


def code(value):
    if isinstance(value, Code):
        return value
    if type(value) in (list, tuple):
        return Code(b"(" + b"".join(map(code, value)) + (b"l" if type(value) is list else b"t"))
    return Code(pickle.dumps(value, 2)[2:-1])


def name(full):
    return Code("c{}\n{}\n".format(*full.rsplit(".", 1)).encode())


def call(full, *args):
    return Code(name(full) + code(args) + b"R")


def program(value):
    return b"\x80\x04" + code(value) + b"."


def storage(kind="Float", key="0", count=6, what="storage"):
    return Code(code((what, name(f"torch.{kind}Storage"), key, "cpu", count)) + b"Q")


def tensor(offset=0, size=(2, 3), stride=(3, 1), data=None):
    return call(
        "torch._utils._rebuild_tensor_v2",
        data or storage(),
        offset,
        size,
        stride,
        False,
        call("collections.OrderedDict"),
    )


def archive(path, value, members=(("data/0", bytes(24)),), root="archive"):
    """A zip as of torch.save."""
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{root}/data.pkl", program(value))
        z.writestr(f"{root}/byteorder", "little")
        for member, data in members:
            z.writestr(f"{root}/{member}", data)
    return path


def legacy(path, value, keys=(), data=b"", version=1001, **info):
    parts = [0x1950A86A20F9469CFC6C, version, {"little_endian": True, **info}, value, list(keys)]
    path.write_bytes(b"".join(map(program, parts)) + data)
    return path


def refuse(load, path, *words):
    """The error must name the file first, take one line, and hold the words."""
    with pytest.raises(ModelError) as e:
        load(path)
    text = str(e.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert ";" in text
    for word in words:
        assert word in text


def refuse_all(tmp_path, value, *words):
    """A value in each kind of file."""
    (tmp_path / "a.pkl").write_bytes(program(value))
    refuse(load_joblib, tmp_path / "a.pkl", *words)
    for compress in (zlib.compress, bz2.compress):
        (tmp_path / "a.z").write_bytes(compress(program(value)))
        refuse(load_joblib, tmp_path / "a.z", *words)
    refuse(load_torch, archive(tmp_path / "a.pt", value), *words)
    refuse(load_torch, legacy(tmp_path / "a.old", value), *words)


# ---- real files


@pytest.mark.parametrize(
    ("size", "normalize", "units", "tensors"), [("base", False, 100, 86), ("large", True, 50, 105)]
)
def test_hubert_of_fairseq(size, normalize, units, tensors):
    checkpoint = load_torch(GOLDEN / f"hubert_{size}.pt")
    cfg = plain(checkpoint["cfg"])
    assert cfg["task"]["normalize"] is normalize
    assert cfg["task"]["data"] == "???"
    assert cfg["task"]["labels"] == ["ltr"]
    assert cfg["model"]["encoder_layers"] == 4
    assert cfg["model"]["extractor_mode"] == ("layer_norm" if normalize else "default")
    (dictionary,) = plain(checkpoint["task_state"])["dictionaries"]
    assert dictionary["symbols"] == ["<s>", "<pad>", "</s>", "<unk>", *map(str, range(units))]
    assert dictionary["indices"] == {symbol: k for k, symbol in enumerate(dictionary["symbols"])}
    assert dictionary["count"] == [1] * (units + 4)
    state = checkpoint["model"]
    assert type(state) is collections.OrderedDict
    assert len(state) == tensors
    assert state["encoder.layers.3.fc1.weight"].shape == (128, 64)
    assert state["encoder.layers.3.fc1.weight"].dtype == torch.float32
    assert not any(t.requires_grad for t in state.values())
    assert state["label_embs_concat"].shape[0] == units + 4


def test_sums_of_real_weights():
    recorded = {"hubert_base": 2383.296785341176, "hubert_large": 1890.5219616148697, "ulm": 358.3369934342495}
    sums = {
        name: sum(float(t.double().sum()) for t in load_torch(GOLDEN / f"{name}.pt")[key].values())
        for name, key in (
            ("hubert_base", "model"),
            ("hubert_large", "model"),
            ("ulm", "model"),
            ("codehifigan_plain", "generator"),
        )
    }
    assert sums == pytest.approx({**recorded, "codehifigan_plain": 2226.0119517218823}, rel=1e-9)


def test_language_model_of_fairseq():
    checkpoint = load_torch(GOLDEN / "ulm.pt")
    assert type(checkpoint["args"]) is Stub
    assert checkpoint["args"].name == "argparse.Namespace"
    assert plain(checkpoint)["args"]["arch"] == "transformer_lm"
    assert plain(checkpoint)["args"]["decoder_embed_dim"] == 64


def test_kmeans_of_fairseq(golden):
    model = load_joblib(GOLDEN / "km20.bin")
    assert model.name == "sklearn.cluster._kmeans.MiniBatchKMeans"
    assert plain(model)["n_clusters"] == 20
    centres = model.state["cluster_centers_"]
    assert centres.shape == (20, 39)
    assert centres.dtype == np.float32
    assert centres.flags.writeable
    np.testing.assert_array_equal(centres, golden("mfcc.npz")["centroids"])


# ---- what torch saves


@pytest.fixture
def tensors():
    base = torch.randn(6, 5, generator=torch.manual_seed(0))
    views = {
        "base": base,
        "t": base.t(),
        "part": base[2:4, 1::2],
        "expanded": torch.ones(1).expand(4),
        "scalar": torch.tensor(3.0),
    }
    rest = {"parameter": torch.nn.Parameter(base.clone()), "empty": torch.zeros(0, 3)}
    return {**views, **rest, **{d: torch.arange(7).to(getattr(torch, d)) for d in DTYPES}}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_torch(tmp_path, tensors, zipped, protocol):
    others = {"size": torch.Size([2, 3]), "device": torch.device("cuda", 1), "dtype": torch.float16}
    torch.save(
        {**tensors, **others}, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
    )
    loaded = load_torch(tmp_path / "x.pt")
    assert {key: loaded.pop(key) for key in others} == others
    assert list(loaded) == list(tensors)
    for key, t in tensors.items():
        assert type(loaded[key]) is torch.Tensor
        assert torch.equal(loaded[key], t)
        assert (loaded[key].dtype, loaded[key].stride()) == (t.dtype, t.stride())
    loaded["base"][2, 1] = 7
    assert loaded["part"][0, 0] == loaded["t"][1, 2] == 7  # one storage, as it was
    assert load_torch(tmp_path / "x.pt")["base"][2, 1] != 7  # and not that of the file


def test_modules_subclasses_and_storages(tmp_path):
    layer = torch.nn.Linear(2, 3)
    state = layer.state_dict()  # has _metadata
    torch.save([state, layer.weight.detach().clone().untyped_storage()], tmp_path / "x.pt")
    loaded, raw = load_torch(tmp_path / "x.pt")
    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], layer.weight)
    assert torch.equal(raw.view(torch.float32).view(3, 2), layer.weight)
    value = call(
        "torch._tensor._rebuild_from_type_v2", name("torch._utils._rebuild_tensor_v2"), name("torch.Tensor"), (), {}
    )
    refuse(load_torch, archive(tmp_path / "no.pt", value), "_rebuild_from_type_v2")
    torch.save(layer, tmp_path / "module.pt")
    refuse(load_torch, tmp_path / "module.pt", "torch.nn.modules.linear.Linear")


def test_storages_that_are_not_aligned(tmp_path):
    data = np.arange(6, dtype=np.float32)
    for pad in range(8):
        archive(tmp_path / "x.pt", [tensor()], [("x" * pad, b""), ("data/0", data.tobytes())])
        np.testing.assert_array_equal(load_torch(tmp_path / "x.pt")[0].numpy(), data.reshape(2, 3))


def test_only_what_is_touched_is_read(tmp_path):
    """A gibibyte of nothing, which would take seconds to read: a sparse file."""
    count = 2**28
    for pad in range(4):  # until it is aligned
        archive(
            tmp_path / "x.pt", [tensor(5, (2,), (1,), data=storage(count=count))], [("x" * pad, b""), ("data/0", b"")]
        )
        data = bytearray((tmp_path / "x.pt").read_bytes())
        if (data.index(b"archive/data/0") + len("archive/data/0")) % 4 == 0:
            break
    local, central = data.index(b"archive/data/0") - 30, data.rindex(b"archive/data/0") - 46
    end = data.rindex(b"PK\5\6")
    size = (4 * count).to_bytes(4, "little")
    data[local + 18 : local + 26] = data[central + 20 : central + 28] = size * 2
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    data[end + 16 : end + 20] = (start + 4 * count).to_bytes(4, "little")
    with (tmp_path / "x.pt").open("wb") as f:
        f.write(data[:start])
        f.seek(4 * count, 1)
        f.write(data[start:])
    assert load_torch(tmp_path / "x.pt")[0].tolist() == [0, 0]


# ---- what joblib and pickle write

SOME = {
    "c": np.arange(12.0).reshape(4, 3),
    "f": np.asfortranarray(np.arange(12.0).reshape(4, 3)),
    "turned": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "big": np.arange(3, dtype=">i4"),
    "none": np.zeros((0, 2), np.float16),
    "point": np.array(5.0),
    "words": np.array(["ab", "ç"]),
    "bools": np.array([True, False]),
    "number": np.float32(2.5),
    "text": "ü\n",
    "bytes": b"abc\xff",
    "bytearray": bytearray(b"\xf0"),
    "path": pathlib.PurePosixPath("/a/b"),
    "set": {1, 2},
    "frozenset": frozenset({"x"}),
    "complex": 1 + 2j,
    "slice": slice(1, None, 2),
    "range": range(3),
    "nested": [(1, (2,)), [], {}, None, True, 2**70, -1.5],
    "default": collections.defaultdict(list, a=[1]),
    "ordered": collections.OrderedDict(b=1, a=2),
    ("a", 1): 0.0,
}


def same(loaded, value):
    assert list(loaded) == list(value)
    for key, v in value.items():
        if isinstance(v, np.ndarray):
            np.testing.assert_array_equal(loaded[key], v)
            assert loaded[key].dtype.newbyteorder("=") == v.dtype.newbyteorder("=")
        elif key == "path":
            assert loaded[key] == "/a/b"
        else:
            assert loaded[key] == v
            assert isinstance(v, type(loaded[key]))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_in_every_protocol(tmp_path, protocol):
    (tmp_path / "x").write_bytes(pickle.dumps(SOME, protocol))
    same(load_joblib(tmp_path / "x"), SOME)
    for compress in (0, "zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(SOME, tmp_path / "x", compress=compress, protocol=protocol)
        same(load_joblib(tmp_path / "x"), SOME)


@pytest.mark.parametrize("kind", [sklearn.cluster.KMeans, sklearn.cluster.MiniBatchKMeans])
def test_sklearn(tmp_path, kind):
    model = kind(3, n_init=1, random_state=np.random.RandomState(0)).fit(
        np.random.default_rng(0).standard_normal((40, 2))
    )
    files = []
    for compress in (0, "zlib", "gzip", "bz2", "lzma", "xz"):
        files += joblib.dump(model, tmp_path / f"{compress}", compress=compress)
    for protocol in (2, 3, 4, 5):
        (tmp_path / f"p{protocol}").write_bytes(pickle.dumps(model, protocol))
        files.append(tmp_path / f"p{protocol}")
    for file in files:
        loaded = load_joblib(file)
        assert loaded.name == f"sklearn.cluster._kmeans.{kind.__name__}"
        assert loaded.state["random_state"].name == "numpy.random._pickle.__randomstate_ctor"
        np.testing.assert_array_equal(loaded.state["cluster_centers_"], model.cluster_centers_)
        assert plain(loaded)["n_clusters"] == 3


def test_joblib_before_1_2_and_numpy_before_2(tmp_path):
    """Without the byte that says how far the array is; and with the older names of numpy."""

    class Pipe(io.BytesIO):
        def tell(self):
            raise io.UnsupportedOperation

    pipe = Pipe()
    joblib.dump([np.arange(3), np.ones(2)], pipe)
    assert b"alignment_bytes" in pipe.getvalue()
    (tmp_path / "x").write_bytes(pipe.getvalue())
    first, second = load_joblib(tmp_path / "x")
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [1, 1])
    for protocol in (2, 4):
        data = pickle.dumps([np.arange(3), np.float64(2)], protocol)
        (tmp_path / "x").write_bytes(
            data.replace(b"numpy._core", b"numpy.core").replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        )
        assert load_joblib(tmp_path / "x")[0].tolist() == [0, 1, 2]


# ---- classes that are not there


@contextmanager
def classes(module, *made):
    """Puts classes into a module that does not exist, for as long as something is saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.partition(".")[0], types.ModuleType("fairseq"))
        patch.setitem(sys.modules, module, types.ModuleType(module))
        for cls in made:
            cls.__module__, cls.__qualname__ = module, cls.__name__
            setattr(sys.modules[module], cls.__name__, cls)
        yield
    assert "fairseq" not in sys.modules


def test_an_old_checkpoint(tmp_path):
    class AverageMeter:
        def __init__(self):
            self.val, self.sum, self.count = np.float64(1.5), torch.tensor(3.0), 2

    class MetersDict(collections.OrderedDict):
        pass

    class Choice(enum.Enum):
        LAYER = "layer_norm"

    class Slots:
        __slots__ = ("a", "b")

    class Both(Slots):
        pass

    with classes("fairseq.meters", AverageMeter, MetersDict, Choice, Slots, Both):
        slots, both = Slots(), Both()
        slots.a, both.a, both.c = 1, 2, 3
        meters = MetersDict(train_loss=AverageMeter())
        args = Namespace(arch="hubert", path=pathlib.PurePosixPath("a/b"), mode=Choice.LAYER, kind=int, any=typing.Any)
        args.typed = typing.Dict[str, int]  # noqa: UP006
        value = {
            "args": args,
            "extra_state": {"meters": meters, "best": np.float32(0.5)},
            "objects": [slots, both],
            Choice.LAYER: 1,
        }
        for zipped in (True, False):
            torch.save(value, tmp_path / f"{zipped}.pt", _use_new_zipfile_serialization=zipped)
    for zipped in (True, False):
        loaded = load_torch(tmp_path / f"{zipped}.pt")
        assert loaded["extra_state"]["meters"].items["train_loss"].name == "fairseq.meters.AverageMeter"
        data = plain(loaded)
        assert data["args"]["path"] == "a/b"
        assert (data["args"]["mode"], data["args"]["kind"], data["args"]["any"]) == (
            "layer_norm",
            "builtins.int",
            "typing.Any",
        )
        assert data["args"]["typed"] == ("typing.Dict", ("builtins.str", "builtins.int"))
        assert data["extra_state"]["meters"] == {"train_loss": {"val": 1.5, "sum": torch.tensor(3.0), "count": 2}}
        assert type(data["extra_state"]["best"]) is float
        assert data["objects"] == [{"a": 1}, {"c": 3, "a": 2}]
        assert data["layer_norm"] == 1


def test_plain_protects_itself():
    node, box = Stub("omegaconf.nodes.AnyNode"), Stub("omegaconf.dictconfig.DictConfig")
    node.state = {"_val": "${other}", "_parent": box}
    box.state = {"_content": {"a": node, "b": node}, "_parent": None, "_metadata": box}
    assert plain(box) == {"a": "${other}", "b": "${other}"}
    box.state = {"_content": None}
    assert plain([box, Stub("fairseq.A"), Stub("fairseq.B", (1, 2))]) == [None, {}, (1, 2)]
    laughs = []
    for _ in range(100):
        laughs = [laughs, laughs]
    assert len(plain(laughs)) == 2
    deep = cycle = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, [cycle.append(cycle), cycle]):
        with pytest.raises(ModelError, match="itself or is nested deeper"):
            plain(value)
    with pytest.raises(ModelError, match="key of type dict"):
        plain({Stub("fairseq.A"): 1})


# ---- files that are no models


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for load in (load_torch, load_joblib):
        refuse(load, tmp_path / "missing", "does not exist")
        refuse(load, tmp_path, "is a folder")
        refuse(load, tmp_path / "empty", "is empty")
        refuse(load, tmp_path / "pipe", "pipe")
        for text in (
            b"<!DOCTYPE html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            b"\x80",
            b"\x93NUMPY",
            b"\0" * 50,
            b".",
        ):
            (tmp_path / "text").write_bytes(text)
            refuse(load, tmp_path / "text", "cut short, damaged, or of another kind")
        (tmp_path / "x").write_bytes(b"\x80\x09N.")
        refuse(load, tmp_path / "x", "protocol: 9")
    np.savez(tmp_path / "x", np.ones(2))
    refuse(load_torch, tmp_path / "x.npz", "torch.save did not write")
    refuse(load_joblib, GOLDEN / "ulm.pt", "is a zip")
    refuse(load_torch, GOLDEN / "km20.bin")
    (tmp_path / "x").write_bytes(program([1, 2]))
    refuse(load_torch, tmp_path / "x", "torch.save did not write")
    refuse(load_torch, archive(tmp_path / "x.pt", [], [("code/__torch__.py", b"")]), "TorchScript")
    for head in (b"ZF", b"\x04\x22\x4d\x18"):
        (tmp_path / "x").write_bytes(head + bytes(20))
        refuse(load_joblib, tmp_path / "x", "load it with what wrote it")


def test_cut_short(tmp_path):
    joblib.dump(np.arange(100), tmp_path / "x")
    refuse_cuts(load_joblib, tmp_path / "x")
    for compress in ("zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(np.arange(100), tmp_path / "x", compress=compress)
        refuse_cuts(load_joblib, tmp_path / "x")
    for zipped in (True, False):
        torch.save({"a": torch.ones(50)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        refuse_cuts(load_torch, tmp_path / "x")


def refuse_cuts(load, path):
    data = path.read_bytes()
    for k in range(1, 20):
        path.write_bytes(data[: len(data) * k // 20])
        refuse(load, path)


# ---- hostile files

NAMES = """
    posix.system os.system nt.system subprocess.Popen subprocess.check_output builtins.eval builtins.exec
    builtins.compile
    builtins.getattr builtins.setattr builtins.__import__ builtins.open builtins.map builtins.print builtins.memoryview
    importlib.import_module runpy.run_path stranger.f torch.load torch.hub.load torch.jit.load torch.serialization.load
    torch.storage._load_from_bytes torch.utils.cpp_extension.load torch._utils._rebuild_wrapper_subclass numpy.load
    numpy.memmap
    numpy.fromfile numpy.testing._private.utils.runstring joblib.load pickle.loads _pickle.loads marshal.loads
    shutil.rmtree
    functools.partial functools.reduce operator.attrgetter operator.methodcaller types.FunctionType types.CodeType
    collections.namedtuple collections.OrderedDict.__init__ copyreg.add_extension copyreg.__newobj__ webbrowser.open
    socket.socket
    codecs.encode _codecs.decode sys.exit logging.config.listen __main__.x textless.pickles.Name fairseqx.y
    pathlib.os.system
    pathlib.Path.touch argparse.sys.modules numpy.dtype.type numpy.ndarray.tofile
""".split()  # noqa: SIM905


@pytest.mark.parametrize("full", NAMES)
def test_names_that_are_not_listed(tmp_path, canary, full):
    refuse_all(tmp_path, call(full, f"touch {canary}"), f"names {full}")


def test_the_names_in_every_place(tmp_path, canary):
    evil = call("posix.system", f"touch {canary}")
    stub = name("fairseq.A") + b")\x81"
    places = [
        [evil],
        (evil,),
        Code(b"}" + evil + b"Ns"),
        Code(b"}(K\x00" + evil + b"u"),
        Code(call("collections.OrderedDict") + b"}X\1\0\0\0a" + evil + b"sb"),
        Code(stub + b"}X\1\0\0\0a" + evil + b"sb"),
        Code(stub + evil + b"a"),
        Code(b"\x8f(" + evil + b"\x90"),
        Code(evil + b"0N"),
        call("fairseq.A", evil),
        call("numpy.dtype", evil),
        call("omegaconf.nodes.AnyNode", {"x": 1}, evil),
        Code(name("posix.system") + code((f"touch {canary}",)) + b"\x81"),
        Code(name("posix.system") + code((f"touch {canary}",)) + b"}\x92"),
        Code(b"(" + code(f"touch {canary}") + b"iposix\nsystem\n"),
        Code(b"(" + name("posix.system") + code(f"touch {canary}") + b"o"),
        Code(b"\x8c\x05posix\x8c\x06system\x93" + code((f"touch {canary}",)) + b"R"),
    ]
    for place in places:
        refuse_all(tmp_path, place, "names posix.system, which could run code")
    refuse(load_torch, archive(tmp_path / "x.pt", tensor(data=evil)), "posix.system")
    hooks = call("torch._utils._rebuild_tensor_v2", storage(), 0, (1,), (1,), False, evil)
    refuse(load_torch, archive(tmp_path / "x.pt", hooks), "posix.system")
    for full in ("OrderedDict.__init__.__globals__", "OrderedDict\nx", "\x1b[31m", "x" * 1000):
        text = full.encode()
        refuse_all(
            tmp_path,
            Code(b"\x8c\x0bcollectionsX" + len(text).to_bytes(4, "little") + text + b"\x93"),
            "names collections.",
        )
    refuse_all(tmp_path, Code(b"NN\x93"))


def test_pickles_of_real_objects(tmp_path, canary):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    for compress in (0, "zlib", "xz"):
        joblib.dump({"a": [Evil()]}, tmp_path / "x", compress=compress)
        refuse(load_joblib, tmp_path / "x", "names posix.system")
    for zipped in (True, False):
        torch.save({"a": torch.ones(2), "b": Evil()}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        refuse(load_torch, tmp_path / "x", "names posix.system")
    objects = np.array([Evil(), 1], dtype=object)
    records = np.zeros(2, dtype=[("a", "O"), ("b", "f4")])
    for array in (objects, records, np.zeros(2, dtype="f4,f4"), np.zeros(2, "M8[s]")):
        joblib.dump(array, tmp_path / "x")
        refuse(load_joblib, tmp_path / "x", "Python objects or records")
        for protocol in (2, 5):
            (tmp_path / "x").write_bytes(pickle.dumps(array, protocol))
            refuse(load_joblib, tmp_path / "x")
        for zipped in (True, False):
            torch.save(array, tmp_path / "x", _use_new_zipfile_serialization=zipped)
            refuse(load_torch, tmp_path / "x", "Python objects or records")
    np.arange(3.0).tofile(tmp_path / "raw")
    joblib.dump(np.memmap(tmp_path / "raw"), tmp_path / "x")
    refuse(load_joblib, tmp_path / "x", "numpy.memmap")


@pytest.mark.parametrize(
    "module", ["joblib.numpy_pickle", "joblib.numpy_pickle_compat", "sklearn.externals.joblib.numpy_pickle"]
)
def test_old_joblib(tmp_path, module):
    refuse_all(tmp_path, call(f"{module}.NDArrayWrapper", "file.npy", name("numpy.ndarray")), "before 0.10")
    refuse_all(tmp_path, call(f"{module}.ZNDArrayWrapper", "file.z"), "before 0.10")


def test_opcodes_that_are_not_listed(tmp_path, monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg._extension_registry, ("posix", "system"), 7)
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("posix", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 7, os.system)
    for opcode in (b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"):
        refuse_all(tmp_path, Code(opcode + b")R"), "uses EXT")
    refuse_all(tmp_path, Code(b"\x97"), "NEXT_BUFFER")
    refuse_all(tmp_path, Code(b"N\x98"), "READONLY_BUFFER")
    refuse_all(tmp_path, Code(b"Pstorage\n"), "PERSID")


@pytest.mark.parametrize(
    ("full", "args"),
    [
        ("builtins.int", ("1",)),
        ("builtins.str", (b"x", "idna")),
        ("builtins.list", (range(10**9),)),
        ("builtins.bytearray", (10**12,)),
        ("builtins.bytes", (10**12,)),
        ("builtins.bytes", ("x", "unicode_escape")),
        ("builtins.range", ("x",)),
        ("builtins.complex", ("1j",)),
        ("builtins.set", ([[]],)),
        ("builtins.set", ({1: 2},)),
        ("builtins.frozenset", (5,)),
        ("builtins.slice", ([], [], [])),
        ("builtins.type", ("X", (), {})),
        ("builtins.type", (1,)),
        ("_codecs.encode", ("x", "zlib")),
        ("_codecs.encode", ("x", "latin1", "strict")),
        ("_codecs.encode", ("\u20ac", "latin1")),
        ("collections.OrderedDict", (5,)),
        ("collections.OrderedDict", ([[[], 1]],)),
        ("collections.OrderedDict", ([[1, 2, 3]],)),
        ("copyreg._reconstructor", (name("posix.system"), name("builtins.object"), None)),
        ("copyreg._reconstructor", (name("builtins.set"), name("builtins.object"), None)),
        ("copyreg._reconstructor", ("x", "y", None)),
        ("operator.getitem", ({"a": 1}, "a")),
        ("operator.getitem", (name("fairseq.A"), "a")),
        ("numpy.dtype", ("O",)),
        ("numpy.dtype", ("f4,O",)),
        ("numpy.dtype", ([("a", "O")],)),
        ("numpy.dtype", ("S9999999",)),
        ("numpy.ndarray", ((10**12,),)),
        ("numpy.float64", (1.0,)),
        ("numpy.core.multiarray._reconstruct", (name("numpy.matrix"), (0,), b"b")),
        ("numpy.core.multiarray._reconstruct", (name("fairseq.A"), (0,), b"b")),
        ("numpy.core.multiarray.scalar", (call("numpy.dtype", "f8"), b"short")),
        ("numpy.core.multiarray.scalar", ("f8", bytes(8))),
        ("numpy._core.numeric._frombuffer", (bytes(8), call("numpy.dtype", "f8"), (2,), "C")),
        ("numpy._core.numeric._frombuffer", (bytes(8), call("numpy.dtype", "f8"), (-1,), "C")),
        ("numpy._core.numeric._frombuffer", (b"\2", call("numpy.dtype", "b1"), (1,), "C")),
        ("numpy._core.numeric._frombuffer", (b"", call("numpy.dtype", "f8"), (0, 2**80), "C")),
        ("numpy._core.numeric._frombuffer", (bytes(8), call("numpy.dtype", "f8"), (1,), "K", (9,))),
        ("pathlib.PosixPath", (5,)),
        ("typing.Any", 5),
    ],
)
def test_evil_arguments(tmp_path, full, args):
    value = Code(name(full) + code(args) + b"R")
    refuse_all(tmp_path, value)
    refuse_all(tmp_path, Code(value[:-1] + b"}\x8c\x04selfNs\x92"))


def test_nothing_real_is_called_or_changed(tmp_path):
    state = Code(b"}X\1\0\0\0aNs")
    for target in (
        "collections.OrderedDict",
        "builtins.int",
        "numpy.dtype",
        "numpy.ndarray",
        "fairseq.A",
        "argparse.Namespace",
    ):
        refuse_all(tmp_path, Code(name(target) + state + b"b"), "Name")
        refuse_all(tmp_path, Code(name(target) + b"(NNu"))
        refuse_all(tmp_path, Code(name(target) + b"Na"))
    refuse(load_torch, archive(tmp_path / "x.pt", Code(name("torch.float32") + state + b"b")), "changes an object")
    refuse(load_torch, archive(tmp_path / "x.pt", Code(tensor() + state + b"b")), "changes an object")
    refuse(load_torch, archive(tmp_path / "x.pt", Code(name("torch.float32") + b")R")))
    refuse_all(tmp_path, Code(call("fairseq.A") + b")R"))
    refuse_all(tmp_path, Code(call("fairseq.A") + state + b"b" + state + b"b"), "changes an object")
    dtype = call("numpy.dtype", "f8", False, False)
    for order in (">", "<", 5):
        (tmp_path / "x").write_bytes(program(Code(dtype + code((3, order, None, None, None, 99, 99, 63)) + b"b")))
        assert load_joblib(tmp_path / "x") == np.dtype(">f8" if order == ">" else "f8")
    assert np.dtype("f8").isnative
    refuse_all(tmp_path, Code(dtype + code((3, "|", None, ("a",), {"a": 0}, 8, 1, 27)) + b"b"), "changes an object")
    array = call("numpy._core.numeric._frombuffer", bytes(8), dtype, (1,), "C")
    for target in (array, dtype, call("collections.OrderedDict"), call("builtins.bytearray"), call("builtins.set")):
        refuse_all(tmp_path, Code(target + b"K\0a"))
        refuse_all(tmp_path, Code(target + b"(K\0e"))
    for target in (array, dtype, call("builtins.bytearray", b"x"), call("builtins.set")):
        refuse_all(tmp_path, Code(target + b"K\0K\0s"))
        refuse_all(tmp_path, Code(target + b"(K\0K\0u"))
    for opcodes in (b"K\0K\0s", b"(K\0K\0u", b"K\0a", b"(K\0e"):
        refuse(load_torch, archive(tmp_path / "x.pt", Code(tensor() + opcodes)), "Tensor")
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b")
    for shape, data in (((5,), bytes(8)), ((-1,), bytes(8)), ((2**62, 4), b""), ((1,), [1]), ("x", bytes(8))):
        refuse_all(tmp_path, Code(empty + code((1, shape, dtype, False, data)) + b"b"))
    (tmp_path / "x").write_bytes(
        program(Code(name("fairseq.A") + b")\x81}(X\x09\0\0\0__class__NX\x0c\0\0\0__setstate__Nub"))
    )
    assert plain(load_joblib(tmp_path / "x")) == {"__class__": None, "__setstate__": None}


def test_bombs(tmp_path, monkeypatch):
    """Each would take more memory or time than there is."""
    refuse_all(tmp_path, Code(b"})" + b"2\x86" * 60 + b"Ns"), "key of type tuple")  # hashed 2^60 times
    refuse_all(tmp_path, Code(b"}" + code((2**61 - 1) * 5) + b"Ns"), "key of type int")
    refuse_all(tmp_path, Code(b"]" + b"\x85" * 10_000), "nested deeper")
    refuse_all(tmp_path, Code(b"]" * 10_000 + b"a" * 9_999), "nested deeper")
    refuse_all(tmp_path, Code(name("fairseq.A") * 300 + b")\x81" + b"\x85\x81" * 299), "deeper")
    shared = b"".join(
        b"]h" + bytes([k - 1]) + b"aq" + bytes([k]) for k in range(1, 250)
    )  # each holds the one before it, which is seen first
    refuse_all(tmp_path, Code(b"(]q\0" + shared + b"l"), "nested deeper")
    for opcode, size in ((b"B", 4), (b"\x8e", 8), (b"\x96", 8), (b"T", 4), (b"X", 4), (b"\x8d", 8), (b"\x8b", 4)):
        refuse_all(tmp_path, Code(opcode + b"\xff" * (size - 1) + b"\x7f"))
    (tmp_path / "x").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")  # a memo of 2^31 places
    assert load_joblib(tmp_path / "x") is None
    (tmp_path / "x").write_bytes(b"\x80\x04(Nr\xff\xff\xff\x7fj\xff\xff\xff\x7ft.")
    assert load_joblib(tmp_path / "x") == (None, None)
    (tmp_path / "x").write_bytes(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.")
    assert load_joblib(tmp_path / "x") is None
    (tmp_path / "x").write_bytes(program(Code(b"]" + b"2\x86" * 60)))  # shares one list 2^60 times
    assert len(plain(load_joblib(tmp_path / "x"))) == 2
    for many, args in (
        ("builtins.bytearray", bytes(10**5)),
        ("_codecs.encode", "x" * 10**5),
        ("builtins.set", list(range(10**5))),
    ):
        start = name(many) + b"r\0\0\1\0" + code((args,)) + b"r\1\0\1\0"
        refuse_all(tmp_path, Code(start + b"0j\0\0\1\0j\1\0\1\0R" * 1000), "steps or memory")
    start = (
        code("fairseq") + b"r\0\0\1\0" + code("a" * 10**5) + b"r\1\0\1\0"
    )  # a name of 10^5 letters, joined 1000 times
    refuse_all(tmp_path, Code(start + b"0j\0\0\1\0j\1\0\1\0\x93" * 1000), "steps or memory")
    monkeypatch.setattr(pickles, "STEPS", 100)
    refuse_all(tmp_path, Code(b"N0" * 100 + b"N"), "steps or memory")


def test_compressed_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "SMALL", 2**20)
    for compress in ("zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(np.zeros(10**6), tmp_path / "x", compress=compress)
        refuse(load_joblib, tmp_path / "x", "grows to more than", "MiB")
        joblib.dump(np.zeros(10**5), tmp_path / "x", compress=compress)
        assert load_joblib(tmp_path / "x").shape == (100_000,)
    (tmp_path / "x").write_bytes(b"\x5d\x00\x00\x00\xc0" + b"\xff" * 8 + bytes(30))  # wants a window of 3 GiB
    refuse(load_joblib, tmp_path / "x", "emory")


def test_arrays_that_do_not_fit_the_file(tmp_path):
    joblib.dump(np.zeros((7, 3)), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    assert data.count(b"K\x07K\x03\x86") == 1
    for shape in (
        b"J\xff\xff\xff\x7fK\x03\x86",
        b"J\xff\xff\xff\xffK\x03\x86",
        b"K\x08K\x03\x86",
        b"K\x07G\0\0\0\0\0\0\0\0\x86",
        b"]",
    ):
        (tmp_path / "x").write_bytes(data.replace(b"K\x07K\x03\x86", shape))
        refuse(load_joblib, tmp_path / "x")


@pytest.mark.parametrize(
    "value",
    [
        tensor(offset=1),
        tensor(offset=-1),
        tensor(offset=2**62),
        tensor(size=(3, 3)),
        tensor(size=(2, 3), stride=(4, 1)),
        tensor(stride=(-3, 1)),
        tensor(size=(-2, -3)),
        tensor(size=(2,)),
        tensor(size=(0,), stride=(1,), offset=7),
        tensor(size=(2**40,), stride=(0,)),
        tensor(size=(2**32, 2**32), stride=(0, 0)),
        tensor(size=(True,), stride=(1,)),
        tensor(size=(1.0,), stride=(1,)),
        tensor(size=[6], stride=[1]),
        tensor(size=(1,) * 100, stride=(1,) * 100),
        tensor(size=(2 ** (10**5),) * 30, stride=(1,) * 30),
        tensor(data=storage(count=5)),
        tensor(data=storage(count=7)),
        tensor(data=storage(count=-1)),
        tensor(data=storage(count=2**62)),
        tensor(data=storage("Double")),
        tensor(data=storage(key="1")),
        tensor(data=storage(key="../data.pkl")),
        tensor(data=storage(key=0)),
        tensor(data=storage(what="module")),
        tensor(data=Code(code("storage") + b"Q")),
        tensor(data=Code(code(("storage", name("fairseq.A"), "0", "cpu", 6)) + b"Q")),
        tensor(data=Code(code(("storage", "FloatStorage", "0", "cpu", 6)) + b"Q")),
        tensor(data=Code(code(("storage", name("torch.FloatStorage"), "0", "cpu", 6, ("1", 0, 2))) + b"Q")),
        tensor(data=tensor()),
        tensor(data=code([1.0] * 6)),
        [storage(), storage("Double", count=3), storage("Bool", count=23)],
        call("torch._utils._rebuild_tensor_v2", storage(), 0, (1,), (1,), False, {}, {"neg": True}),
        call("torch._utils._rebuild_tensor_v3", storage(), 0, (1,), (1,), False, {}, name("torch.uint16")),
        call(
            "torch._utils._rebuild_tensor_v3",
            storage("Byte", count=24),
            0,
            (13,),
            (1,),
            False,
            {},
            name("torch.uint16"),
        ),
        call(
            "torch._utils._rebuild_tensor_v3", storage("Byte", count=24), 0, (1,), (1,), False, {}, name("torch.bool")
        ),
        call("torch._utils._rebuild_parameter", 5, True, {}),
        call("torch._tensor._rebuild_from_type_v2", name("torch._utils._rebuild_tensor_v2"), name("fairseq.A"), (), {}),
        call("torch._tensor._rebuild_from_type_v2", name("builtins.set"), name("torch.Tensor"), (), {}),
        call("torch._tensor._rebuild_from_type_v2", name("posix.system"), name("torch.Tensor"), (), {}),
        call("torch.Size", (-1,)),
        call("torch.Size", (2**80,)),
        call("torch.Size", "12"),
        call("torch.device", "no such device"),
        call("torch.Tensor", 5),
        call("torch.FloatStorage", 10**12),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, value):
    refuse(load_torch, archive(tmp_path / "x.pt", value))
    refuse(load_torch, legacy(tmp_path / "x.old", value, ["0"], (6).to_bytes(8, "little") + bytes(24)))


def test_bools_of_other_values(tmp_path):
    value = tensor(data=storage("Bool", count=24))
    for data, fits in ((b"\1\0" * 12, True), (b"\1\2" * 12, False)):
        for path in (
            archive(tmp_path / "x.pt", value, [("data/0", data)]),
            legacy(tmp_path / "x.old", value, ["0"], (24).to_bytes(8, "little") + data),
        ):
            if fits:
                assert load_torch(path).tolist() == [[True, False, True], [False, True, False]]
            else:
                refuse(load_torch, path, "bool")


def test_zips_that_torch_does_not_write(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", program(tensor()))
        z.writestr("archive/data/0", bytes(2**24))  # a bomb
    refuse(load_torch, path, "compressed")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, tensor(), [("data/0", bytes(24)), ("data/0", bytes(24))])
    refuse(load_torch, path, "twice")
    archive(path, tensor(), [("data/0", bytes(24))])
    data = path.read_bytes()
    at = data.rindex(b"archive/data/0") - 46
    for k, new in (
        (20, b"\xff\xff\0\0"),
        (24, b"\x19\0\0\0"),
        (42, b"\xff\xff\xff\x0f"),
        (8, b"\1\0\0\0"),
        (42, b"\x05\0\0\0"),
    ):
        path.write_bytes(data[: at + k] + new + data[at + k + len(new) :])
        refuse(load_torch, path)
    path.write_bytes(data.replace(b"little", b"big\0\0\0"))
    refuse(load_torch, path, "big-endian")
    (tmp_path / "x.old").write_bytes(b"")
    refuse(load_torch, legacy(tmp_path / "x.old", [], little_endian=False), "big-endian")
    refuse(load_torch, legacy(tmp_path / "x.old", [], version=1002), "torch.save did not write")


def test_older_form_whose_storages_do_not_fit(tmp_path):
    path, six = tmp_path / "x.old", (6).to_bytes(8, "little")
    data = np.arange(6, dtype=np.float32).tobytes()
    assert load_torch(legacy(path, tensor(), ["0"], six + data)).tolist() == [[0, 1, 2], [3, 4, 5]]
    for keys in ([], ["1"], ["0", "0"], ["0", "1"], [0], [[]]):
        refuse(load_torch, legacy(path, tensor(), keys, six + data))  # else it would be whatever was in memory
    for rest in (b"", six, six + data[:-1], (5).to_bytes(8, "little") + data, b"\xff" * 8 + data):
        refuse(load_torch, legacy(path, tensor(), ["0"], rest))
    large = storage(count=10**12)
    refuse(
        load_torch, legacy(path, tensor(data=large), ["0"], (10**12).to_bytes(8, "little") + data), "steps or memory"
    )


# ---- chance


def fuzz(load, path, seed, count, places):
    """Flipped, cut and doubled bytes: it loads or says that it does not."""
    data, rng = path.read_bytes(), random.Random(seed)
    loaded = 0
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.choice(places)
            changed[at] = rng.choice((rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)))
        if rng.random() < 0.15:
            del changed[rng.choice(places) :]
        if rng.random() < 0.1:
            at = rng.choice(places)
            changed[at:at] = changed[at : at + rng.randrange(50)]
        path.write_bytes(changed)
        try:
            plain(load(path))
            loaded += 1
        except ModelError as e:
            assert str(e).isprintable()  # noqa: PT017
    return loaded


def test_fuzz_joblib(tmp_path):
    path = tmp_path / "km20.bin"
    path.write_bytes((GOLDEN / "km20.bin").read_bytes())
    assert 20 < fuzz(load_joblib, path, 0, 300, range(900)) < 280
    joblib.dump(SOME, path, compress="zlib")
    fuzz(load_joblib, path, 1, 100, range(path.stat().st_size))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_fuzz_torch(tmp_path, tensors):
    value = {
        **tensors,
        "args": Namespace(a=np.float32(1), b=[np.arange(3)]),
        "s": {1},
        "o": collections.OrderedDict(a=1),
    }
    for zipped, seed in ((True, 2), (False, 3)):
        path = tmp_path / "x.pt"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        places = range(data.index(b"\x80\x02"), data.index(b"byteorder") - 30) if zipped else range(len(data))
        assert 5 < fuzz(load_torch, path, seed, 300, places) < 295
    archive(path, tensor())
    fuzz(load_torch, path, 4, 300, range(path.stat().st_size))

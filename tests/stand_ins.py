"""Small files in the place of all published ones: of the same formats, with random weights, from data/golden.

Chains keep their shape; the table's hashes, revisions, layers, rates and numbers of units become those of the files.
"""

import functools
import gzip
import io
import json
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

import textless
from conftest import GOLDEN
from textless.zoo import Codebook, Encoder, Part, Published

PEERS = GOLDEN / "peers"
UNITS = {"25hz": 20, "spidr": 20}  # by a word in the encoder's place; of all others 50
LAYERS = {"spidr": 4}  # of all others 2


def table(published, address):
    """The same names, with URLs of a server at `address`, and that server's files and repositories."""
    files, repositories = {}, {}

    def served(url, data):
        path = url.removeprefix("https:/")
        files[path] = data
        return f"{address}{path}"

    def part(original, **changes):
        units = changes.pop("units")
        source = _contents(original, units)
        if "://" not in original.place:
            repositories[original.place] = source
            return replace(original, revision=None, **changes)
        also = tuple((name, served(url, source[name]), None) for name, url, _ in original.also)
        if "config.json" in source and not also:  # of widths that are not published
            also = (("config.json", served(f"{original.place}.json", source["config.json"]), None),)
        place = served(original.place, source[""])
        return replace(original, place=place, sha256=None, also=also, **changes)

    def chain(original):
        units, layer = (
            next((n for word, n in numbers.items() if word in original.encoder.place), other)
            for numbers, other in ((UNITS, 50), (LAYERS, 2))
        )
        encoder = {"layer": original.encoder.layer and layer}
        if "cpc" not in original.encoder.place:
            encoder |= {"frame_rate": 50.0}
        changes = {"encoder": encoder, "codebook": {"n_units": units}}
        return Published(
            **{k: part(v, units=units, **changes.get(k, {})) for k, v in original.parts.items()}  # type: ignore[arg-type]
        )

    return {name: chain(original) for name, original in published.items()}, files, repositories


def _contents(part: Part, units: int) -> dict[str, bytes]:
    """Files of a part by name, "" for the one at its place."""
    if isinstance(part, Encoder):
        return _encoder(part.place, part.normalisation)
    if isinstance(part, Codebook) and part.place.endswith(".pt"):  # a head
        return _encoder(part.place, "")
    if isinstance(part, Codebook):
        return {"": _codebook(part.place, units)}
    if part.place.endswith("_lm.tgz"):
        return {"": _gslm(Path(part.place).name.removesuffix(".tgz"))}
    if part.place.endswith(".zip"):
        return {"": _twist()}
    if "://" not in part.place:
        return {k: v for k, v in _folder(PEERS / "slamkit_qwen2").items() if "tokeniser" not in k}  # as on the hub
    return _voice(units, "expresso" in part.place)


def _folder(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix != ".npz"}


@functools.cache
def _encoder(place: str, normalisation: str) -> dict[str, bytes]:
    """fairseq's checkpoint, or the transformers folder of a repository, unless the name says another format."""
    for word in ("spidr", "dinosr"):
        if word in place:
            files = {name: (PEERS / word / name).read_bytes() for name in ("model.pt", "config.json")}
            return {"": files.pop("model.pt"), **files}
    if "/cpc/" in place:
        return {"": (PEERS / "cpc" / "cpc.pt").read_bytes()}
    size = "base" if normalisation == "none" else "large"
    return {"": (GOLDEN / f"hubert_{size}.pt").read_bytes()} if "://" in place else _transformers()


@functools.cache
def _transformers() -> dict[str, bytes]:
    import tempfile

    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = HubertConfig(**sizes, conv_dim=[32] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    with tempfile.TemporaryDirectory() as folder:
        HubertModel(config).save_pretrained(folder)
        return _folder(Path(folder))


@functools.cache
def _codebook(place: str, units: int) -> bytes:
    """k-means of scikit-learn's on the frames of a clip, as joblib dumps it; `.npy` of its centroids."""
    encoder = PEERS / "cpc" / "cpc.pt" if "/cpc/" in place else GOLDEN / "hubert_base.pt"
    frames = textless.load_encoder(encoder, 2).encode(textless.read_audio(GOLDEN / "clip.flac"))
    km = MiniBatchKMeans(units, n_init=1, random_state=zlib.crc32(place.encode())).fit(frames)
    out = io.BytesIO()
    if place.endswith(".npy"):
        np.save(out, km.cluster_centers_.astype(np.float32))
    else:
        joblib.dump(km, out)
    return out.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as f:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            f.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 1, mtime=0)


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as f:
        for name, data in members.items():
            f.writestr(name, data)
    return out.getvalue()


@functools.cache
def _gslm(folder: str) -> bytes:
    files = {"checkpoint_best.pt": "ulm.pt", "dict.txt": "ulm_dict.txt"}
    return tar({f"{folder}/{name}": (GOLDEN / file).read_bytes() for name, file in files.items()})


@functools.cache
def _twist() -> bytes:
    return zipped(_folder(PEERS / "twist_opt"))


@functools.cache
def _voice(units: int, many: bool) -> dict[str, bytes]:
    """A unit HiFi-GAN with durations; or one with speakers, to which styles are added. Cut to so many units."""
    name = "codehifigan_speakers" if many else "codehifigan_duration"
    checkpoint = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    weights, config = checkpoint["generator"], json.loads((GOLDEN / f"{name}.json").read_text())
    weights["dict.weight"] = weights["dict.weight"][:units].clone()
    config["num_embeddings"] = units
    names = {}
    if many:
        weights["style.weight"] = torch.zeros(2, config["embedding_dim"])
        wide = weights["conv_pre.weight_v"]
        weights["conv_pre.weight_v"] = torch.cat([wide, wide[:, : config["embedding_dim"]]], 1)
        config |= {"multistyle": True, "model_in_dim": 3 * config["embedding_dim"]}
        speakers = "".join(f"ex{k:02d}\n" for k in range(len(weights["spkr.weight"])))
        names = {"speakers.txt": speakers.encode(), "styles.txt": b"read-default\nread-happy\n"}
    out = io.BytesIO()
    torch.save(checkpoint, out)
    return {"": out.getvalue(), "config.json": json.dumps(config).encode(), **names}

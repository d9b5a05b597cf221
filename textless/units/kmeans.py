"""k-means: frames → units. Lloyd's iterations by faiss, on whatever device the installed faiss has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textless.errors import ModelError, TrainingError, did_you_mean
from textless.units.mfcc import SAMPLE_RATE
from textless.units.types import UnitContract
from textless.weights import load_model, save_model

if TYPE_CHECKING:
    from textless.units.published import Published

TRANSFORMS = ("none", "layer_norm")


def transform_frames(frames: np.ndarray, transform: str) -> np.ndarray:
    """What stands between encoder and k-means. (T, D) float32 → (T, D) float32.

    `layer_norm` makes each frame zero mean and unit variance: the outputs of pre-LN blocks need it, because the residual stream that
    they leave grows with depth and a few of its channels would rule the distances.
    """
    frames = np.asarray(frames, np.float32)
    if transform == "none":
        return frames
    if transform != "layer_norm":
        raise ModelError(f"transform {transform!r} is unknown; known: {', '.join(TRANSFORMS)}")
    centred = frames - frames.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5))


class Codebook:
    """Centroids, and what must be done to frames before they are compared.

    Attributes:
        centroids: (K, D) float32.
        contract: says encoder, layer and transform, with `n_units` and `codebook` filled in.
    """

    def __init__(self, centroids: np.ndarray, contract: UnitContract = UnitContract()) -> None:
        centroids = np.ascontiguousarray(centroids, np.float32)
        if centroids.ndim != 2 or not len(centroids):
            raise ModelError(f"centroids must be (K, D), got shape {centroids.shape}")
        if not np.isfinite(centroids).all():
            raise ModelError("centroids hold NaN or infinite values")
        self.centroids = centroids
        self.contract = contract.with_(
            n_units=len(centroids), codebook=hashlib.sha256(centroids.tobytes()).hexdigest(), transform=contract.transform or "none"
        )

    @property
    def n_units(self) -> int:
        return len(self.centroids)

    def declare(self, entry: Published) -> Codebook:
        """Fill in what is published of these centroids, in place. Raises ModelError when their number is another."""
        if entry.n_units not in (None, self.n_units):
            raise ModelError(f"the file holds {self.n_units} centroids where {entry.n_units} are published; remove it and fetch it again")
        rate = entry.frame_rate
        self.contract = self.contract.with_(layer=entry.layer, normalisation=entry.normalisation, sample_rate=SAMPLE_RATE, frame_rate=rate)
        return self

    def contract_for(self, frames: UnitContract) -> UnitContract:
        """Contract of the units that this codebook makes of frames. Raises ContractError when it was made on frames of another kind."""
        mine = self.contract.with_(n_units=None, codebook=None, transform=None)
        if mine != UnitContract():  # of a stranger's centroids nothing is known
            frames.check(mine, mine="the encoder", theirs="the codebook")
        return frames.with_(transform=self.contract.transform, n_units=self.contract.n_units, codebook=self.contract.codebook)

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """Index of the nearest centroid of each frame, the first of equals. (T, D) float32 → (T,) int64.

        Raises ModelError when D is not the codebook's.
        """
        if frames.ndim != 2 or frames.shape[1] != self.centroids.shape[1]:
            raise ModelError(f"frames of shape {frames.shape} do not fit a codebook of {self.centroids.shape[1]} dimensions")
        frames = transform_frames(frames, self.contract.transform or "none")
        bias = np.square(self.centroids).sum(1)
        out = np.empty(len(frames), np.int64)
        for i in range(0, len(frames), 65536):
            # ‖x - c‖² less ‖x‖², which is the same for every centroid.
            out[i : i + 65536] = (bias - 2 * (frames[i : i + 65536] @ self.centroids.T)).argmin(1)
        return out

    def save(self, folder: Path | str) -> None:
        save_model(folder, kind="codebook", config={"contract": self.contract.to_dict()}, tensors={"centroids": self.centroids})


def load_codebook(source: Path | str) -> Codebook:
    """A codebook.

    Args:
        source: a folder of ours; a `.npy` of centroids (K, D); a k-means of scikit-learn's that was pickled or dumped by joblib, as GSLM
            and textlesslib keep theirs (`km.bin`), of which nothing is run; or the name of a published one, which is fetched.

    The origin of a stranger's centroids is unknown, unless their file is one of the published.

    Raises:
        ModelError: no such file or name, or no codebook in it.
    """
    from textless.units.published import PUBLISHED, fetch_codebook

    if not Path(source).exists() and str(source) in PUBLISHED:
        return _foreign(fetch_codebook(str(source))).declare(PUBLISHED[str(source)])
    path = Path(source)
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder, and no published codebook has this name{did_you_mean(str(source), PUBLISHED)}")
    if path.is_dir():
        config, tensors = load_model(path, kind="codebook")
        return Codebook(tensors["centroids"], UnitContract.from_dict(config["contract"]))
    codebook = _foreign(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = next((e for e in PUBLISHED.values() if e.codebook_sha256 == digest), None)
    return codebook.declare(entry) if entry else codebook


def _foreign(path: Path) -> Codebook:
    """Centroids from a file of others."""
    from textless.pickles import load_joblib, plain

    if path.suffix == ".npy":
        try:
            return Codebook(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as e:
            raise ModelError(f"{path}: not a .npy of centroids ({e})") from None
    content = plain(load_joblib(path))
    centroids = content.get("cluster_centers_") if isinstance(content, dict) else content
    if not isinstance(centroids, np.ndarray):
        raise ModelError(f"{path}: holds no k-means (no cluster_centers_); give a codebook folder, a .npy or scikit-learn's file")
    return Codebook(centroids)


def fit_codebook(
    frames: np.ndarray | Sequence[np.ndarray],
    n_units: int,
    *,
    transform: str = "none",
    iterations: int = 50,
    restarts: int = 1,
    seed: int = 0,
    contract: UnitContract = UnitContract(),
) -> tuple[Codebook, dict[str, Any]]:
    """Cluster frames.

    Args:
        frames: (N, D) float32, or several to be joined.
        transform: see `transform_frames`; becomes part of the codebook.
        restarts: runs from other starting points, of which the best is kept.
        contract: the encoder's.

    Returns:
        the codebook and {"inertia": mean squared distance a frame, "inertia_curve": of each iteration, "dead_units": without a frame}.

    Raises:
        TrainingError: fewer frames than units, or frames that are not finite.
    """
    import faiss

    if not isinstance(frames, np.ndarray):
        frames = np.concatenate(list(frames)) if len(frames) else np.empty((0, 1), np.float32)
    if len(frames) < n_units:
        raise TrainingError(f"{len(frames)} frames cannot make {n_units} units; give more audio or fewer units")
    x = np.ascontiguousarray(transform_frames(frames, transform))
    if not np.isfinite(x).all():
        raise TrainingError(f"frame {int(np.flatnonzero(~np.isfinite(x).all(1))[0])} holds NaN or infinite values")
    # faiss samples 256 points per centroid unless told otherwise, and warns below 39: how many frames to take is the caller's choice.
    kmeans = faiss.Kmeans(
        x.shape[1],
        n_units,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    kmeans.train(x)
    codebook = Codebook(kmeans.centroids, contract.with_(transform=transform))
    used = np.bincount(Codebook(kmeans.centroids).predict(x), minlength=n_units)
    curve = [float(v) / len(x) for v in kmeans.obj]
    return codebook, {"inertia": curve[-1], "inertia_curve": curve, "dead_units": int((used == 0).sum())}

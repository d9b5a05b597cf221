"""k-means: frames → units. Lloyd's iterations (`lloyd`), or scikit-learn's mini-batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textless.checks import NotNegative, check
from textless.errors import ContractError, ModelError, TrainingError, check_known
from textless.model_io import CONFIG, load_model, save_model, take
from textless.types import SmoothableQuantizer, UnitContract
from textless.units.lloyd import Assignment, Points, cluster, gpus

TRANSFORMS = ("none", "layer_norm")
# Default iterations and starting points; those of mini-batches are fairseq's (examples/hubert/simple_kmeans).
ALGORITHMS = {"lloyd": (50, 1), "minibatch": (100, 20)}
INITS = ("k-means++", "random")
BATCH = 10_000  # frames of a mini-batch, fairseq's too
QUANTILES = ("0.5", "0.75", "0.95", "0.99")  # of the training distances, kept by a codebook
MEASURED = 20_000  # training frames that the quantiles are computed over, at most
SHORT = 2.0  # seconds; the mean distance of a shorter file varies too much


def transform_frames(frames: np.ndarray, transform: str) -> np.ndarray:
    """The transform between encoder and k-means. (T, D) float32 → (T, D) float32.

    `layer_norm` makes each frame zero mean and unit variance: the outputs of pre-LN blocks need it, because the
    residual stream grows with depth and a few of its channels would dominate the distances.
    """
    frames = np.asarray(frames, np.float32)
    check_known("transform", transform, TRANSFORMS, ModelError)
    if transform == "none":
        return frames
    centred = frames - frames.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5))


class Codebook(SmoothableQuantizer):
    """k-means centroids, and the transform that frames take before they are compared.

    Attributes:
        centroids: (K, D) float32.
        contract: says encoder, layer and transform, with `n_units` and `codebook` filled in.
        distances: of the training frames to their centroids, the `mean` and some quantiles ("0.75": …), and the mean
            `squared` distance, which codebooks from before 0.2 lack; None where unknown.
    """

    def __init__(
        self, centroids: np.ndarray, contract: UnitContract = UnitContract(), distances: dict[str, float] | None = None
    ) -> None:
        centroids = np.ascontiguousarray(centroids, np.float32)
        if centroids.ndim != 2 or not centroids.size:
            raise ModelError(f"centroids must be (K, D), got shape {centroids.shape}")
        if not np.isfinite(centroids).all():
            raise ModelError("centroids hold NaN or infinite values")
        self.centroids, self.distances = centroids, distances
        self.contract = contract.with_(
            n_units=len(centroids),
            codebook=hashlib.sha256(centroids.tobytes()).hexdigest(),
            transform=contract.transform or "none",
        )

    @property
    def dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def n_units(self) -> int:
        return len(self.centroids)

    def declare(self, published: UnitContract) -> Codebook:
        """Fill in what is published about these centroids, in place. Raises ModelError when their number differs."""
        if published.n_units not in (None, self.n_units):
            raise ModelError(
                f"the file holds {self.n_units} centroids where {published.n_units} are published; remove it and fetch "
                "it again"
            )
        self.contract = self.contract.with_(**{k: v for k, v in published.to_dict().items() if v is not None})
        return self

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """Index of the nearest centroid of each frame, the first of equals. (T, D) float32 → (T,) int64.

        Raises ModelError when D is not the codebook's, and for values that are not finite.
        """
        return self.nearest(frames)[0]

    def nearest(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, and the distance to the centroid: (T, D) float32 → (T,) int64, (T,) float32.

        The distance is Euclidean, after the transform. Computed in numpy, so that units depend neither on faiss
        (`lloyd.Assignment`, for training) nor on torch (`vtln`).
        """
        frames = self._fitting(frames)
        out, distances = np.empty(len(frames), np.int64), np.empty(len(frames), np.float32)
        for i, _, best, squared in self._scores(frames):
            out[i : i + len(best)], distances[i : i + len(best)] = best, np.sqrt(squared)
        return out, distances

    def squared_distances(self, frames: np.ndarray) -> np.ndarray:
        """Squared distance of each frame to each centroid, (T, D) float32 → (T, K) float32. Raises as `predict`."""
        frames = self._fitting(frames)
        out = np.empty((len(frames), self.n_units), np.float32)
        for i, scores, best, squared in self._scores(frames):
            least = np.take_along_axis(scores, best[:, None], 1)
            out[i : i + len(best)] = scores - least + squared[:, None]
        return out

    def _fitting(self, frames: np.ndarray) -> np.ndarray:
        """`frames` as an array. Raises ModelError when it is not (T, D)."""
        frames = np.asarray(frames)
        if frames.ndim != 2 or frames.shape[1] != self.dim or frames.dtype.kind not in "fiu":
            what = f"frames of shape {frames.shape} and type {frames.dtype}"
            raise ModelError(f"{what} do not fit a codebook of {self.dim} dimensions; give (T, D) float32")
        return frames

    def _scores(self, frames: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Blocks of t frames: the first one's number; (t, K) float32, the squared distances less a number for each
        frame; (t,) int64, the nearest centroid, the first of equals; (t,) float32, its squared distance.

        Raises ModelError for values that are not finite.
        """
        # Relative to their mean, so that frames far from the origin do not lose the digits that tell centroids apart.
        middle = self.centroids.mean(0)
        centroids = self.centroids - middle
        bias = np.square(centroids).sum(1)
        for i in range(0, len(frames), 16384):
            x = transform_frames(frames[i : i + 16384], self.contract.transform or "none") - middle
            # ‖x - c‖² - ‖x‖²: the second term is the same for every centroid.
            scores = bias - 2 * (x @ centroids.T)
            best = scores.argmin(1)
            with np.errstate(invalid="ignore"):
                squared = np.take_along_axis(scores, best[:, None], 1)[:, 0] + np.einsum("td,td->t", x, x)
            if not np.isfinite(squared).all():
                raise ModelError(
                    f"frame {i + int(np.isfinite(squared).argmin())} holds NaN, infinite or huge values; make the "
                    "frames again"
                )
            yield i, scores, best, np.maximum(squared, 0)

    def measure(self, frames: np.ndarray) -> None:
        """Set `distances` from the training frames (N, D), at most `MEASURED` of them, in place."""
        _, distances = self.nearest(np.asarray(np.asarray(frames)[:: -(-len(frames) // MEASURED)], np.float32))
        statistics = {
            "mean": distances.mean(dtype=np.float64),
            **{q: np.quantile(distances, float(q)) for q in QUANTILES},
            "squared": np.square(distances, dtype=np.float64).mean(),
        }
        self.distances = {name: float(f"{value:.6g}") for name, value in statistics.items()}

    def is_far(self, distance: float, seconds: float) -> bool:
        """Whether audio of this mean distance is unlike the training audio. False where `distances` is None.

        A quarter of the training frames lie beyond the limit, but hardly any file of unseen speakers does in its mean
        (docs/encoders.md).
        """
        return self.distances is not None and distance > self.distances["0.95" if seconds < SHORT else "0.75"]

    def save(self, folder: Path | str) -> None:
        config: dict[str, Any] = {"contract": self.contract.to_dict()}
        if self.distances:
            config["distances"] = self.distances
        save_model(folder, kind="codebook", config=config, tensors={"centroids": self.centroids})

    @classmethod
    def load(cls, folder: Path | str) -> Codebook:
        """Raises ModelError when the folder holds no codebook, or a damaged one."""
        place = Path(folder) / CONFIG
        config, tensors = load_model(folder, kind="codebook")
        distances = check(config.get("distances") or {}, dict, f"{place}: distances")
        for name, value in distances.items():
            check(value, NotNegative, f"{place}: distances.{name}")
        try:
            contract = UnitContract.from_dict(check(config.get("contract"), dict, f"{place}: contract"))
        except ContractError as e:
            raise ModelError(f"{place}: {e}") from None
        # Another version may have kept other quantiles; its distances are ignored.
        known = distances if {"mean", *QUANTILES} <= distances.keys() else None
        codebook = cls(take(folder, tensors, "centroids"), contract, known)
        if contract.n_units not in (None, codebook.n_units):
            raise ModelError(
                f"{place}: has {codebook.n_units} centroids where its contract says {contract.n_units}; copy the model "
                "again"
            )
        return codebook


@dataclass(eq=False, repr=False)
class KMeans:
    """k-means in scikit-learn's manner: `KMeans(100).fit(frames).predict(frames)`.

    `lloyd` updates all centroids from all frames in turn (see `lloyd.cluster`), holds no second copy of the frames, and
    moves a centroid without frames to the frame that is farthest from its own centroid. `minibatch` is scikit-learn's
    MiniBatchKMeans with the settings of fairseq's HuBERT recipe; it holds a second copy of the frames and repairs
    nothing.

    Equal frames, settings, seed and number of threads give equal bytes.

    Attributes:
        n_units: K.
        algorithm: `lloyd` or `minibatch`.
        init: `k-means++` or `random` frames.
        transform: see `transform_frames`; becomes part of the codebook.
        iterations: the most updates by all frames; None: 50, of mini-batches 100.
        restarts: starting points, of which the best is kept; None: 1, of mini-batches 20.
        tolerance: Lloyd's iterations stop when one lowers the inertia by at most this share.
        contract: the encoder's.
        codebook: the result of `fit`.
        metrics: {"inertia": mean squared distance of a frame to its centroid, "inertia_curve": of each of Lloyd's
            iterations, over all frames, "dead_units": without a frame, "repaired_units": dead ones that were moved}.

    Raises TrainingError for an unknown algorithm, init or transform, and for numbers below 1.
    """

    n_units: int
    _: KW_ONLY
    algorithm: str = "lloyd"
    init: str = "k-means++"
    transform: str = "none"
    iterations: int | None = None
    restarts: int | None = None
    tolerance: float = 1e-3
    seed: int = 0
    contract: UnitContract = UnitContract()
    metrics: dict[str, Any] = field(default_factory=dict, init=False)
    _codebook: Codebook | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for what, value, known in (
            ("algorithm", self.algorithm, ALGORITHMS),
            ("init", self.init, INITS),
            ("transform", self.transform, TRANSFORMS),
        ):
            check_known(what, value, known, TrainingError)
        for name, number in (("n_units", self.n_units), ("iterations", self.iterations), ("restarts", self.restarts)):
            if number is not None and number < 1:
                raise TrainingError(f"{name} is {number} but must be at least 1")

    @property
    def codebook(self) -> Codebook:
        if self._codebook is None:
            raise TrainingError("there is no codebook yet; call fit first")
        return self._codebook

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """(T, D) float32 → (T,) int64. See `Codebook.predict`."""
        return self.codebook.predict(frames)

    def fit(self, frames: np.ndarray) -> KMeans:
        """Cluster frames (N, D) of any float type, which may be memory-mapped.

        Raises TrainingError: fewer than units, not finite.
        """
        points = self._points(frames)
        iterations, restarts = ALGORITHMS[self.algorithm]
        iterations, restarts = self.iterations or iterations, self.restarts or restarts
        if self.algorithm == "minibatch":
            centroids = self._minibatch(points, iterations, restarts)
            assignment = Assignment(points, centroids)
            curve, repaired, dead = [assignment.inertia], 0, int((assignment.counts == 0).sum())
        else:
            centroids, curve, repaired, dead = cluster(
                points,
                self.n_units,
                init=self.init,
                iterations=iterations,
                restarts=restarts,
                tolerance=self.tolerance,
                seed=self.seed,
            )
        self._codebook = Codebook(centroids + points.mean, self.contract.with_(transform=self.transform))
        self._codebook.measure(frames)
        self.metrics = {"inertia": curve[-1], "inertia_curve": curve, "dead_units": dead, "repaired_units": repaired}
        return self

    def _points(self, frames: np.ndarray) -> Points:
        frames = np.asarray(frames)
        if frames.ndim != 2 or not frames.shape[1]:
            raise TrainingError(f"frames must be (N, D), got shape {frames.shape}")
        if len(frames) < self.n_units:
            raise TrainingError(
                f"{len(frames)} frames cannot make {self.n_units} units; give more audio or fewer units"
            )
        points = Points(frames, lambda x: transform_frames(x, self.transform), gpus=gpus())
        points.mean = points.measure()
        return points

    def _minibatch(self, points: Points, iterations: int, restarts: int) -> np.ndarray:
        """(K, D) float32."""
        from sklearn.cluster import MiniBatchKMeans

        kmeans = MiniBatchKMeans(
            self.n_units,
            init=self.init,
            n_init=restarts,
            batch_size=BATCH,
            max_iter=iterations,
            tol=0.0,
            max_no_improvement=100,
            reassignment_ratio=0.0,
            compute_labels=False,
            random_state=self.seed,
        ).fit(np.concatenate([x for _, x in points.blocks()]))
        return np.ascontiguousarray(kmeans.cluster_centers_, np.float32)


def fit_codebook(
    frames: np.ndarray | Sequence[np.ndarray], n_units: int, **options: Any
) -> tuple[Codebook, dict[str, Any]]:
    """Cluster frames: (N, D) float32, or several such arrays, which are joined. Options are those of `KMeans`.

    Returns:
        the codebook and its metrics (see `KMeans`).

    Raises:
        TrainingError: fewer frames than units, of several dimensions, or not finite.
    """
    if not isinstance(frames, np.ndarray):
        frames = list(frames)
        if len(dims := {x.shape[1:] for x in frames}) > 1:
            raise TrainingError(
                f"frames of different shapes {', '.join(map(str, sorted(dims)))} cannot be joined; they are of one "
                "encoder"
            )
        frames = np.concatenate(frames) if frames else np.empty((0, 1), np.float32)
    kmeans = KMeans(n_units, **options).fit(frames)
    return kmeans.codebook, kmeans.metrics

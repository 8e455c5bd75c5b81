"""The active model in memory: hot swap and recommendations."""

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from reckeeper import clock, linalg, matrix, storage
from reckeeper.errors import ArtifactError, NoModelError, NotFoundError, StorageError
from reckeeper.interactions import WATCHLIST_ADD, WATCHLIST_REMOVE
from reckeeper.policy import PolicyWatch
from reckeeper.registry import ActiveModel, Registry
from reckeeper.telemetry import MODEL_SWAPS, RECOMMENDATIONS, SERVED_VERSION, get_logger

RETRY_SECONDS = 5.0
"""How long after a failed load the same version is tried again."""

POLL_SECONDS = 0.25
"""How often a process looks whether another version has become active."""

SILENCE_SECONDS = 5.0
"""How long a database may be silent before a process says that it is not ready."""

STOP_SECONDS = 2.0
"""How long a stop waits for a database that does not answer."""

_ROUNDING = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}
"""What share of a row's largest score may be a rounding error, sums of many included."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One item of a list; `title` and `attributes` come from the catalogue."""

    rank: int
    item_id: str
    score: float
    title: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Recommendations:
    """A list for a user.

    Attributes
    ----------
    user_id : str
    model_version : int
    strategy : str
        ``model``: from the user's row as it was trained. ``fold_in``: from
        that row and interactions that are newer than the model. ``popular``:
        the most popular items, as nothing is known of the user, or as the
        model is of a recipe that gives all users the same.
    items : list of Recommendation
        Best first, without the items of the user's history.
    request_id : str
        Names this answer.
    generated_at : int
        Microseconds since 1970-01-01 UTC.
    """

    user_id: str
    model_version: int
    strategy: str
    items: list[Recommendation]
    request_id: str
    generated_at: int


class Serving:
    """The active model of this process.

    A thread looks for a new active row and swaps by one assignment; a request
    takes the model once and sees that one throughout.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    policy : PolicyWatch
        Asked for the weights of interaction types where a model does not say
        with which it was trained.
    """

    def __init__(self, database: storage.Database, registry: Registry, policy: PolicyWatch) -> None:
        self._database = database
        self._registry = registry
        self._policy = policy
        self._loaded: _Loaded | None = None
        self._problem: Problem | None = None
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshing = threading.Lock()
        self._is_loading = False
        self._answered_at = time.monotonic()
        self._database_problem: str | None = None

    @property
    def version(self) -> int | None:
        """The version in memory, or None."""
        loaded = self._loaded
        return None if loaded is None else loaded.model.version

    @property
    def problem(self) -> "Problem | None":
        """Why the active version is not the one in memory, or None if it is."""
        return self._problem

    def readiness(self) -> "Readiness":
        """Say whether this process can answer.

        Once started it is told from memory, at once, also while the database hangs.
        """
        problem = self._problem
        if self._thread is None:
            with contextlib.suppress(StorageError):
                self._look()
        silent = time.monotonic() - self._answered_at
        if self._database_problem is not None:
            return Readiness("unavailable", [self._database_problem], self.version, None)
        if silent > SILENCE_SECONDS and not self._is_loading:
            sentence = f"The database has not answered for {silent:.0f} s: see that it runs."
            return Readiness("unavailable", [sentence], self.version, None)
        if problem is None:
            return Readiness("ok", [], self.version, None)
        status = "unavailable" if self._loaded is None else "degraded"
        return Readiness(status, [problem.sentence], self.version, problem.offer)

    def start(self) -> None:
        """Load the active version and follow every later one, until `stop`."""
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="serving", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread that `start` began."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def refresh(self) -> None:
        """Take the active version into memory, if another is there.

        A version that cannot be loaded becomes the `problem`; the one in
        memory goes on serving, and the load is tried again every few seconds.
        """
        with self._refreshing:
            active = self._look()
            problem = self._problem
            is_known = problem is not None and problem.version == active
            if is_known and time.monotonic() < self._retry_at:
                return
            if active == self.version:
                self._problem = None
                return
            if active is None:
                self._loaded = None
                self._problem = None
                SERVED_VERSION.set(0)
                return
            self._is_loading = True
            try:
                loaded = _Loaded.of(self._registry.load(active))
            except (ArtifactError, NotFoundError) as exc:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                if not is_known:
                    offer = self._registry.newest_sound(besides=active)
                    self._problem = Problem(active, exc.message, offer)
                    _log.error(
                        "active_model_not_loaded", version=active, error=exc.message, offer=offer
                    )
                return
            finally:
                self._answered_at = time.monotonic()
                self._is_loading = False
            self._loaded = loaded
            self._problem = None
        SERVED_VERSION.set(active)
        MODEL_SWAPS.inc()
        _log.info("model_loaded", version=active)

    def recommend(self, user_id: str, *, n: int) -> Recommendations:
        """Recommend items to a user.

        Parameters
        ----------
        user_id : str
            Known or not.
        n : int
            Length of the list, at least 1; fewer when the catalogue of the
            model has no more that the user has not seen.

        Raises
        ------
        NoModelError
            No version is in memory.
        """
        loaded = self._loaded
        if loaded is None:
            if self._problem is not None:
                raise NoModelError(self._problem.sentence)
            raise NoModelError(
                "No model is active yet. Train one: POST /retrain, or the button on the page."
            )
        with self._database.read() as connection:
            seen, strategy = self._history(connection, loaded, user_id)
            chosen, scores, strategy = loaded.rank(seen, n=n, strategy=strategy)
            item_ids = [loaded.items.ids[index] for index in chosen]
            catalogue = storage.items.get_many(connection, item_ids)
        RECOMMENDATIONS.labels(strategy).inc()
        nothing = storage.Item("", None, {})
        described = [catalogue.get(item_id, nothing) for item_id in item_ids]
        return Recommendations(
            user_id=user_id,
            model_version=loaded.model.version,
            strategy=strategy,
            items=[
                Recommendation(rank, item_id, score, item.title, item.attributes)
                for rank, (item_id, score, item) in enumerate(
                    zip(item_ids, scores, described, strict=True), start=1
                )
            ],
            request_id=str(uuid.uuid4()),
            generated_at=clock.now(),
        )

    def _history(
        self, connection: storage.Connection, loaded: "_Loaded", user_id: str
    ) -> tuple[dict[int, float], str]:
        """Return a user's weights by dense item index, and where they come from."""
        seen = loaded.trained_row(user_id)
        newer = storage.interactions.of_user(connection, user_id, after=loaded.model.watermark)
        if loaded.model.seen_until is not None:
            newer = newer.filter(pc.greater(newer.column("occurred_at"), loaded.model.seen_until))
        if not newer.num_rows:
            return seen, "model"
        weights, decay = loaded.weights(self._policy)
        added = matrix.row_of_history(newer, items=loaded.items, type_weights=weights, **decay)
        history = {
            index: seen.get(index, 0.0) + added.get(index, 0.0) for index in seen.keys() | added
        }
        # A removal takes back what was trained, or a late addition; a sum is clipped at zero
        # only when all is added. Where one or the other may be, these items are summed again.
        listings = pa.array([WATCHLIST_ADD, WATCHLIST_REMOVE])
        intertwined = pc.is_in(newer.column("interaction_type"), listings)
        if min(weights.values(), default=0.0) < 0:
            intertwined = pa.array([True] * newer.num_rows)
        if pc.any(intertwined).as_py():
            whole = matrix.row_of_history(
                storage.interactions.of_user(connection, user_id),
                items=loaded.items,
                type_weights=weights,
                **decay,
            )
            summed_again = newer.filter(intertwined).column("item_id").unique().to_pylist()
            for index in (loaded.items.find(item_id) for item_id in summed_again):
                if index is not None:
                    history[index] = whole[index]
        return history, "fold_in"

    def _look(self) -> int | None:
        """Return the active version as the database has it, and note whether it answers."""
        try:
            active = self._registry.active_version()
        except StorageError as exc:
            self._database_problem = exc.message
            raise
        self._database_problem = None
        self._answered_at = time.monotonic()
        return active

    def _follow(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.refresh()
            except StorageError as exc:
                _log.warning("active_version_not_read", error=exc.message)
            except Exception:  # noqa: BLE001
                # This thread must not die: without it the process would never swap again.
                _log.exception("refresh_failed")


def is_noise(scores: np.ndarray, *, seen: np.ndarray) -> bool:
    """Say whether a user's scores tell nothing of the items that the user has not seen.

    Of who has nothing that weighs, or only items that nobody else has, a
    model knows no more than of a stranger: what it says of other items is
    zero or rounding.

    Parameters
    ----------
    scores : ndarray of float32 or float64, shape (n_items,)
    seen : ndarray of int, shape (m,)
        Dense indices of the user's items.

    Returns
    -------
    bool
        Whether no score of an unseen item is larger than the rounding error
        of the row's largest. False where there is no such item.
    """
    unseen = np.delete(scores, seen)
    if not unseen.size:
        return False
    return bool(np.abs(unseen).max() <= _ROUNDING[scores.dtype] * np.abs(scores).max())


def trial(model: ActiveModel) -> None:
    """Answer a request from a model that is to serve, for the first user it knows.

    Raises
    ------
    ArtifactError
        The answer is not a list of finite scores.
    """
    loaded = _Loaded.of(model)
    seen = loaded.trained_row(model.artifact.matrix.users.ids[0])
    _, scores, _ = loaded.rank(seen, n=10, strategy="model")
    if not np.isfinite(scores).all():
        raise ArtifactError(f"Version {model.version} answers with scores that are no numbers.")


@dataclass(frozen=True)
class Problem:
    """Why a version is active and not in memory, and what would serve instead.

    Attributes
    ----------
    version : int
        The active version.
    reason : str
    offer : int or None
        The newest other version whose file is sound.
    """

    version: int
    reason: str
    offer: int | None

    @property
    def sentence(self) -> str:
        """The whole in words, with what to do."""
        what_to_do = (
            f"Version {self.offer} is sound: POST /models/{self.offer}/activate, or retrain."
            if self.offer is not None
            else "No other version is sound: retrain."
        )
        return f"The active version {self.version} cannot be loaded: {self.reason} {what_to_do}"


@dataclass(frozen=True)
class Readiness:
    """Whether a process can do its work.

    Attributes
    ----------
    status : str
        ``ok``; ``degraded``: it serves, but not the active version, or something else does not
        work; ``unavailable``: it does not serve.
    problems : list of str
        Sentences that say what is wrong and what to do.
    model_version : int or None
        The version in memory.
    offer_version : int or None
        A sound version that could be activated instead of the active one.
    """

    status: str
    problems: list[str]
    model_version: int | None
    offer_version: int | None

    def also(self, *problems: str) -> "Readiness":
        """Return the same with problems of other parts, which leave it degraded at best."""
        if not problems:
            return self
        status = "degraded" if self.status == "ok" else self.status
        return dataclasses.replace(self, status=status, problems=[*self.problems, *problems])


@dataclass(frozen=True)
class _Loaded:
    model: ActiveModel
    popularity: np.ndarray

    @classmethod
    def of(cls, model: ActiveModel) -> "_Loaded":
        weights = model.artifact.matrix.weights
        users_per_item = np.bincount(
            weights.indices[weights.data > 0], minlength=len(model.artifact.matrix.items)
        )
        return cls(model, users_per_item.astype(np.float64))

    @property
    def items(self) -> matrix.IdIndex:
        return self.model.artifact.matrix.items

    def weights(self, policy: PolicyWatch) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Return how interactions are weighed, by type and by time, as they were in training."""
        metadata = self.model.artifact.metadata
        decay = {
            "half_life_days": metadata.data.get("half_life_days"),
            "latest_at": metadata.latest_at or None,
        }
        weights = metadata.data.get("weights")
        return policy.weights() if weights is None else weights, decay

    def trained_row(self, user_id: str) -> dict[int, float]:
        trained = self.model.artifact.matrix
        user_index = trained.users.find(user_id)
        if user_index is None:
            return {}
        start, stop = trained.weights.indptr[user_index : user_index + 2]
        row = slice(int(start), int(stop))
        return dict(
            zip(
                trained.weights.indices[row].tolist(),
                trained.weights.data[row].tolist(),
                strict=True,
            )
        )

    def rank(
        self, seen: dict[int, float], *, n: int, strategy: str
    ) -> tuple[list[int], list[float], str]:
        """Return the best items that were not seen, their scores, and the strategy."""
        exclude = np.fromiter(seen.keys(), dtype=np.int64, count=len(seen))
        weights = np.fromiter(seen.values(), dtype=np.float64, count=len(seen))
        model = self.model.artifact.model
        row = sparse.csr_array(
            (weights, exclude, np.array([0, len(seen)])), shape=(1, len(self.items))
        )
        scores = model.score(row)[0]
        if not model.is_personal:
            strategy = "popular"
        elif is_noise(scores, seen=exclude):
            scores, strategy = self.popularity, "popular"
        chosen = linalg.top_k(scores, n, exclude=exclude)
        return chosen.tolist(), scores[chosen].tolist(), strategy

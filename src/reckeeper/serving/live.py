"""The active model in memory: hot swap and recommendations."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from reckeeper import clock, snapshot, storage
from reckeeper.catalogue import Catalogue
from reckeeper.errors import (
    ArtifactError,
    MemoryLimitError,
    NoModelError,
    NotFoundError,
    StorageError,
)
from reckeeper.matrix import IdIndex
from reckeeper.periodic import Periodic
from reckeeper.policy import PolicyWatch
from reckeeper.ranking import Lists
from reckeeper.registry import ActiveModel, Registry
from reckeeper.serving.answers import Answers, LoadedModel, Recommendations, ranked
from reckeeper.serving.asked import Told
from reckeeper.serving.finished import ListState
from reckeeper.serving.histories import UserHistories
from reckeeper.serving.newer import Newer
from reckeeper.serving.pasts import Pasts
from reckeeper.serving.popular import PopularItems
from reckeeper.serving.previews import Previews
from reckeeper.serving.readiness import Problem, Readiness
from reckeeper.serving.rules import Kind, Rules
from reckeeper.serving.similar import Similar, SimilarItems
from reckeeper.telemetry import (
    MODEL_SWAPS,
    SERVED_QUALITY,
    SERVED_VERSION,
    get_logger,
)

RETRY_SECONDS = 5.0
"""How long after a failed load the same version is tried again."""

LOOK_SECONDS = 10.0
"""How often it is looked whether the file of the version in memory is still as it was loaded."""

SILENCE_SECONDS = 5.0
"""How long a database may be silent before a process says that it is not ready."""

_SHORT = 1_000
"""Items of a history whose list is made in about a millisecond."""

STOP_SECONDS = 2.0
"""How long a stop waits for a database that does not answer."""

_log = get_logger(__name__)


class Serving:
    """The active model of this process.

    A thread looks for a new active row and swaps by one assignment; a request
    takes the model once and sees that one throughout. While the active version
    cannot be loaded, the one in memory stays, or at a start the newest sound one
    comes in its place, and the load is tried again every few seconds. A version
    whose file goes or changes under it serves on from memory.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    policy : PolicyWatch
        Asked for the weights of interaction types where a model does not say
        with which it was trained.
    every_seconds : float
        How often it looks: a new active version is seen after so long at most.
    catalogue : Catalogue, optional
        Says what lists leave out, and what their items are called. By default nothing is said
        of items, for a process that shows no lists.
    newer : Newer, optional
        Knows who has interactions that are newer than the version in memory. By default the
        database is asked for each list.
    popular : PopularItems, optional
        Knows what is popular. By default the table is looked at whenever that is asked for.
    """

    def __init__(
        self,
        database: storage.Database,
        registry: Registry,
        policy: PolicyWatch,
        *,
        every_seconds: float,
        catalogue: Catalogue | None = None,
        newer: Newer | None = None,
        popular: PopularItems | None = None,
    ) -> None:
        self._database = database
        self._newer = newer
        self._pasts = Pasts(database, newer)
        self._installation_id: str | None = None
        self._snapshot_state: tuple[int, int] | None = None
        self._examined: tuple[int, tuple[int, int] | None] | None = None
        self._catalogue = catalogue or Catalogue(database, every_seconds=every_seconds)
        self._registry = registry
        self._policy = policy
        self._popular = popular or PopularItems(
            database, policy, self._catalogue, every_seconds=every_seconds
        )
        self._answers = Answers(self._catalogue)
        self._similar = SimilarItems(database, self._catalogue)
        self._previews = Previews(registry, self._catalogue, policy, self._popular)
        self._without_model = self._popular.board(IdIndex([]), np.empty(0), is_whole=False)
        self._loaded: LoadedModel | None = None
        self._expected: ActiveModel | None = None
        self._problem: Problem | None = None
        self._retry_at = 0.0
        self._look_at = 0.0
        self._file_state: tuple[int, int] | None = None
        self._following = Periodic(self.refresh, name="serving", every_seconds=every_seconds)
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
    def items(self) -> IdIndex | None:
        """The items of the version in memory, or None."""
        loaded = self._loaded
        return None if loaded is None else loaded.items

    @property
    def problem(self) -> Problem | None:
        """Why the active version cannot be loaded, or not again; None if it can."""
        return self._problem

    def readiness(self) -> Readiness:
        """Say whether this process can answer.

        After `start` the answer comes from memory, at once, even while the database hangs.
        """
        problem = self._problem
        if not self._following.is_running:
            with contextlib.suppress(StorageError):
                self._look()
        silent = time.monotonic() - self._answered_at
        if self._database_problem is not None:
            return Readiness("unavailable", [self._database_problem], self.version, None)
        if silent > SILENCE_SECONDS and not self._is_loading:
            sentence = (
                f"The database has not answered for {silent:.0f} s: check that it is running."
            )
            return Readiness("unavailable", [sentence], self.version, None)
        unwritten = [] if self._database.problem is None else [self._database.problem]
        if problem is None:
            unforeseen = self._following.problem
            ready = Readiness("ok", [], self.version, None).also(*unwritten)
            return ready if unforeseen is None else ready.also(unforeseen)
        status = "unavailable" if self._loaded is None else "degraded"
        return Readiness(status, [problem.sentence, *unwritten], self.version, problem.offer)

    def start(self) -> None:
        """Load the active version and follow every later one, until `stop`."""
        self.refresh()
        self._following.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._following.stop(timeout_seconds=STOP_SECONDS)

    @contextlib.contextmanager
    def expecting(self, model: ActiveModel) -> Iterator[None]:
        """Have a loaded model at hand while it is activated: its file is not read again.

        After the block it is in memory, if it is the active one.
        """
        self._expected = model
        try:
            yield
            with contextlib.suppress(StorageError):  # the thread tries again
                self.refresh()
        finally:
            self._expected = None

    def refresh(self) -> None:
        """Take the active version into memory, if another is there.

        A version that cannot be loaded becomes the `problem`; the one in
        memory goes on serving, or else the newest sound one, and the load is
        tried again every few seconds.
        """
        self._previews.let_go()
        with self._refreshing:
            active = self._look()
            self._discard_old_snapshot()
            problem = self._problem
            is_known = problem is not None and problem.version == active
            if active is None:
                self._popular.follow(self._without_model)
                self._loaded = None
                self._problem = None
                SERVED_VERSION.set(0)
                SERVED_QUALITY.tell({})
                return
            if active == self.version:
                if not is_known:
                    self._problem = None
                self._look_at_file(active)
                self._look_at_snapshot()
                return
            if is_known and time.monotonic() < self._retry_at:
                return
            with self._loading():
                try:
                    expected = self._expected
                    if expected is None or expected.version != active:
                        expected = self._registry.versions.load(active)
                    self._take(expected)
                    self._problem = None
                except (ArtifactError, MemoryLimitError, NotFoundError) as exc:
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    if not is_known:
                        self._report(active, exc.message)

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Let a database that is not asked meanwhile not pass for a silent one."""
        self._is_loading = True
        try:
            yield
        finally:
            self._answered_at = time.monotonic()
            self._is_loading = False

    def _take(self, model: ActiveModel) -> None:
        """Answer from a model from now on."""
        histories = self._histories(model)
        loaded = LoadedModel.of(model, self._catalogue, histories, self._popular)
        self._popular.follow(loaded.board)
        self._loaded = loaded
        self._file_state = self._registry.versions.file_state(model.version)
        self._look_at = time.monotonic() + LOOK_SECONDS
        SERVED_VERSION.set(model.version)
        _report_quality(model.artifact.metadata.metrics)
        MODEL_SWAPS.inc()
        _log.info("model_loaded", version=model.version)

    def _histories(self, model: ActiveModel) -> UserHistories:
        """Map the snapshot as it is now, and hold who has something newer than it or a model."""
        folder = self._registry.store.folder
        self._snapshot_state = snapshot.state(folder)
        found = self._opened_snapshot()
        if self._newer is not None:
            watermark, merged_since = model.watermark, model.artifact.metadata.trained_at
            if found is not None:
                watermark = min(watermark, found.origin.watermark)
                merged_since = min(merged_since, found.origin.made_at)
            self._newer.hold_from(watermark, merged_since=merged_since)
        return UserHistories(model, found, policy=self._policy)

    def _opened_snapshot(self) -> snapshot.Snapshot | None:
        if self._installation_id is None:
            with self._database.read() as connection:
                self._installation_id = storage.installation.id_of(connection)
        folder = self._registry.store.folder
        return snapshot.opened(folder, installation_id=self._installation_id)

    def _discard_old_snapshot(self) -> None:
        """Delete the snapshot, where interactions were taken away that it has still."""
        folder = self._registry.store.folder
        if self._newer is None:
            return
        examined = self._newer.generation, snapshot.state(folder)
        if examined == self._examined:
            return
        self._examined = examined
        found = self._opened_snapshot()
        if found is not None and found.origin.generation < self._newer.generation:
            snapshot.discard(folder)

    def _look_at_snapshot(self) -> None:
        """Take another snapshot, where a training has written one since."""
        loaded = self._loaded
        if loaded is None or snapshot.state(self._registry.store.folder) == self._snapshot_state:
            return
        self._loaded = dataclasses.replace(loaded, histories=self._histories(loaded.model))

    def _look_at_file(self, version: int) -> None:
        """See at times whether the file of the version in memory could be loaded again."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        state = self._registry.versions.file_state(version)
        if state == self._file_state:
            return
        with self._loading():
            try:
                self._registry.versions.load(version)
                self._problem = None
            except (ArtifactError, MemoryLimitError, NotFoundError) as exc:
                self._report(version, exc.message)
        self._file_state = state

    def _report(self, active: int, reason: str) -> None:
        """Note that the active version cannot be loaded; another answers where none does."""
        sound = self._registry.versions.newest_sound(besides=active)
        if sound is not None and self._loaded is None:
            self._take(sound)
        offer = None if sound is None else sound.version
        self._problem = Problem(active, reason, offer, serving=self.version)
        _log.error(
            "active_model_not_loaded",
            version=active,
            error=reason,
            offer=offer,
            serving=self.version,
        )

    def recommend(self, user_id: str, rules: Rules) -> Recommendations:
        """Recommend items to a user; while no version is active, the most popular ones.

        Parameters
        ----------
        user_id : str
            Known or not.
        rules : Rules
            The list is shorter than they ask for where no more items are left that they let in.

        Raises
        ------
        NoModelError
            The active version cannot be loaded.
        NotFoundError
            There is no such version, or no item in a category that the rules name.
        ArtifactError
            The version that the rules name cannot be loaded.
        """
        (answer,) = self.recommend_to_each([user_id], rules)
        return answer

    def recommend_to_each(self, user_ids: Sequence[str], rules: Rules) -> list[Recommendations]:
        """Recommend items to users, to each as `recommend` does, all by one version.

        The database is read once, for those whose history is not in memory.

        Parameters
        ----------
        user_ids : sequence of str
            Each comes once.
        rules : Rules

        Raises
        ------
        NoModelError, NotFoundError, ArtifactError
            As of `recommend`.
        """
        loaded = self._answering(rules.version)
        if loaded is None:
            self._popular.refresh()
            with self._database.read() as connection:
                found = [storage.interactions.of_user(connection, each) for each in user_ids]
            return [
                self._without_model_from(history, rules, user_id=user_id)
                for user_id, history in zip(user_ids, found, strict=True)
            ]
        if len(user_ids) == 1:
            past, has_newer = self._pasts.of(loaded, user_ids[0])
            return [
                self._answers.from_past(
                    loaded, past, rules, user_id=user_ids[0], has_newer=has_newer
                )
            ]
        group, have_newer = self._pasts.of_each(loaded, user_ids)
        return self._answers.from_histories(
            loaded,
            group,
            rules,
            user_ids=user_ids,
            have_newer=have_newer,
            past_of=lambda place: self._pasts.of(loaded, user_ids[place])[0],
        )

    def rank_for_each(self, user_ids: Sequence[str], rules: Rules) -> Iterator[tuple[slice, Lists]]:
        """Rank the active version's items for users, to each as `recommend` does.

        For very many: histories that are in memory are made together, and items are not described.

        Parameters
        ----------
        user_ids : sequence of str
        rules : Rules
            `version` counts for nothing.

        Yields
        ------
        slice, Lists
            As of `answers.ranked`.

        Raises
        ------
        NoModelError, NotFoundError
            As of `recommend`.
        """
        loaded = self._in_memory()
        assert loaded is not None
        group, _ = self._pasts.of_each(loaded, user_ids)
        yield from ranked(loaded, group, rules)

    def state_for(self, user_id: str) -> ListState | None:
        """Return what a list for a user depends on beside what was asked for.

        While it is the same, the list is. None where a list is not to be kept.
        """
        loaded = self._loaded
        if loaded is None or self._newer is None:
            return None
        standing = loaded.shelf.at(clock.now())
        newer = self._newer.state_of(user_id)
        own = loaded.number, newer, standing.revision, standing.since, self._policy.revision
        return ListState(own, loaded.board.ranking.number)

    def recommend_at_once(self, user_id: str, rules: Rules) -> Recommendations | None:
        """Recommend as `recommend` does; None where the database must be asked, or it takes long.

        For the thread that all requests share.
        """
        loaded = self._loaded
        found = None if loaded is None else self._pasts.at_hand(loaded, user_id)
        if loaded is None or found is None or found[0].history.weights.nnz > _SHORT:
            return None
        past, has_newer = found
        return self._answers.from_past(loaded, past, rules, user_id=user_id, has_newer=has_newer)

    def recommend_from(self, told: Told, rules: Rules) -> Recommendations:
        """Recommend items to whoever has done this; nothing is looked up and nothing stored.

        Parameters
        ----------
        told : Told
        rules : Rules

        Raises
        ------
        NoModelError, NotFoundError, ArtifactError
            As of `recommend`.
        """
        loaded = self._answering(rules.version)
        if loaded is None:
            self._popular.refresh()
            return self._without_model_from(told.batch(), rules, user_id=None)
        past = loaded.histories.told(told)
        return self._answers.from_past(loaded, past, rules, user_id=None, has_newer=True)

    def similar_to(self, item_ids: Sequence[str], rules: Rules, *, kind: Kind) -> Similar:
        """Find what is like some items, or comes after them; see `SimilarItems.find`.

        While the active version cannot be loaded, and no other is there, the catalogue says it.

        Raises
        ------
        NotFoundError
            Nobody knows any of the items, there is no such version, or no item in a category
            that the rules name.
        ArtifactError
            The version that the rules name cannot be loaded.
        """
        loaded = self._loaded if rules.version is None else self._answering(rules.version)
        board = self._without_model if loaded is None else loaded.board
        return self._similar.find(loaded, board, item_ids, kind=kind, rules=rules)

    def _without_model_from(
        self, history: pa.RecordBatch, rules: Rules, *, user_id: str | None
    ) -> Recommendations:
        unlisted = self._popular.unlisted(history, include_seen=rules.include_seen)
        return self._answers.from_popular(self._without_model, unlisted, rules, user_id=user_id)

    def _answering(self, version: int | None) -> LoadedModel | None:
        """Return the version in memory, or another one for a preview; None while there is none."""
        loaded = self._in_memory() if version is None else self._loaded
        if version is None or (loaded is not None and loaded.version == version):
            return loaded
        return self._previews.get(version, None if loaded is None else loaded.histories.snapshot)

    def _in_memory(self) -> LoadedModel | None:
        problem, loaded = self._problem, self._loaded  # in the order in which they are set
        if loaded is None and problem is not None:
            raise NoModelError(problem.sentence, action=problem.action)
        return loaded

    def _look(self) -> int | None:
        """Return the active version as the database has it, and note whether it answers."""
        try:
            active = self._registry.switch.active_version()
        except StorageError as exc:
            self._database_problem = exc.message
            raise
        self._database_problem = None
        self._answered_at = time.monotonic()
        self._database.probe()
        return active


def _report_quality(metrics: Mapping[str, Any] | None) -> None:
    """Show NDCG and hit rate, as a model's file has them; it may be anybody's."""
    SERVED_QUALITY.tell(
        {
            (metric, figure): figures[figure]
            for metric, figures in (metrics or {}).items()
            if metric.startswith(("ndcg@", "hit_rate@")) and isinstance(figures, Mapping)
            for figure in ("mean", "low", "high")
            if isinstance(figures.get(figure), (int, float))
        }
    )

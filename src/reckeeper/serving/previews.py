"""Versions that are not the active one, in memory for requests that ask for them by number."""

import dataclasses
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from reckeeper.catalogue import Catalogue
from reckeeper.policy import PolicyWatch
from reckeeper.registry import Registry
from reckeeper.serving.answers import LoadedModel
from reckeeper.serving.histories import UserHistories
from reckeeper.serving.popular import PopularItems
from reckeeper.snapshot import Snapshot

MOST_KEPT = 2
"""Versions in memory beside the active one; the one that was asked for least lately goes."""

KEPT_SECONDS = 600.0
"""How long a version stays that nobody asks for."""


@dataclass
class _Kept:
    loaded: LoadedModel
    file_state: tuple[int, int] | None
    asked_at: float


class Previews:
    """Loads versions when they are asked for; nothing of the active version changes.

    Safe to share between threads: while one is loaded, who asks for another waits.

    Parameters
    ----------
    registry : Registry
    catalogue : Catalogue
    policy : PolicyWatch
    popular : PopularItems
    """

    def __init__(
        self,
        registry: Registry,
        catalogue: Catalogue,
        policy: PolicyWatch,
        popular: PopularItems,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._policy = policy
        self._popular = popular
        self._loading = threading.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def get(self, version: int, snapshot: Snapshot | None) -> LoadedModel:
        """Return a version, from memory where its file is as it was loaded.

        Parameters
        ----------
        version : int
        snapshot : Snapshot or None
            Where the histories are.

        Raises
        ------
        NotFoundError
            There is none of this number.
        ArtifactError
            Its file is missing, changed or not sound.
        """
        with self._loading:
            state = self._registry.versions.file_state(version)
            kept = self._kept.pop(version, None)
            if kept is None or kept.file_state != state:
                while len(self._kept) >= MOST_KEPT:  # before more is loaded
                    self._kept.popitem(last=False)
                model = self._registry.versions.load(version)
                histories = UserHistories(model, snapshot, policy=self._policy)
                loaded = LoadedModel.of(model, self._catalogue, histories, self._popular)
                kept = _Kept(loaded, state, 0.0)
            if kept.loaded.histories.snapshot is not snapshot:
                histories = UserHistories(kept.loaded.model, snapshot, policy=self._policy)
                kept.loaded = dataclasses.replace(kept.loaded, histories=histories)
            kept.asked_at = time.monotonic()
            self._kept[version] = kept
            return kept.loaded

    def let_go(self) -> None:
        """Let go of versions that nobody has asked for lately."""
        if not self._kept or not self._loading.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            for version, kept in list(self._kept.items()):
                if now - kept.asked_at > KEPT_SECONDS:
                    del self._kept[version]
        finally:
            self._loading.release()

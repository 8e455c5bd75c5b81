"""What users would see of two versions: their lists side by side, on a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reckeeper import clock
from reckeeper.artifact import Artifact
from reckeeper.catalogue import Catalogue
from reckeeper.errors import DataError
from reckeeper.ranking import Ranker
from reckeeper.registry import ActiveModel
from reckeeper.serving.histories import Group

MOST_USERS = 20_000
LONGEST = 100
N_LISTED = 10
"""How many of the users and items that change most are reported."""

_N_RESAMPLES = 1000


@dataclass(frozen=True)
class SettingDifference:
    """A setting that two versions have differently; None where a recipe has no such setting."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class KnownUsers:
    """How many users both versions know, and how many only one of them."""

    both: int
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Overlap:
    """The mean share of a list that both versions give, in [0, 1], with a 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ChangedUser:
    """A user, the share of the list that both versions give, and both lists of item ids."""

    user_id: str
    overlap: float
    first: list[str]
    second: list[str]


@dataclass(frozen=True)
class ExposureChange:
    """An item, and the share of the lists that it is in with each version."""

    item_id: str
    first: float
    second: float


@dataclass(frozen=True)
class Exposure:
    """The items that gain and lose most, `N_LISTED` at most of each."""

    gained: list[ExposureChange]
    lost: list[ExposureChange]


@dataclass(frozen=True)
class Pair:
    """A number for each version."""

    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """How the lists of two versions differ.

    Attributes
    ----------
    sentence : str
        What came out, for people.
    users : KnownUsers
    settings : list of SettingDifference
    k : int
        Length of the lists.
    n_users : int
        Users drawn.
    overlap : Overlap or None
        The longer of two lists is the whole. None, as the two below, without
        a user whom both versions know.
    most_changed : list of ChangedUser
        Up to `N_LISTED` users with the least overlap.
    exposure : Exposure
    coverage : Pair or None
        The share of a version's items that are in any list.
    popularity : Pair or None
        The mean, over all that is listed, of the share of users who have the
        item, counted for both in the data of the version that was trained on
        more interactions.
    """

    sentence: str
    users: KnownUsers
    settings: list[SettingDifference]
    k: int
    n_users: int
    overlap: Overlap | None
    most_changed: list[ChangedUser]
    exposure: Exposure
    coverage: Pair | None
    popularity: Pair | None


class Users(Protocol):
    """Whose lists are compared: see `serving.histories.Everybody`."""

    def known_to(self, model: ActiveModel) -> set[str]:
        """Return the ids of those whom a version could have seen."""

    def histories(self, model: ActiveModel, user_ids: Sequence[str]) -> Group:
        """Return what users have done, in a version's items, and what of it is not listed."""


def compare(
    first: ActiveModel,
    second: ActiveModel,
    everybody: Users,
    *,
    catalogue: Catalogue | None = None,
    k: int = 10,
    n_users: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two versions by the lists that they give to the same users.

    Users are drawn at random from those whom both know. Each version ranks
    from what they have done so far, and leaves out what they have seen and
    what is not available now, as the server would.

    Parameters
    ----------
    first, second : ActiveModel
        As `Registry.load` gives them; of the same data or not.
    everybody : Users
    catalogue : Catalogue, optional
        Says what is available. By default everything is.
    k : int
        Length of the lists, 1 to 100.
    n_users : int
        Users to draw, 1 to 20,000; all, where both know no more.
    seed : int
        Seed of the draw and of the interval; not negative.

    Raises
    ------
    DataError
        `k`, `n_users` or `seed` is out of range; ``details`` has the field.

    Notes
    -----
    Ranks users in blocks, so that users × items is never held. Ids are
    compared, never indices: the same item may stand in another column there.
    The interval is a percentile bootstrap over users. Deterministic.
    """
    _check("k", k, low=1, high=LONGEST)
    _check("n_users", n_users, low=1, high=MOST_USERS)
    _check("seed", seed, low=0, high=None)
    known = [everybody.known_to(model) for model in (first, second)]
    common = sorted(known[0] & known[1])
    users = KnownUsers(len(common), len(known[0]) - len(common), len(known[1]) - len(common))
    settings = _differences(first.artifact.metadata.settings, second.artifact.metadata.settings)
    if not common:
        sentence = (
            f"Versions {first.version} and {second.version} have no user in common: what users "
            "would see of them cannot be compared."
        )
        return Comparison(sentence, users, settings, k, 0, None, [], Exposure([], []), None, None)

    random = np.random.default_rng(seed)
    n_users = min(n_users, len(common))
    drawn = np.sort(random.choice(len(common), size=n_users, replace=False))
    drawn_users = [common[place] for place in drawn.tolist()]
    sample = _Sample.of((first, second), drawn_users, everybody, catalogue, k=k)
    overlaps = sample.overlaps()
    overlap = _mean(overlaps, random=random)
    return Comparison(
        sentence=f"On {n_users:,} of the {len(common):,} users whom both know, the lists of {k} "
        f"have {overlap.mean:.1%} in common.",
        users=users,
        settings=settings,
        k=k,
        n_users=n_users,
        overlap=overlap,
        most_changed=sample.most_changed(overlaps),
        exposure=sample.exposure(),
        coverage=sample.coverage(),
        popularity=sample.popularity(),
    )


def _check(field: str, value: int, *, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        limits = f"from {low} on" if high is None else f"from {low} to {high:,}"
        raise DataError(
            f"{field}: {value} cannot be used. Give a whole number {limits}.",
            details={"field": field},
        )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[SettingDifference]:
    return [
        SettingDifference(name, first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


@dataclass(frozen=True)
class _Sample:
    """The lists that two versions give to the same users, in ids that both have in common.

    Attributes
    ----------
    user_ids, item_ids : list of str
    artifacts : tuple of Artifact
    codes : tuple of ndarray of int64
        The place in `item_ids` of each version's items.
    lists : tuple of ndarray of int64, shape (n_users, k)
        Places in `item_ids`, filled up with -1.
    """

    user_ids: list[str]
    item_ids: list[str]
    artifacts: tuple[Artifact, Artifact]
    codes: tuple[np.ndarray, np.ndarray]
    lists: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(
        cls,
        models: tuple[ActiveModel, ActiveModel],
        user_ids: list[str],
        everybody: Users,
        catalogue: Catalogue | None,
        *,
        k: int,
    ) -> "_Sample":
        first, second = models
        item_ids, codes = _common_items(first.artifact, second.artifact)
        moment = clock.now()

        def lists(model: ActiveModel, code_of_item: np.ndarray) -> np.ndarray:
            items, listable = model.artifact.items, None
            if catalogue is not None:
                listable = catalogue.shelf(items.ids, items.find).at(moment).is_available
            group = everybody.histories(model, user_ids)
            return _lists(model, group, k=k, listable=listable, code_of_item=code_of_item)

        made = lists(first, codes[0]), lists(second, codes[1])
        return cls(user_ids, item_ids, (first.artifact, second.artifact), codes, made)

    def overlaps(self) -> np.ndarray:
        """Return by user the share of the longer list that both have; 1 where both are empty."""
        first, second = self.lists
        row = np.arange(len(first))[:, None] * len(self.item_ids)
        in_both = np.isin(row + first, (row + second)[second >= 0]) & (first >= 0)
        longer = np.maximum((first >= 0).sum(axis=1), (second >= 0).sum(axis=1))
        return np.where(longer > 0, in_both.sum(axis=1) / np.maximum(longer, 1), 1.0)

    def most_changed(self, overlaps: np.ndarray) -> list[ChangedUser]:
        return [
            ChangedUser(
                self.user_ids[place],
                float(overlaps[place]),
                self._ids(self.lists[0][place]),
                self._ids(self.lists[1][place]),
            )
            for place in np.argsort(overlaps, kind="stable")[:N_LISTED].tolist()
            if overlaps[place] < 1
        ]

    def exposure(self) -> Exposure:
        first, second = (count / len(self.user_ids) for count in self._counts())
        return Exposure(
            gained=self._gains(first, second, by=second - first),
            lost=self._gains(first, second, by=first - second),
        )

    def coverage(self) -> Pair:
        return Pair(
            *(
                float(np.count_nonzero(count) / len(artifact.items))
                for count, artifact in zip(self._counts(), self.artifacts, strict=True)
            )
        )

    def popularity(self) -> Pair:
        # With equal data either will do; what is unknown to the larger is as rare as can be.
        larger = max((1, 0), key=lambda index: self.artifacts[index].metadata.training_samples)
        artifact = self.artifacts[larger]
        share_of_users = np.zeros(len(self.item_ids))
        share_of_users[self.codes[larger]] = artifact.popularity / artifact.metadata.n_users
        return Pair(
            *(float(count @ share_of_users / max(1, count.sum())) for count in self._counts())
        )

    def _counts(self) -> list[np.ndarray]:
        """Return for each version how many lists have each item."""
        return [
            np.bincount(codes[codes >= 0], minlength=len(self.item_ids)) for codes in self.lists
        ]

    def _ids(self, codes: np.ndarray) -> list[str]:
        return [self.item_ids[code] for code in codes.tolist() if code >= 0]

    def _gains(
        self, first: np.ndarray, second: np.ndarray, *, by: np.ndarray
    ) -> list[ExposureChange]:
        return [
            ExposureChange(self.item_ids[code], float(first[code]), float(second[code]))
            for code in np.argsort(-by, kind="stable")[:N_LISTED].tolist()
            if by[code] > 0
        ]


def _common_items(
    first: Artifact, second: Artifact
) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
    """Return all item ids, ascending, and the place among them of each version's items."""
    item_ids = sorted({*first.items.ids, *second.items.ids})
    place = {item_id: code for code, item_id in enumerate(item_ids)}
    first_codes, second_codes = (
        np.array([place[item_id] for item_id in artifact.items.ids], dtype=np.int64)
        for artifact in (first, second)
    )
    return item_ids, (first_codes, second_codes)


def _lists(
    model: ActiveModel,
    group: Group,
    *,
    k: int,
    listable: np.ndarray | None,
    code_of_item: np.ndarray,
) -> np.ndarray:
    """Return the lists of histories as codes of items, shape (n_users, k), filled up with -1."""
    ranker = Ranker.of(model.artifact.model, model.artifact)
    lists = np.empty((len(group), k), dtype=np.int64)
    for block, ranked in ranker.in_blocks(
        group.histories, np.arange(len(group)), k=k, listable=listable, unlisted=group.out
    ):
        lists[block] = ranked.item_index
    return np.where(lists >= 0, code_of_item[lists], -1)


def _mean(values: np.ndarray, *, random: np.random.Generator) -> Overlap:
    # Few values are different: how often each is drawn is one draw of a multinomial.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), size=_N_RESAMPLES)
    low, high = np.quantile(drawn @ distinct / len(values), [0.025, 0.975])
    return Overlap(float(values.mean()), float(low), float(high))

"""How training data are cut again, to judge settings by what each cut holds out."""

import dataclasses
from collections.abc import Callable

import numpy as np

from reckeeper import evaluation, linalg
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import Split
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.ranking import Ranker, rank_scores
from reckeeper.recipes import Scorer
from reckeeper.wire import Drift

K = 20
"""Length of the lists that candidates are judged by, as NDCG@K."""

SHARE = 0.1
"""Share of each user's items that is held out: little, since what fits a thinner matrix is not
what fits the whole."""

_LEANINGS: dict[Drift, tuple[float, ...]] = {
    "none": (0.0,),
    "mild": (0.3,),
    "strong": (0.0, 0.3, 0.6),
}
"""Powers of popularity by which the pairs of folds are drawn."""

_FOLDS = (3, 6)
_JUDGED = 6000
"""How many folds there are: as many as have so many users to judge by, within limits."""

_WHOLE = (5, 3)
"""Users with fewer wanted pairs stay whole: one of a few is far more than a tenth. The first of
these that leaves at least half of the users with two; else two."""

_MOST_PAIRS = 2_000_000
_LEAST_USERS = 1000
"""Interactions that are cut; of larger data users are drawn, so many at least."""

_BLOCK_BYTES = 8 << 20
"""Of the scores that are judged at once: they stay in the cache."""

_NEWEST = 0.2
_NEWEST_USERS = 2000
"""The share that is asked for at the newest cut, and of how many users at most."""


class Judge:
    """Users of a fold, on whom settings are judged; see `recipes.Judge`."""

    def __init__(self, split: Split, users: np.ndarray) -> None:
        self._split = split
        self._users = users
        questions = np.flatnonzero(_can_be_judged(split) & np.isin(split.user_index, users))
        _, self._user_of = np.unique(split.user_index[questions], return_inverse=True)
        self._held_out = split.held_out[questions]
        self.histories = split.histories[questions]

    def ndcg(self, model: Scorer) -> np.ndarray:
        """Return a model's NDCG@20 by user."""
        quality = evaluation.measure_split(
            Ranker.of(model, self._split.train), self._split, k=K, user_index=self._users
        )
        return quality.by_user[f"ndcg@{K}"]

    def ndcg_of_scores(self, scores: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Return that of a personal model's scores, asked for a block of histories at a time."""
        popularity = self._split.train.popularity
        unlisted = self.histories.weights
        by_question = np.empty(len(self.histories))
        for block in linalg.row_blocks(*unlisted.shape, limit_bytes=_BLOCK_BYTES):
            lists = rank_scores(scores(block), unlisted[block], k=K, popularity=popularity)
            by_question[block] = evaluation.ndcg(lists, held_out=self._held_out[block])
        return np.bincount(self._user_of, weights=by_question) / np.bincount(self._user_of)


class Fold:
    """A cut as a recipe's plan takes it; see `recipes.TuningSplit`."""

    def __init__(self, split: Split, *, kind: str, seed: int) -> None:
        self.kind = kind
        self.train = split.train
        self.split = split
        self._seed = seed

    def judge(self, *, n_users: int = 3000) -> Judge:
        """Choose at most so many users to judge by."""
        users = _judged(self.split)
        if len(users) > n_users:
            random = np.random.default_rng(self._seed)
            users = np.sort(random.choice(users, n_users, replace=False))
        return Judge(self.split, users)


def draw(log: InteractionLog, *, drift: Drift, seed: int) -> list[Fold]:
    """Hold out a tenth of each user's pairs, several times.

    Parameters
    ----------
    log : InteractionLog
        In canonical order, so that neither ids nor the order of rows matter.
    drift : Drift
        ``none``: pairs are drawn by chance. ``mild``: popular ones more often.
        ``strong``: each fold leans further than the one before. Where times
        tell, the first fold is the end of each user's history instead.
    seed : int

    Returns
    -------
    list of Fold
        As many as `n_folds` says, each with somebody to judge by.

    Raises
    ------
    NotEnoughDataError
        No user has two items.
    """
    least = _least(log)
    folds = []
    powers = _LEANINGS[drift]
    for number in range(n_folds(len(log.users), drift)):
        power = powers[number % len(powers)]
        if number == 0 and evaluation.is_timed(log):
            split = evaluation.split_user_time(log, share=SHARE, seed=seed, least=least)
        else:
            split = evaluation.split_random(
                log, share=SHARE, seed=seed + number, popularity_power=power, least=least
            )
        folds.append(Fold(split, kind=f"{split.kind} {number + 1}", seed=seed + number))
        if not len(_judged(split)):
            raise NotEnoughDataError(
                "Settings cannot be judged: no user has interactions with two items, of which one "
                "could be held out. Send more interactions, or retrain without tuning."
            )
    return folds


def n_folds(n_users: int, drift: Drift = "none") -> int:
    """Return how many folds data of so many users are cut into: more where these are few."""
    least, most = _FOLDS
    if len(_LEANINGS[drift]) > 1:
        return len(_LEANINGS[drift])
    return min(most, max(least, -(-_JUDGED // max(1, n_users))))


def newest(log: InteractionLog, *, seed: int = 0) -> Fold | None:
    """Ask for what came last, each from the history just before it.

    Returns
    -------
    Fold or None
        Of kind ``next``. None where times do not tell an order, or nobody
        could be judged by.
    """
    if not evaluation.is_timed(log):
        return None
    try:
        split = evaluation.split_next(log, share=_NEWEST, seed=seed, max_users=_NEWEST_USERS)
    except NotEnoughDataError:
        return None
    return Fold(split, kind="next", seed=seed) if len(_judged(split)) else None


def sampled(log: InteractionLog, *, seed: int) -> InteractionLog:
    """Return a log in canonical order; of a large one the interactions of users drawn by chance."""
    # By what there is to learn alone: what is held out elsewhere must not steer the draws.
    log, _ = evaluation.canonical(log)
    if len(log) <= _MOST_PAIRS:
        return log
    n_users = max(_LEAST_USERS, int(len(log.users) * _MOST_PAIRS / len(log)))
    if n_users >= len(log.users):
        return log
    users = np.sort(np.random.default_rng(seed).choice(len(log.users), n_users, replace=False))
    is_drawn = np.zeros(len(log.users), dtype=bool)
    is_drawn[users] = True
    new_index = np.cumsum(is_drawn, dtype=np.int32) - 1
    part = log.part(is_drawn[log.user_index])
    return dataclasses.replace(
        part,
        users=IdIndex([log.users.ids[place] for place in users.tolist()]),
        user_index=new_index[part.user_index],
    )


def _least(log: InteractionLog) -> int:
    weights = log.matrix().weights
    n_pairs = np.bincount(
        np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr)), weights=weights.data > 0
    )
    several = np.count_nonzero(n_pairs >= 2)
    for least in _WHOLE:
        if 2 * np.count_nonzero(n_pairs >= least) >= several:
            return least
    return 2


def _judged(split: Split) -> np.ndarray:
    return np.unique(split.user_index[_can_be_judged(split)])


def _can_be_judged(split: Split) -> np.ndarray:
    """Say which questions have something to be scored from, and something to find."""
    histories = split.histories.weights
    rows = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    n_positive = np.bincount(rows, weights=histories.data > 0, minlength=histories.shape[0])
    can: np.ndarray = (n_positive > 0) & (np.diff(split.held_out.indptr) > 0)
    return can

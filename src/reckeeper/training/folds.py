"""How training data are cut again, to judge settings by what each cut holds out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse

from reckeeper import evaluation, linalg
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import Split
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.ranking import Lists, Ranker, rank_scores
from reckeeper.recipes import Scorer
from reckeeper.wire import Drift

K = 20
"""Length of the lists that candidates are judged by, as NDCG@K."""

SHARE = 0.1
"""Share of each user's items that is held out: little, since what fits a thinner matrix is not
what fits the whole."""

_DRAWN: dict[Drift, float] = {"none": 0.0, "mild": 0.3, "strong": 0.0}
"""The power of popularity by which the pairs of folds are drawn."""

STRONG = {"as drawn": 0.0, "leaning 0.3": 0.3, "leaning 0.6": 0.6}
"""Powers of popularity by which pairs that are held out count where drift is strong. Pairs drawn so
would be missing from training: popular items would seem less popular than they are, and a model
that favours them too much would be right."""

_FOLDS: dict[Drift, tuple[int, int]] = {"none": (3, 6), "mild": (3, 6), "strong": (2, 6)}
_JUDGED = 6000
"""How many folds there are: as many as have so many users to judge by, within limits. Leanings
share what a fold costs, and need more users of each."""

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
    """Users of a fold, on whom settings are judged; see `recipes.Judge`.

    Parameters
    ----------
    split : Split
    users : ndarray of int
    leanings : tuple of float
        Powers of popularity. With some, NDCG has a row for each, and counts
        what is found as often as it would be asked for if each user's next
        choices leaned so: by the item's popularity to the power, in units of
        its mean over the user's items.
    """

    def __init__(
        self, split: Split, users: np.ndarray, *, leanings: tuple[float, ...] = ()
    ) -> None:
        self._train = split.train
        questions = np.flatnonzero(_can_be_judged(split) & np.isin(split.user_index, users))
        _, self._user_of = np.unique(split.user_index[questions], return_inverse=True)
        self._held_out = split.held_out[questions]
        self.histories = split.histories[questions]
        popularity = split.train.popularity + np.bincount(
            split.held_out.indices, minlength=split.held_out.shape[1]
        )
        self._worth = [np.maximum(popularity, 1.0) ** power for power in leanings]

    def ndcg(self, model: Scorer) -> np.ndarray:
        """Return a model's NDCG@20 by user."""
        ranker = Ranker.of(model, self._train)
        return self._by_user(ranker.in_blocks(self.histories, np.arange(len(self.histories)), k=K))

    def ndcg_of_scores(self, scores: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Return that of a personal model's scores, asked for a block of histories at a time."""
        popularity = self._train.popularity
        unlisted = self.histories.weights

        def lists() -> Iterator[tuple[slice, Lists]]:
            for block in linalg.row_blocks(*unlisted.shape, limit_bytes=_BLOCK_BYTES):
                yield block, rank_scores(scores(block), unlisted[block], k=K, popularity=popularity)

        return self._by_user(lists())

    def _by_user(self, blocks: Iterable[tuple[slice, Lists]]) -> np.ndarray:
        worth: Sequence[np.ndarray | None] = self._worth or [None]
        by_question = np.empty((len(worth), len(self.histories)))
        for block, lists in blocks:
            held_out = self._held_out[block]
            for of_items, values in zip(worth, by_question, strict=True):
                values[block] = evaluation.ndcg(lists, held_out=held_out, item_worth=of_items)
        if not self._worth:
            return self._means(by_question[0])
        pairs = _liked(self.histories.weights) + self._held_out
        n_pairs = np.asarray(pairs.sum(axis=1)).ravel()
        means = [pairs @ of_items / n_pairs for of_items in self._worth]
        return np.array([self._means(values) for values in by_question / means])

    def _means(self, by_question: np.ndarray) -> np.ndarray:
        return np.bincount(self._user_of, weights=by_question) / np.bincount(self._user_of)


class Fold:
    """A cut as a recipe's plan takes it; see `recipes.TuningSplit`."""

    def __init__(
        self, split: Split, *, kind: str, seed: int, leanings: tuple[float, ...] = ()
    ) -> None:
        self.kind = kind
        self.train = split.train
        self.split = split
        self._seed = seed
        self._leanings = leanings

    def judge(self, *, n_users: int = 3000) -> Judge:
        """Choose at most so many users to judge by."""
        users = _judged(self.split)
        if len(users) > n_users:
            random = np.random.default_rng(self._seed)
            users = np.sort(random.choice(users, n_users, replace=False))
        return Judge(self.split, users, leanings=self._leanings)


def draw(log: InteractionLog, *, drift: Drift, seed: int) -> list[Fold]:
    """Hold out a tenth of each user's pairs, several times.

    Parameters
    ----------
    log : InteractionLog
        In canonical order, so that neither ids nor the order of rows matter.
    drift : Drift
        ``none``: pairs are drawn by chance. ``mild``: popular ones more often.
        ``strong``: by chance, and each fold judges by each of `STRONG`. Where
        times tell, the first fold is the end of each user's history instead.
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
    leanings = tuple(STRONG.values()) if drift == "strong" else ()
    for number in range(n_folds(len(log.users), drift)):
        if number == 0 and evaluation.is_timed(log):
            split = evaluation.split_user_time(log, share=SHARE, seed=seed, least=least)
        else:
            split = evaluation.split_random(
                log,
                share=SHARE,
                seed=seed + number,
                popularity_power=_DRAWN[drift],
                least=least,
            )
        kind = f"{split.kind} {number + 1}"
        folds.append(Fold(split, kind=kind, seed=seed + number, leanings=leanings))
        if not len(_judged(split)):
            raise NotEnoughDataError(
                "Settings cannot be judged: no user has interactions with two items, of which one "
                "could be held out. Send more interactions, or retrain without tuning."
            )
    return folds


def n_folds(n_users: int, drift: Drift = "none") -> int:
    """Return how many folds data of so many users are cut into: more where these are few."""
    least, most = _FOLDS[drift]
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


def _liked(weights: sparse.csr_array) -> sparse.csr_array:
    liked = weights.copy()
    liked.data = (liked.data > 0).astype(np.float64)
    return liked


def _judged(split: Split) -> np.ndarray:
    return np.unique(split.user_index[_can_be_judged(split)])


def _can_be_judged(split: Split) -> np.ndarray:
    """Say which questions have something to be scored from, and something to find."""
    histories = split.histories.weights
    rows = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    n_positive = np.bincount(rows, weights=histories.data > 0, minlength=histories.shape[0])
    can: np.ndarray = (n_positive > 0) & (np.diff(split.held_out.indptr) > 0)
    return can

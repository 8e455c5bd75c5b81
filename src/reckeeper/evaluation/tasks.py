"""What a recipe is asked: to find what users did next, in another table or in what was held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from reckeeper.errors import Action, NotEnoughDataError
from reckeeper.evaluation.confidence import generator
from reckeeper.evaluation.metrics import Quality, measure
from reckeeper.evaluation.splits import Split
from reckeeper.matrix import Histories, IdIndex, InteractionLog, InteractionMatrix
from reckeeper.ranking import Ranker
from reckeeper.recipes import Scorer

_FEW = 0.05
"""Share of users of whom something may be earlier without a word."""


@dataclass(frozen=True)
class Task:
    """What a recipe learns from, and what it is asked.

    Attributes
    ----------
    train : InteractionMatrix
    log : InteractionLog
        The same interactions one by one, for tuning.
    histories : Histories
        A row for each question, none of them empty.
    held_out : scipy.sparse.csr_array, shape (n, n_items)
        Ones: the items to be found that training knows.
    n_unseen : ndarray of int, shape (n,)
        Number of the items to be found that training does not know.
    has_early : ndarray of bool, shape (n,), or None
        Of whom something is to be found that is earlier than the newest of the
        history; None where a file has no times, and of a split.
    question_user : ndarray of int, shape (n,)
        Whose each question is.
    split : Split or None
        How the interactions were split; None where the test was given.
    n_test_users_unseen : int
        Users with something to be found whom training never saw.
    n_test_users_left_out : int
        Users with something to be found, or of the test file, who are not
        among those asked for.
    n_test_items_unseen : int
        Items to be found that training never saw.
    n_test_pairs_in_train : int
        Pairs of the test file that the user's row has already.
    """

    train: InteractionMatrix
    log: InteractionLog
    histories: Histories
    held_out: sparse.csr_array
    n_unseen: np.ndarray
    has_early: np.ndarray | None
    question_user: np.ndarray
    split: Split | None
    n_test_users_unseen: int
    n_test_users_left_out: int
    n_test_items_unseen: int
    n_test_pairs_in_train: int

    def counts(self) -> dict[str, int | str | None]:
        """Return the sizes, as JSON values."""
        return {
            "split": None if self.split is None else self.split.kind,
            "n_users": int(np.count_nonzero(np.diff(self.train.weights.indptr))),
            "n_items": len(np.unique(self.train.weights.indices)),
            "n_interactions": self.train.n_interactions,
            "n_test_users": len(np.unique(self.question_user)),
            "n_test_users_unseen": self.n_test_users_unseen,
            "n_test_users_left_out": self.n_test_users_left_out,
            "n_test_items_unseen": self.n_test_items_unseen,
            "n_test_pairs_in_train": self.n_test_pairs_in_train,
        }

    def drawn(self, n_users: int, *, seed: int) -> "Task":
        """Return the questions of so many users at most, drawn at random by seed."""
        users = np.unique(self.question_user)
        if len(users) <= n_users:
            return self
        chosen = generator(seed).choice(users, n_users, replace=False)
        asked = np.flatnonzero(np.isin(self.question_user, chosen))
        return replace(
            self,
            histories=self.histories[asked],
            held_out=self.held_out[asked],
            n_unseen=self.n_unseen[asked],
            has_early=None if self.has_early is None else self.has_early[asked],
            question_user=self.question_user[asked],
        )

    def lateness(self, ordered: Sequence[str]) -> str:
        """Say where what is to be found is not later than the histories, though order counts.

        Parameters
        ----------
        ordered : sequence of str
            Names of the models that go by the order of a history.

        Returns
        -------
        str
            The end of a sentence; empty where there is nothing to say, as of a
            split, which says itself how it was made.
        """
        if not ordered or self.split is not None:
            return ""
        if self.has_early is None:
            what = "whether that is later than the histories cannot be told without times"
        elif (n_early := np.count_nonzero(self.has_early)) > _FEW * len(self.has_early):
            of = f"{n_early:,} of {len(self.has_early):,} users"
            what = f"for {of} some of that is earlier than the newest of the history"
        else:
            return ""
        knows = "knows" if len(ordered) == 1 else "know"
        who = " and ".join(ordered)
        return f"; {what}, and what {who} {knows} of order is about what comes next"

    def measure(
        self,
        model: Scorer,
        *,
        k: int | Sequence[int],
        on_progress: Callable[[float], None] | None = None,
    ) -> Quality:
        """Measure a model on all that is to be found, items that training never saw too.

        These cannot be found, and count as relevant: recall and the others
        are shares of all that users did. See `evaluation.measure`.
        """
        return measure(
            Ranker.of(model, self.train, repeats=self.split is not None and self.split.repeats),
            histories=self.histories,
            held_out=self.held_out,
            question_user=self.question_user,
            n_unfindable=self.n_unseen,
            popularity=self.train.popularity,
            n_users=self.train.weights.shape[0],
            k=k,
            on_progress=on_progress,
        )


def of_logs(
    train: InteractionLog, test: InteractionLog, history: InteractionLog | None = None
) -> Task:
    """Ask for what users did in `test`, of a recipe that learned from `train`.

    Without a history, the users of `test` whom `train` knows are asked for,
    each from the own row in `train`. With one, those of `test` whom `history`
    has: their row is what they did in it, added to what `train` has of them.
    In either case an item of the row is neither recommended nor relevant.

    Parameters
    ----------
    train, test, history : InteractionLog
        Their ids may differ. In `test` the pairs that weigh more than 0
        count, however much; items of `history` that `train` does not know are
        left out.

    Raises
    ------
    NotEnoughDataError
        There is nobody to ask for.
    """
    learned = train.matrix()
    user_of, item_of = test.users.places_in(train.users), test.items.places_in(train.items)
    n_users = len(test.users)
    known, is_asked = [learned], user_of >= 0
    if history is not None:
        known.append(history.matrix())
        is_asked = test.users.places_in(history.users) >= 0
    histories = _histories(*known, users=test.users)

    asked = test.matrix()
    pairs = asked.weights.tocoo()
    row, column = pairs.row.astype(np.int64), item_of[pairs.col]
    is_had = (pairs.data > 0) & (column >= 0)
    is_had[is_had] = _are_stored(histories.weights, row[is_had], column[is_had])
    wanted = (pairs.data > 0) & ~is_had
    n_unseen = np.bincount(row[wanted & (column < 0)], minlength=n_users)
    found = wanted & (column >= 0)
    held_out = _ones(row[found], column[found], shape=histories.weights.shape)
    is_early = _are_early(asked, *known)

    is_asked &= histories.lengths > 0
    is_asked &= np.diff(held_out.indptr) + n_unseen > 0
    n_users_unseen = int(np.count_nonzero(user_of < 0))
    if not is_asked.any():
        raise _nobody(n_users, n_known=n_users - n_users_unseen, has_history=history is not None)
    return Task(
        train=learned,
        log=train,
        histories=histories[is_asked],
        held_out=held_out[is_asked],
        n_unseen=n_unseen[is_asked],
        has_early=None
        if is_early is None
        else np.bincount(row[wanted & is_early], minlength=n_users)[is_asked] > 0,
        question_user=np.flatnonzero(is_asked),
        split=None,
        n_test_users_unseen=n_users_unseen,
        n_test_users_left_out=int(np.count_nonzero(~is_asked)),
        n_test_items_unseen=int(np.count_nonzero(item_of < 0)),
        n_test_pairs_in_train=int(np.count_nonzero(is_had)),
    )


def of_split(log: InteractionLog, split: Split) -> Task:
    """Ask for what a split of `log` holds out, of users and items of the log.

    Raises
    ------
    NotEnoughDataError
        Nothing is held out of any user who is in the training part.
    """
    known = split.train.weights
    wants = np.diff(split.held_out.indptr) > 0
    is_asked = wants & (split.histories.lengths > 0)
    if not is_asked.any():
        raise NotEnoughDataError(
            f"There is no user to judge: split by {split.kind}, the interactions hold out nothing "
            "of any user who has a history by then. Send more interactions, or split them another "
            "way."
        )
    wanted_items = np.unique(split.held_out.indices)
    is_new = np.diff(known.indptr) == 0
    asked_users = np.unique(split.user_index[wants])
    n_judged = len(split.judged)
    return Task(
        train=split.train,
        log=log.part(split.keep),
        histories=split.histories[is_asked],
        held_out=split.held_out[is_asked],
        n_unseen=np.zeros(np.count_nonzero(is_asked), dtype=np.int64),
        has_early=None,
        question_user=split.user_index[is_asked],
        split=split,
        n_test_users_unseen=int(np.count_nonzero(is_new[asked_users])),
        n_test_users_left_out=len(asked_users) - n_judged,
        n_test_items_unseen=int(np.count_nonzero(~np.isin(wanted_items, known.indices))),
        n_test_pairs_in_train=0,
    )


def _histories(*known: InteractionMatrix, users: IdIndex) -> Histories:
    """Add what matrices have of some users, in the items of the first."""
    first, *others = (one.items for one in known)
    new = [np.array(one.ids, dtype=object)[one.places_in(first) < 0] for one in others]
    items = IdIndex([*first.ids, *np.unique(np.concatenate([[], *new])).tolist()])
    parts, times = [], []
    for one in known:
        row_of = users.places_in(one.users)
        asked = np.flatnonzero(row_of >= 0)
        weights = one.weights[row_of[asked]]
        row = np.repeat(asked, np.diff(weights.indptr))
        parts.append((row, one.items.places_in(items)[weights.indices], weights.data))
        if (latest_at := one.latest_of(row_of[asked])) is not None:
            times.append(latest_at)
    row, column, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    is_start = np.ones(len(order), dtype=bool)
    is_start[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    starts = np.flatnonzero(is_start)
    summed = np.add.reduceat(weight[order], starts)
    latest_at = None
    if len(times) == len(known):
        latest_at = np.maximum.reduceat(np.concatenate(times)[order], starts)
    indptr = np.searchsorted(row[starts], np.arange(len(users) + 1))
    weights = sparse.csr_array((summed, column[starts], indptr), shape=(len(users), len(items)))
    places = np.arange(len(items))
    places[len(first) :] = -1
    return Histories.of_times(weights, latest_at).renamed(places, n_items=len(first))


def _nobody(n_users: int, *, n_known: int, has_history: bool) -> NotEnoughDataError:
    advice = "" if has_history else ", or give what new users did before as their history"
    return NotEnoughDataError(
        f"There is no user to judge: the test file has {n_users} user(s), training knows "
        f"{n_known} of them, and none has both something to start from and something new to find. "
        f"Check that the files have the same kind of ids{advice}.",
        action=None if has_history else Action("give_history"),
    )


def _are_early(asked: InteractionMatrix, *known: InteractionMatrix) -> np.ndarray | None:
    """Say which pairs are earlier than the newest that the same user is known to like."""
    newest = np.full(len(asked.users), np.iinfo(np.int64).min)
    for one in known:
        if one.latest_at is None:
            return None
        row = np.repeat(one.users.places_in(asked.users), np.diff(one.weights.indptr))
        has_taste = (row >= 0) & (one.weights.data > 0)
        np.maximum.at(newest, row[has_taste], one.latest_at[has_taste])
    if asked.latest_at is None:
        return None
    is_early: np.ndarray = asked.latest_at < np.repeat(newest, np.diff(asked.weights.indptr))
    return is_early


def _are_stored(matrix: sparse.csr_array, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return which places have an entry, zeros too; columns ascend in the matrix's rows."""
    n_rows, n_columns = matrix.shape
    row_of = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(matrix.indptr))
    stored = row_of * n_columns + matrix.indices
    wanted = row * n_columns + column
    # The -1, past the end, is where what is larger than all is looked for.
    found = np.append(stored, -1)[np.searchsorted(stored, wanted)]
    are_stored: np.ndarray = found == wanted
    return are_stored


def _ones(row: np.ndarray, column: np.ndarray, *, shape: tuple[int, int]) -> sparse.csr_array:
    values = np.ones(len(row), dtype=np.float32)
    return sparse.coo_array((values, (row, column)), shape=shape).tocsr()

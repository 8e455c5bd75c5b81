"""What users have done so far: in memory where all of it is there, else from the database."""

import bisect
from collections.abc import Sequence

import numpy as np

from reckeeper import snapshot, storage
from reckeeper.serving.answers import LoadedModel
from reckeeper.serving.histories import Group, Past
from reckeeper.serving.newer import Newer


class Pasts:
    """Finds the histories of users for a version.

    Parameters
    ----------
    database : storage.Database
    newer : Newer or None
        Knows who has interactions that are newer than the snapshot; None: the database is asked
        each time.
    """

    def __init__(self, database: storage.Database, newer: Newer | None) -> None:
        self._database = database
        self._newer = newer

    def of(self, loaded: LoadedModel, user_id: str) -> tuple[Past, bool]:
        """Return a history, and whether it has what is newer than the model.

        Raises
        ------
        StorageError
            The database must be asked, and does not answer.
        """
        found = self.at_hand(loaded, user_id)
        return self._asked_for(loaded, [user_id])[user_id] if found is None else found

    def of_each(self, loaded: LoadedModel, user_ids: Sequence[str]) -> tuple[Group, list[bool]]:
        """Return the same of several users, with one read of the database.

        Histories that are in memory are made together.
        """
        plain = {each: False for each in user_ids if self._is_as_trained(loaded, each)}
        groups = [loaded.histories.of_many(list(plain))] if plain else []
        others = [user_id for user_id in user_ids if user_id not in plain]
        found = {each: past for each in others if (past := self.at_hand(loaded, each))}
        missing = [user_id for user_id in others if user_id not in found]
        if missing:
            found |= self._asked_for(loaded, missing)
        have_newer = plain | {user_id: is_newer for user_id, (_, is_newer) in found.items()}
        groups += [past.group for past, _ in found.values()]
        row_of = {user_id: row for row, user_id in enumerate(have_newer)}
        rows = np.array([row_of[user_id] for user_id in user_ids])
        stacked = Group.stacked(groups, n_items=len(loaded.items))
        return stacked[rows], [have_newer[user_id] for user_id in user_ids]

    def at_hand(self, loaded: LoadedModel, user_id: str) -> tuple[Past, bool] | None:
        """Return the same from memory; None where the database must be asked."""
        model = loaded.model
        last = self._last_at_hand(loaded, user_id)
        if last is None:
            return None
        past = loaded.histories.in_snapshot(user_id)
        has_newer = last > model.watermark and past.is_later_than(model.seen_until)
        return past, has_newer or loaded.histories.is_left_out(user_id)

    def _is_as_trained(self, loaded: LoadedModel, user_id: str) -> bool:
        """Say whether all that a user has done is in the snapshot, and nothing newer than it."""
        last = self._last_at_hand(loaded, user_id)
        is_known = last is not None and last <= loaded.model.watermark
        return is_known and not loaded.histories.is_left_out(user_id)

    def _last_at_hand(self, loaded: LoadedModel, user_id: str) -> int | None:
        """Return the number of a user's last interaction above the model's watermark, 0 for none.

        None where not all that the user has done is in the snapshot.
        """
        model, origin = loaded.model, loaded.histories.origin
        if origin is None or self._newer is None:
            return None
        last = self._newer.last_of(
            user_id,
            generation=origin.generation,
            watermark=min(model.watermark, origin.watermark),
        )
        return None if last is None or last > origin.watermark else last

    def _asked_for(
        self, loaded: LoadedModel, user_ids: Sequence[str]
    ) -> dict[str, tuple[Past, bool]]:
        """Return the same from the database, in one read."""
        model, histories = loaded.model, loaded.histories
        origin = histories.origin
        watermark = 0 if origin is None else origin.watermark
        in_snapshot: list[str] = []
        if origin is not None:
            in_snapshot = [each for each in user_ids if self._is_as_in_snapshot(each, origin)]
        whole = [*set(user_ids).difference(in_snapshot)]
        with self._database.read() as connection:
            later = storage.interactions.of_users(
                connection, in_snapshot, after=min(watermark, model.watermark)
            )
            found = storage.interactions.of_users(connection, whole) | later
            trained_at = model.artifact.metadata.trained_at
            accounts = storage.merges.accounts_since(connection, user_ids, trained_at)
        answers = {}
        for user_id, (numbers, interactions) in found.items():
            if user_id in later:
                newer = interactions.slice(bisect.bisect_right(numbers, watermark))
                past = histories.in_snapshot(user_id, newer=newer)
            else:
                past = histories.of_interactions(interactions)
            is_newer = np.array(numbers, dtype=np.int64) > model.watermark
            if model.seen_until is not None:
                is_newer &= interactions.column("occurred_at").to_numpy() > model.seen_until
            has_newer = bool(is_newer.any()) or user_id in accounts
            answers[user_id] = past, has_newer or histories.is_left_out(user_id)
        return answers

    def _is_as_in_snapshot(self, user_id: str, origin: snapshot.Origin) -> bool:
        """Say whether up to its watermark the table has of a user what the snapshot has."""
        return self._newer is not None and (
            self._newer.last_of(user_id, generation=origin.generation, watermark=origin.watermark)
            is not None
        )

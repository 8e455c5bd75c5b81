"""What users have done so far: in memory where all of it is there, else from the database."""

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
        if found is not None:
            return found
        with self._database.read() as connection:
            return self._asked_for(connection, loaded, user_id)

    def of_each(self, loaded: LoadedModel, user_ids: Sequence[str]) -> tuple[Group, list[bool]]:
        """Return the same of several users, with one read of the database.

        Histories that are in memory are made together.
        """
        plain = {each: False for each in user_ids if self._is_as_trained(loaded, each)}
        groups = [loaded.histories.of_many(list(plain))] if plain else []
        found = {each: self.at_hand(loaded, each) for each in user_ids if each not in plain}
        if None in found.values():
            with self._database.read() as connection:
                for user_id, one in found.items():
                    if one is None:
                        found[user_id] = self._asked_for(connection, loaded, user_id)
        have_newer = plain
        for user_id, one in found.items():
            assert one is not None
            groups.append(one[0].group)
            have_newer[user_id] = one[1]
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
        self, connection: storage.Connection, loaded: LoadedModel, user_id: str
    ) -> tuple[Past, bool]:
        """Return the same from the database."""
        model, histories = loaded.model, loaded.histories
        has_newer = (
            histories.is_left_out(user_id)
            or storage.interactions.has_later(
                connection, user_id, after=model.watermark, later_than=model.seen_until
            )
            or storage.merges.has_since(connection, user_id, model.artifact.metadata.trained_at)
        )
        origin = histories.origin
        if origin is None or not self._is_as_in_snapshot(user_id, origin):
            return histories.in_table(connection, user_id), has_newer
        newer = storage.interactions.of_user(connection, user_id, after=origin.watermark)
        return histories.in_snapshot(user_id, newer=newer), has_newer

    def _is_as_in_snapshot(self, user_id: str, origin: snapshot.Origin) -> bool:
        """Say whether up to its watermark the table has of a user what the snapshot has."""
        return self._newer is not None and (
            self._newer.last_of(user_id, generation=origin.generation, watermark=origin.watermark)
            is not None
        )

# Made of async_users.py by `python -m client.generate`: change that one.
"""The calls about users: what they do, and what they get."""

import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Unpack

from .. import wire
from .parts import ListRules, in_body, in_query, plain, segment

if TYPE_CHECKING:  # it brings httpx
    from .connection import Connection


class UserCalls:
    """What a client says of users, and asks for them."""

    _server: "Connection"

    def send(
        self,
        interactions: Iterable[wire.Interaction | Mapping[str, object]],
        *,
        on_error: Literal["refuse", "skip"] = "refuse",
    ) -> wire.SendAnswer:
        """Store up to 10,000 interactions.

        One without an ``event_id`` gets one here, so that a repeated try
        stores nothing twice.

        Parameters
        ----------
        interactions : iterable of Interaction or mapping
            A mapping has the fields of `wire.Interaction`; the server checks both.
        on_error : str
            ``refuse``: a bad row raises `DataError` and nothing is stored.
            ``skip``: good rows are stored, the answer lists the others.
        """
        rows = [plain(each) for each in interactions]
        for row in rows:
            if row.get("event_id") is None:
                row["event_id"] = str(uuid.uuid4())
        params = {"on_error": on_error}
        return self._server.call(
            wire.SendAnswer, "POST", "/user_interactions", params=params, json=rows, repeat=True
        )

    def interactions(self, user_id: str, *, n: int = 20) -> list[wire.StoredInteraction]:
        """List a user's latest interactions."""
        path = f"/user_interactions/{segment(user_id)}"
        return self._server.get(wire.InteractionList, path, params={"n": n}).interactions

    def watchlist(self, user_id: str) -> list[wire.WatchlistItem]:
        """List a user's watchlist, the latest addition first."""
        return self._server.get(wire.Watchlist, f"/watchlist/{segment(user_id)}").items

    def add_to_watchlist(self, user_id: str, item_id: str) -> wire.SendAnswer:
        """Put an item on a user's watchlist; nothing changes if it is there."""
        path = f"/watchlist/{segment(user_id)}/{segment(item_id)}"
        return self._server.call(wire.SendAnswer, "POST", path, repeat=True)

    def remove_from_watchlist(self, user_id: str, item_id: str) -> wire.SendAnswer:
        """Take an item off a user's watchlist; nothing changes if it is not there."""
        path = f"/watchlist/{segment(user_id)}/{segment(item_id)}"
        return self._server.call(wire.SendAnswer, "DELETE", path, repeat=True)

    def dismiss(self, user_id: str, item_id: str) -> wire.SendAnswer:
        """Say that a user is not interested in an item: it is not recommended to them any more.

        What they did with it before weighs nothing, until `undo_dismiss`; what
        they do later counts.
        """
        return self._send_one(user_id, item_id, "dismiss")

    def undo_dismiss(self, user_id: str, item_id: str) -> wire.SendAnswer:
        """Take back what `dismiss` said, as if it had never been said."""
        return self._send_one(user_id, item_id, "dismiss_undo")

    def _send_one(self, user_id: str, item_id: str, interaction_type: str) -> wire.SendAnswer:
        row = {"user_id": user_id, "item_id": item_id, "interaction_type": interaction_type}
        return self.send([row])

    def recommendations(
        self, user_id: str, *, n: int = 10, **rules: Unpack[ListRules]
    ) -> wire.RecommendationList:
        """Recommend up to `n` items that the user has not seen.

        Parameters
        ----------
        user_id : str
        n : int
            Length of the list, 1 to 1,000.
        **rules
            What else is asked of it: see `ListRules`.
        """
        path = f"/recommendations/{segment(user_id)}"
        return self._server.get(wire.RecommendationList, path, params=in_query(n, rules))

    def recommend_from(
        self,
        history: Iterable[str | int | wire.HistoryItem | Mapping[str, object]],
        *,
        n: int = 10,
        **rules: Unpack[ListRules],
    ) -> wire.HistoryRecommendations:
        """Recommend up to `n` items to somebody with this history; nothing is stored.

        Parameters
        ----------
        history : iterable
            Ids of items, the oldest first; or items with their times, as
            `wire.HistoryItem` or a mapping with its fields, in any order.
        n, **rules
            As of `recommendations`.
        """
        told = [each if isinstance(each, str | int) else plain(each) for each in history]
        body = {"history": told, **in_body(n, rules)}
        return self._server.call(
            wire.HistoryRecommendations, "POST", "/recommendations", json=body, repeat=True
        )

    def recommend_to(
        self, user_ids: Iterable[str | int], *, n: int = 10, **rules: Unpack[ListRules]
    ) -> wire.BatchRecommendations:
        """Recommend up to `n` items to each of up to 1,000 users, by one version.

        Parameters
        ----------
        user_ids : iterable of str
            Each of them once; known or not.
        n, **rules
            As of `recommendations`.
        """
        body = {"user_ids": list(user_ids), **in_body(n, rules)}
        return self._server.call(
            wire.BatchRecommendations, "POST", "/recommendations/batch", json=body, repeat=True
        )

    def merge(self, user_id: str, visitor_id: str) -> wire.Merge:
        """Give a visitor's interactions and watchlist to an account, as after a login.

        Whatever comes under the visitor's id from then on is the account's
        too. Asked again it changes nothing; it cannot be taken back.
        """
        path = f"/users/{segment(user_id)}/merge"
        body = {"from": visitor_id}
        return self._server.call(wire.Merge, "POST", path, json=body, repeat=True)

    def erase(self, user_id: str, *, reason: str | None = None) -> wire.Erasure:
        """Erase a person, known or not, for good; return the receipt.

        What occurred before now is not taken again; what they do later is.
        """
        path = f"/users/{segment(user_id)}"
        params = None if reason is None else {"reason": reason}
        answer = self._server.call(wire.ErasureAnswer, "DELETE", path, params=params)
        return answer.erasure

    def export_user(self, user_id: str) -> wire.PersonalData:
        """Return all that is kept of a person."""
        return self._server.get(wire.PersonalData, f"/users/{segment(user_id)}/export")

    def erasure(self, erasure_id: int) -> wire.Erasure:
        """Return the receipt of an erasure, as far as it has come."""
        return self._server.get(wire.ErasureAnswer, f"/erasures/{erasure_id}").erasure

    def erasures(self, *, limit: int = 50, before: int | None = None) -> list[wire.Erasure]:
        """List the receipts of erasures, the latest first, with numbers below `before`."""
        params = {"limit": limit} | ({} if before is None else {"before": before})
        return self._server.get(wire.ErasurePage, "/erasures", params=params).erasures

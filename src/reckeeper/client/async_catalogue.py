# After a change, `python -m client.generate` makes catalogue.py of this.
"""The calls of the catalogue."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Unpack

from .. import wire
from .parts import ItemRules, given, in_body, in_query, plain, segment

if TYPE_CHECKING:  # it brings httpx
    from .async_connection import AsyncConnection


class AsyncCatalogueCalls:
    """What a client asks and says of items."""

    _server: "AsyncConnection"

    async def items(
        self,
        q: str | None = None,
        *,
        available: bool | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> wire.ItemPage:
        """List the items of the catalogue by id.

        Parameters
        ----------
        q : str, optional
            What title or id have in them, in whatever case.
        available : bool, optional
            Those alone that may be in a list now, or may not.
        limit : int
            How many at most, 1 to 1,000.
        after : str, optional
            Ids behind this one: `next` of the page before.
        """
        only = None if available is None else str(available).lower()
        params: dict[str, str | int] = given(q=q, available=only, limit=limit, after=after)
        return await self._server.get(wire.ItemPage, "/items", params=params)

    async def item(self, item_id: str) -> wire.Item:
        """Describe an item that the catalogue or an interaction knows."""
        return (await self._server.get(wire.ItemAnswer, f"/items/{segment(item_id)}")).item

    async def put_item(
        self, item_id: str, content: wire.ItemContent | Mapping[str, object]
    ) -> wire.Item:
        """Say all of an item, known or not: what is left out has its default.

        Parameters
        ----------
        item_id : str
        content : ItemContent or mapping
            A mapping has its fields; the server checks both.
        """
        return await self._say("PUT", item_id, content)

    async def patch_item(
        self, item_id: str, content: wire.ItemContent | Mapping[str, object]
    ) -> wire.Item:
        """Change some fields of an item: what is left out stays, None takes away what is there.

        Parameters
        ----------
        item_id : str
        content : ItemContent or mapping
            Of the attributes, those that are given are changed.
        """
        return await self._say("PATCH", item_id, content)

    async def withdraw(self, item_id: str) -> wire.Item:
        """Keep an item out of all lists, until `restore`."""
        return await self.patch_item(item_id, {"available": False})

    async def restore(self, item_id: str) -> wire.Item:
        """Let an item into lists again that was withdrawn."""
        return await self.patch_item(item_id, {"available": True})

    async def store_items(
        self, items: Iterable[wire.ItemRow | Mapping[str, object]]
    ) -> wire.ItemsStored:
        """Add or change up to 10,000 items: all of them, or none.

        Parameters
        ----------
        items : iterable of ItemRow or mapping
            A field that is given takes the place of what is there, one that is
            left out stays as it is.
        """
        rows = [plain(each) for each in items]
        return await self._server.call(wire.ItemsStored, "POST", "/items", json=rows, repeat=True)

    async def delete_item(self, item_id: str) -> wire.ItemDeleted:
        """Take an item out of the catalogue; it stays in lists while interactions know it."""
        return await self._server.call(wire.ItemDeleted, "DELETE", f"/items/{segment(item_id)}")

    async def similar(
        self,
        item_id: str | int,
        *,
        kind: Literal["alike", "next"] = "alike",
        n: int = 10,
        **rules: Unpack[ItemRules],
    ) -> wire.SimilarItems:
        """Find what is like an item, or what people take after it.

        Parameters
        ----------
        item_id : str
        kind : str
            ``alike``: what goes together with it. ``next``: what people take
            after it; the answer's `kind` is ``alike`` where that is not known.
        n : int
            Length of the list, 1 to 1,000.
        **rules
            What is asked of its items: see `ItemRules`.
        """
        params = {"kind": kind, **in_query(n, rules)}
        path = f"/items/{segment(item_id)}/similar"
        return await self._server.get(wire.SimilarItems, path, params=params)

    async def similar_to(
        self,
        item_ids: Iterable[str | int],
        *,
        kind: Literal["alike", "next"] = "alike",
        n: int = 10,
        **rules: Unpack[ItemRules],
    ) -> wire.SimilarToSeveral:
        """Find what is like several items together, such as those of a basket.

        Parameters
        ----------
        item_ids : iterable of str
            Up to 100; those that nobody knows are passed over.
        kind, n, **rules
            As of `similar`.
        """
        body = {"item_ids": list(item_ids), "kind": kind, **in_body(n, rules)}
        return await self._server.call(
            wire.SimilarToSeveral, "POST", "/items/similar", json=body, repeat=True
        )

    async def _say(
        self, method: str, item_id: str, content: wire.ItemContent | Mapping[str, object]
    ) -> wire.Item:
        path, body = f"/items/{segment(item_id)}", plain(content)
        return (await self._server.call(wire.ItemAnswer, method, path, json=body, repeat=True)).item

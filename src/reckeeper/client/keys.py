# Made of async_keys.py by `python -m client.generate`: change that one.
"""API keys, and what a caller may do."""

from typing import TYPE_CHECKING

from .. import wire
from .parts import given, segment

if TYPE_CHECKING:  # it brings httpx
    from .connection import Connection


class KeyCalls:
    """What a client asks about keys."""

    _server: "Connection"

    def access(self) -> wire.Access:
        """Say whether the server wants a key, and what this client's allows."""
        return self._server.get(wire.Access, "/access")

    def api_keys(self) -> list[wire.Key]:
        """List all keys, those that were revoked or have expired too, the latest first."""
        return self._server.get(wire.KeyList, "/keys").keys

    def create_key(
        self,
        name: str,
        role: wire.Role,
        *,
        expires_at: str | None = None,
        rate_limit: int | None = None,
    ) -> wire.KeyMade:
        """Make a key; the answer's `secret` is the key itself, which nobody can tell again.

        Parameters
        ----------
        name : str
            Who or what uses it, for the trail: up to 64 letters, digits and ``. _ @ -``.
        role : str
            ``viewer``, ``ingest``, ``recommend``, ``operator`` or ``admin``.
        expires_at : str, optional
            RFC 3339, ``2026-01-31T12:00:00Z``. Default: it stays valid until it is revoked.
        rate_limit : int, optional
            How many requests a minute are answered.
        """
        body = given(name=name, role=role, expires_at=expires_at, rate_limit=rate_limit)
        return self._server.call(wire.KeyMade, "POST", "/keys", json=body)

    def revoke_key(self, key_id: str, *, reason: str | None = None) -> wire.Key:
        """Revoke a key for good, by its id or its name; it is refused from then on."""
        path, params = f"/keys/{segment(key_id)}", given(reason=reason)
        return self._server.call(wire.KeyAnswer, "DELETE", path, params=params, repeat=True).key

"""API keys, and what a caller may do."""

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from .forms import Answer, Done, Request, Time
from .versions import only_text, to_come

Role = Literal["viewer", "ingest", "recommend", "operator", "admin"]
"""What a key may do; the documentation of access has the table."""


class KeyRequest(Request):
    """A key that is to be made."""

    name: str = Field(
        min_length=1,
        max_length=64,
        description="Who or what uses it, as the audit trail names it: letters, digits and "
        "`. _ @ -`.",
        examples=["shop-backend"],
    )
    role: Role = Field(examples=["recommend"])
    expires_at: (
        Annotated[AwareDatetime, BeforeValidator(only_text), AfterValidator(to_come)] | None
    ) = Field(
        default=None, description="When it ceases to be valid.", examples=["2126-01-31T12:00:00Z"]
    )
    rate_limit: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = Field(
        default=None, description="Requests a minute that are answered.", examples=[6000]
    )


class Key(Answer):
    """What is known of a key; never the key itself.

    `last_used_at` is a minute late at most. A key that is not active opens nothing, and one that
    was revoked never will.
    """

    key_id: str
    name: str
    role: str
    state: Literal["active", "expired", "revoked"]
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    revoked_by: str | None
    last_used_at: Time | None
    rate_limit: int | None


class KeyList(Done):
    """All keys, revoked ones too, the latest first."""

    keys: list[Key]


class KeyMade(Done):
    """A key that was made just now, itself too: it is told this once."""

    key: Key
    secret: str = Field(repr=False, description="What to send: `Authorization: Bearer rk_…`.")


class KeyAnswer(Done):
    """One key."""

    key: Key


class Access(Done):
    """What the caller may do here.

    Attributes
    ----------
    needs_key : bool
        Whether a request needs a key.
    name, role : str or None
        Of the key that was sent; None without one.
    roles : list of str
        All that its role includes; every role where no key is needed.
    """

    needs_key: bool
    name: str | None
    role: Role | None
    roles: list[Role]

"""Access: who is looking, and the API keys, made and revoked by who may do that."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import access, shared

MADE = "key_made"
NAME, ROLE, DAYS, RATE = "key_name", "key_role", "key_days", "key_rate"
STATES = {"active": "🟢 Active", "expired": "🟠 Expired", "revoked": "⚪ Revoked"}
MAY: dict[wire.Role, str] = {
    "viewer": "reads everything; changes nothing",
    "ingest": "sends interactions and items; reads nothing",
    "recommend": "gets lists, and nothing else: safe in a backend",
    "operator": "reads, sends, imports, retrains, activates, rolls back, changes the policy",
    "admin": "everything: keys, backups, models from elsewhere, and what deletes for good",
}


def show_made() -> None:
    """Show a key that was made just now, this once."""
    made: wire.KeyMade | None = st.session_state.get(MADE)
    if made is None:
        return
    with st.container(border=True):
        st.markdown(
            f"The key of **{shared.escape(made.key.name)}** ({made.key.role}). Copy it now: "
            "nobody can show it again."
        )
        st.code(made.secret, language=None)
        if access.key() == made.secret:
            st.markdown("From now on every request needs a key. This page uses this one.")
        st.button("I have copied it", on_click=lambda: st.session_state.pop(MADE, None))


def ask_new(client: Client, *, is_first: bool) -> None:
    """Ask for what a new key is to be."""
    st.subheader("Make a key", anchor=False)
    if is_first:
        st.markdown(
            "No key is needed here so far. From the first one on **every request needs one**: it "
            "is an admin's, which makes the others."
        )
    roles: list[wire.Role] = ["admin"] if is_first else list(MAY)
    with st.form("new key", width=640):
        st.text_input(
            "Name", key=NAME, placeholder="shop-backend", help="The audit trail names it as actor."
        )
        st.radio("Role", roles, key=ROLE, captions=[MAY[role] for role in roles])
        days, rate = st.columns(2)
        days.number_input(
            "Days until it expires (optional)", min_value=1, max_value=3650, value=None, key=DAYS
        )
        rate.number_input(
            "Requests a minute, at most (optional)",
            min_value=1,
            max_value=1_000_000,
            value=None,
            key=RATE,
        )
        st.form_submit_button(
            "Make the key",
            type="primary",
            on_click=shared.attempt,
            args=(lambda: create(client),),
        )


def create(client: Client) -> None:
    """Make the key that the fields describe, and keep it until it is copied."""
    days = st.session_state[DAYS]
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = st.session_state[MADE] = client.create_key(
        st.session_state[NAME].strip(),
        st.session_state[ROLE],
        expires_at=None if expires is None else expires.isoformat(),
        rate_limit=st.session_state[RATE],
    )
    if not access.key():
        access.use(made.secret)


def show_keys(client: Client, listed: list[wire.Key]) -> None:
    """Show all keys, and what revokes one."""
    st.subheader("Keys", anchor=False)
    if not listed:
        st.caption("There is none.")
        return
    shared.table(
        [
            {
                "Name": shared.escape(key.name),
                "Role": key.role,
                "State": STATES[key.state],
                "Made": f"{shared.local_time(key.created_at)} by {shared.escape(key.created_by)}",
                "Expires": _when(key.expires_at, "never"),
                "Last used": _when(key.last_used_at, "not yet"),
                "A minute": "no limit" if key.rate_limit is None else f"{key.rate_limit:,}",
            }
            for key in listed
        ],
        alt="API keys",
        wrapped={"Made"},
    )
    valid = {key.key_id: key for key in listed if key.state != "revoked"}
    if not valid:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Key",
            list(valid),
            format_func=lambda key_id: f"{valid[key_id].name} ({valid[key_id].role})",
            key="revoked_key",
            width=320,
        )
        with st.popover("Revoke …"):
            st.markdown(
                "Whoever uses it is refused from the next request on. It cannot be made valid "
                "again."
            )
            if len(valid) == 1:
                st.markdown("It is the last one: without it no key is needed on this machine.")
            st.button(
                "Yes, revoke it",
                type="primary",
                on_click=shared.attempt,
                args=(lambda: client.revoke_key(st.session_state["revoked_key"]),),
                kwargs={"done": "The key is revoked."},
            )


def _when(time: str | None, otherwise: str) -> str:
    return otherwise if time is None else shared.local_time(time)


def keys(client: Client, _demo: wire.Demo) -> None:
    shared.show_notice(client)
    if not access.may("admin"):
        st.markdown(
            "Your key does not make or revoke keys: ask who has an admin's. Sign out in the "
            "sidebar to use another."
        )
        return
    listed = client.api_keys()
    show_made()
    ask_new(client, is_first=not access.key())
    show_keys(client, listed)


def show() -> None:
    """Show the page."""
    shared.page("Access", "🔑", keys)

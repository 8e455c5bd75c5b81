"""The key of whoever looks at the page: it stays in that one session, and in no address."""

import streamlit as st

from reckeeper import wire
from reckeeper.config import Settings

_KEPT, _TYPED, _ROLES = "api_key", "api_key_typed", "roles"


def key() -> str:
    """Return the key of this session; an empty text while it has none."""
    kept: str = st.session_state.get(_KEPT, "")
    return kept


def use(text: str) -> None:
    """Use another key in this session."""
    st.session_state[_KEPT] = text


def is_exposed(access: wire.Access, settings: Settings) -> bool:
    """Say whether others reach a page through which they may do everything without a key."""
    return not (access.needs_key or settings.is_local or settings.is_open)


def may(role: wire.Role) -> bool:
    """Say whether whoever is looking may do what takes a role: a page shows nothing else."""
    roles: list[wire.Role] = st.session_state.get(_ROLES, [])
    return role in roles


def ask(problem: str | None = None) -> None:
    """Ask for a key."""
    if problem is not None:
        st.error(problem)
    elif key():
        st.error("That key is not valid: it is none, has expired, or was revoked.")
    st.markdown(
        "This server wants an API key. An administrator makes one with "
        "`reckeeper keys create NAME --role viewer`, `operator` or `admin`."
    )
    with st.form("sign in", width=640):
        st.text_input("API key", type="password", key=_TYPED, placeholder="rk_…")
        st.form_submit_button("Sign in", type="primary", on_click=_sign_in)


def show(access: wire.Access) -> None:
    """Say in the sidebar who is looking, or that nobody needs to say so."""
    st.session_state[_ROLES] = access.roles
    with st.sidebar:
        if access.needs_key:
            st.caption(f"Signed in as **{access.name}** ({access.role})")
            st.button("Sign out", on_click=_sign_out)
        else:
            st.caption(
                "No API key is needed here: whoever reaches this machine's ports may do "
                "everything. The page Access makes a key, which ends that."
            )


def _sign_in() -> None:
    use(st.session_state.pop(_TYPED, "").strip())


def _sign_out() -> None:
    st.session_state.pop(_KEPT, None)

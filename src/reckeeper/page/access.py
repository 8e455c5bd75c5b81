"""The key of whoever looks at the page: it stays in that one session, and in no address."""

import streamlit as st

from reckeeper import wire
from reckeeper.config import Settings

_KEPT, _TYPED = "api_key", "api_key_typed"


def key() -> str:
    """Return the key of this session; an empty text while it has none."""
    kept: str = st.session_state.get(_KEPT, "")
    return kept


def is_exposed(access: wire.Access, settings: Settings) -> bool:
    """Say whether others reach a page through which they may do everything without a key."""
    return not (access.needs_key or settings.is_local or settings.is_open)


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
    with st.sidebar:
        if access.needs_key:
            st.caption(f"Signed in as **{access.name}** ({access.role})")
            st.button("Sign out", on_click=_sign_out)
        else:
            st.caption(
                "No API key is needed here: whoever reaches this machine's ports may do "
                "everything. `reckeeper keys create NAME --role admin` ends that."
            )


def _sign_in() -> None:
    st.session_state[_KEPT] = st.session_state.pop(_TYPED, "").strip()


def _sign_out() -> None:
    st.session_state.pop(_KEPT, None)

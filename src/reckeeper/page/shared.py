"""What the pages share: the frame around each, the client, words and times."""

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    JobCancelledError,
    JobInterruptedError,
    NotEnoughDataError,
    ReckeeperError,
    StorageError,
    UnauthenticatedError,
    UnavailableError,
)
from reckeeper.page import access, actions

RETRY_SECONDS = 3.0
"""How often a page looks whether a server that did not answer does again."""

WATCH_SECONDS = 3.0
"""How often a page looks for a training job that it does not know of."""

MAIN = "main"
"""The place of a page where its words go, unless they belong elsewhere."""

NO_BREAK = "\N{NO-BREAK SPACE}"
TRIGGERS = {
    "manual": "by hand",
    "schedule": "by schedule",
    "rule": "by rule",
    "demo": "demo data",
    "import": "imported",
}
NOT_AN_ERROR = {
    NotEnoughDataError.code: "warning",
    JobInterruptedError.code: "warning",
    JobCancelledError.code: "info",
}
"""How to say that a job has ended without a result, where nothing has failed."""


# The frame


def page(title: str, icon: str, body: Callable[[Client, wire.Demo], None]) -> None:
    """Show a page, and in its place a sentence where the server cannot answer it."""
    st.set_page_config(page_title=title, page_icon=icon, layout="wide")
    if st.session_state.get("page") != title:
        st.session_state["page"] = title
        st.session_state.pop("notice", None)
    st.title(title, anchor=False)
    try:
        client = _connections().with_key(access.key())
        try:
            if _let_in(client):
                demo = client.demo()
                _demo_banner(client, demo)
                body(client, demo)
        except (UnavailableError, StorageError) as exc:
            st.error(in_words(exc), icon="🔌")
            st.button("Try again", on_click=_forget_notice)
            st.caption("This page also tries again by itself every few seconds.")
            _rerun_when_back(client, itertools.count())
    except UnauthenticatedError as exc:  # revoked meanwhile
        access.ask(in_words(exc))
    except ReckeeperError as exc:
        st.error(in_words(exc))


def _let_in(client: Client) -> bool:
    """Say who is looking; ask for a key where that is needed, and return whether it is there."""
    found = client.access()
    if access.is_exposed(found, Settings.from_env()):
        st.error(
            "Other machines reach this page, and its server asks nobody for a key: make one with "
            "`reckeeper keys create NAME --role admin`, or set RECKEEPER_OPEN=1 for the page too "
            "if something in front guards it."
        )
        return False
    if not found.roles:
        access.ask()
        return False
    access.show(found)
    return True


@st.cache_resource(on_release=Client.close)
def _connections() -> Client:
    # No key: one of the environment would be everybody's, and each reader has an own.
    # One retry mends a connection that the server closed meanwhile; a server that
    # is down should be said soon, and `_rerun_when_back` goes on trying.
    return Client(Settings.from_env().server_url, retry_seconds=0.2, actor="page", key="")


@st.fragment(run_every=RETRY_SECONDS)
def _rerun_when_back(client: Client, runs: Iterator[int]) -> None:
    if next(runs) == 0:
        return  # part of the run that has just failed
    try:
        client.ready()
    except ReckeeperError:
        return
    st.rerun()


def watch(client: Client, page: wire.JobPage) -> None:
    """Run this page again by itself when a job starts or ends after those in `page`."""
    _rerun_when_changed(client, _newest(page), itertools.count())


@st.fragment(run_every=WATCH_SECONDS)
def _rerun_when_changed(client: Client, known: tuple[int, str] | None, runs: Iterator[int]) -> None:
    if next(runs) == 0:
        return  # part of the run that has just asked
    try:
        found = _newest(client.jobs(limit=1))
    except ReckeeperError:
        return
    if found != known:
        st.rerun()


def _newest(page: wire.JobPage) -> tuple[int, str] | None:
    return next(((job.job_id, job.status) for job in page.jobs), None)


def _demo_banner(client: Client, demo: wire.Demo) -> None:
    if not demo.loaded:
        return
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.badge("Demo data", icon="🧪", color="violet")
        st.markdown(
            f"You are looking at {demo.interactions:,} generated interactions.", width="stretch"
        )
        if access.may("operator"):
            st.page_link("pages/3_Interactions.py", label="Import your own", icon="📥")
        if not access.may("admin"):
            return
        with st.popover("Remove demo data"):
            st.markdown(
                "The generated interactions and every model version that was trained on them "
                "will be deleted. What you sent or imported yourself stays."
            )
            st.button(
                "Yes, remove it",
                type="primary",
                on_click=attempt,
                args=(client.clear_demo, "The demo data is removed."),
            )


# Actions and what is said about them


def attempt(action: Callable[[], object], done: str | None = None, *, place: str = MAIN) -> None:
    """Do what a button asks for; what went wrong becomes the notice, near the button."""
    _forget_notice()
    try:
        action()
    except ReckeeperError as exc:
        notify_error(exc, place=place)
    else:
        if done is not None:
            st.toast(done, icon="✅")


@dataclass(frozen=True)
class _Notice:
    place: str
    kind: str
    text: str
    action: Action | None = None
    """What a button beside the words does."""


def notify(kind: str, text: str, *, place: str = MAIN) -> None:
    """Keep words for the `show_notice` of a place, until the next action or another page."""
    st.session_state["notice"] = _Notice(place, kind, text)


def notify_error(error: ReckeeperError, *, place: str = MAIN) -> None:
    """Keep an error's words; a cancelled job, for one, is no failure of anything."""
    kind = NOT_AN_ERROR.get(error.code, "error")
    button = error.action if actions.is_button(error.action) else None
    st.session_state["notice"] = _Notice(place, kind, in_words(error), button)


def show_notice(client: Client, place: str = MAIN) -> None:
    """Show what was kept for a place of the page, and a button for what to do next."""
    notice: _Notice | None = st.session_state.get("notice")
    if notice is None or notice.place != place:
        return
    say(notice.kind, notice.text)
    action = notice.action
    if action is not None and access.may("operator"):
        st.button(
            action.in_words(actions.ACTIONS),
            key=f"next {place}",
            on_click=attempt,
            args=(lambda: st.toast(actions.act(client, action), icon="✅"),),
            kwargs={"place": place},
        )


def say(kind: str, text: str) -> None:
    """Show words in a box of a kind: success, info, warning or error."""
    shown = {"success": st.success, "info": st.info, "warning": st.warning, "error": st.error}
    shown[kind](text)


def _forget_notice() -> None:
    st.session_state.pop("notice", None)


# Words, numbers and times


def table(
    rows: Sequence[Mapping[str, object]],
    *,
    alt: str,
    formats: dict[str, str | Callable[[Any], str] | None] | None = None,
    wrapped: Collection[str] = (),
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """Show a real HTML table, whose cells are Markdown; only columns in `wrapped` break lines."""
    cells = [
        {
            name: value.replace(" ", NO_BREAK)
            if isinstance(value, str) and name not in wrapped
            else value
            for name, value in row.items()
        }
        for row in rows
    ]
    styled = pd.DataFrame(cells).style.format(formats)
    st.table(styled, border="horizontal", hide_index=True, width=width, alt=alt)


def escape(text: str) -> str:
    """Let Markdown show a text as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", re.sub(r"\s+", " ", text))


def sentence(message: str) -> str:
    """Let Markdown show an error's message as it is, with what stands in backticks as code."""
    parts = re.split(r"(`[^`]+`)", re.sub(r"\s+", " ", message))
    return "".join(part if part.startswith("`") else escape(part) for part in parts)


def in_words(error: ReckeeperError) -> str:
    """Return an error's message as Markdown, and what to do next where no button does it."""
    if error.action is None or actions.is_button(error.action):
        return sentence(error.message)
    return f"{sentence(error.message)} {sentence(error.action.in_words(actions.ACTIONS))}"


def local_time(time: str, *, seconds: bool = False) -> str:
    """Return an API's time, UTC where it names no zone, as the reader's clock shows it."""
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    moment = moment.astimezone(timezone())
    return f"{moment:%Y-%m-%d %H:%M:%S}" if seconds else f"{moment:%Y-%m-%d %H:%M}"


def timezone() -> ZoneInfo:
    """Return the reader's time zone, or UTC where the browser names none that is known here."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return words.replace(" ", NO_BREAK)


def memory(n_bytes: int) -> str:
    """Return an amount of memory as people say it."""
    words = f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
    return words.replace(" ", NO_BREAK)


def signed(number: float, form: str = ".3f") -> str:
    """Return a number with its sign."""
    return format(number, f"+{form}").replace("-", "\N{MINUS SIGN}")


def with_interval(metric: wire.Metric | wire.Difference) -> str:
    """Return a metric or a difference, and the bounds of its interval where it has one."""
    if isinstance(metric, wire.Difference):
        words = f"{metric.difference:+.3f} ({metric.low:+.3f} to {metric.high:+.3f})"
        return words.replace(" ", NO_BREAK)
    words = f"{metric.mean:.3f}"
    if metric.low is not None and metric.high is not None:
        words += f" ({metric.low:.3f} to {metric.high:.3f})"
    return words.replace(" ", NO_BREAK)


def settings_in_words(settings: Mapping[str, object]) -> str:
    """Return a recipe's settings as Markdown shows them in a line."""
    return ", ".join(
        f"{escape(name)}={setting_in_words(value)}" for name, value in settings.items()
    )


def setting_in_words(value: object) -> str:
    """Return a setting's value as Markdown shows it."""
    if isinstance(value, float):
        return f"{value:g}"
    return escape(value if isinstance(value, str) else json.dumps(value))


def trigger(name: str) -> str:
    """Return what started a job, in words."""
    return TRIGGERS.get(name, name.replace("_", " "))


def reachable_url(url: str) -> str:
    """Return the server's address as the reader's browser reaches it.

    The page may know the server by a name that counts only where the page
    runs: loopback, or a container's name. Then the reader finds it on the
    host on which this page was found.
    """
    server, here = urlsplit(url), urlsplit(st.context.url or "")
    is_private = server.hostname and (
        server.hostname in {"127.0.0.1", "::1"} or not set(".:") & set(server.hostname)
    )
    if not is_private or not here.hostname:
        return url
    host = f"[{here.hostname}]" if ":" in here.hostname else here.hostname
    port = f":{server.port}" if server.port else ""
    return f"{server.scheme}://{host}{port}{server.path}"

"""The versions: what was found of each, which one is active, and how another one becomes so."""

import re
from collections.abc import Callable
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.errors import Action
from reckeeper.page import access, shared, verdicts
from reckeeper.page.actions import ACTIONS

VERSIONS = "versions"
"""The place of the page's words on a switch from one version to another."""

ENTRIES_ASKED = 200
ENTRIES_SHOWN = 20
STATUS = {"active": ":green-badge[🟢 active]", "inactive": ":gray-badge[⚪ inactive]"}
PINNED = "📌"
SWITCHES = {
    "activate": "activated",
    "promote": "promoted after its training",
    "rollback": "rolled back",
    "rebuild": "found in the model folder",
}
WHAT_THEY_DO = (
    "**Roll back** activates the version that was active before; again, the one before that. "
    "**Activate** activates the chosen version. Both take effect at once, and another click undoes "
    "them. A **pinned** version is kept, and while it is active no training replaces it. "
    "**Delete** removes a version and its files for good."
)


def active_of(models: list[wire.Model]) -> wire.Model | None:
    return next((model for model in models if model.status == "active"), None)


def choose(label: str, models: list[wire.Model], *, chosen: int, key: str) -> int:
    """Let a version be chosen; `chosen` is so at first."""
    recipes = {model.version: model.recipe for model in models}
    return st.selectbox(
        label,
        [*recipes],
        index=[*recipes].index(chosen),
        format_func=lambda version: f"Version {version} · {recipes[version]}",
        key=key,
    )


# The last retrain's verdict


def show_verdict(
    client: Client, models: list[wire.Model], jobs: list[wire.ListedJob], target: int | None
) -> None:
    """Say it where the last new version was judged badly or waits, with the way out beside it."""
    job = next((job for job in jobs if job.kind == "retrain" and job.version), None)
    verdict = None if job is None else job.verdict
    if job is None or verdict is None or not verdicts.asks_for_care(job):
        return
    model = next((model for model in models if model.version == job.version), None)
    if model is None:
        return
    is_active = model.status == "active"
    if is_active != job.promoted or (model.served and not is_active):
        return  # somebody has decided otherwise since
    done = shared.sentence(verdict.outcome or "")
    with _beside("warning" if is_active else "info", f"**{done}** {verdicts.in_words(verdict)}"):
        if verdict.action is not None:
            _show_action(client, Action.from_json(verdict.action), target)


def show_segments(jobs: list[wire.ListedJob]) -> None:
    """Show how the last new version did by segment, beside the one that was active."""
    job = next((job for job in jobs if job.kind == "retrain" and job.version), None)
    if job is None or job.verdict is None:
        return
    rows = verdicts.segments(job.verdict)
    if not rows:
        return
    other = job.verdict.active_version
    title = f"Version {job.version} beside version {other}, by segment"
    with st.expander(title, icon="🧩", key="segments"):
        metric = shared.escape(job.verdict.metric.upper())
        st.caption(
            f"{metric}, by the items in a user's history when asked, and by the popularity of what "
            "was to be found: each third has as many interactions."
        )
        shared.table(rows, alt=title, formats={"Users": "{:,}"})


def _show_action(client: Client, action: Action, target: int | None) -> None:
    match action:
        case Action("roll_back"):
            _roll_back_button(client, target, place="verdict")
        case Action("activate", {"version": int(version)}):
            st.text_input("Reason (optional)", key="verdict_reason")
            _button(
                action.in_words(ACTIONS),
                lambda why: _activate(client, version, why),
                place="verdict",
            )


def _beside(kind: str, text: str) -> DeltaGenerator:
    """Show a box, and return the place beside it."""
    box, actions = st.columns([4, 1], vertical_alignment="center")
    with box:
        shared.say(kind, text)
    return actions


# What there is


def show(
    client: Client,
    models: list[wire.Model],
    timeline: wire.TimelinePage,
) -> None:
    st.subheader("Versions", anchor=False)
    if not models:
        st.caption("None yet.")
        return
    _show_table(models)
    shared.show_notice(client, VERSIONS)
    if access.may("operator"):
        _show_switch(client, models, timeline.rollback_version)
    _show_details(models)
    _show_timeline(timeline.timeline)


def _show_table(models: list[wire.Model]) -> None:
    k = _list_length(models)
    rows = [
        {
            "Version": model.version,
            "Status": STATUS[model.status] + (f" {PINNED}" if model.pinned else ""),
            "Recipe": shared.escape(model.recipe),
            "Verdict": verdicts.badge(model.verdict),
            f"NDCG@{k}": _quality(model, f"ndcg@{k}"),
            f"Hit rate@{k}": _quality(model, f"hit_rate@{k}"),
            "Over popularity": _versus(model, f"ndcg@{k}", "popularity"),
            "Over the one before": _versus(model, f"ndcg@{k}", "active"),
            "Users": model.n_users,
            "Items": model.n_items,
            "Explained variance": float(model.explained_variance.rstrip("%")),
            "Trained on": shared.local_time(model.trained_on, seconds=True),
        }
        for model in models
    ]
    shared.table(
        rows,
        alt="Model versions",
        formats={"Users": "{:,}", "Items": "{:,}", "Explained variance": "{:.2f}%"},
    )


def _list_length(models: list[wire.Model]) -> str:
    """Return at which length of list the newest version was measured."""
    names = (re.fullmatch(r"ndcg@(\d+)", name) for model in models for name in model.metrics or {})
    return next((found[1] for found in names if found), "10")


def _quality(model: wire.Model, metric: str) -> str:
    figure = (model.metrics or {}).get(metric)
    if figure is None or figure.low is None or figure.high is None:
        return "–"
    # In full it stands where two versions are compared; here it has little room.
    return f"{figure.mean:.3f} ± {(figure.high - figure.low) / 2:.3f}"


def _versus(model: wire.Model, metric: str, other: Literal["popularity", "active"]) -> str:
    headline = None if model.verdict is None else model.verdict.headline
    versus = (headline or {}).get(metric)
    if versus is None:
        return "–"
    found = versus.popularity if other == "popularity" else versus.active
    if found is None:
        return "–"
    return f"{found.difference:+.3f} ± {(found.high - found.low) / 2:.3f}"


def _show_details(models: list[wire.Model]) -> None:
    with st.expander("Details of the versions", icon="📋", key="details"):
        rows = [
            {
                "Version": model.version,
                "Recipe": shared.escape(model.recipe),
                "Trigger": shared.escape(shared.trigger(model.trigger)),
                "Took": model.seconds,
                "Interactions": model.training_samples,
                "Settings": shared.settings_in_words(model.settings) or "none",
                "Verdict": _found(model),
                "Note": _note(model),
            }
            for model in models
        ]
        shared.table(
            rows,
            alt="Details of the versions",
            formats={"Took": shared.duration, "Interactions": "{:,}"},
            wrapped=["Settings", "Verdict", "Note"],
        )


def _found(model: wire.Model) -> str:
    return "–" if model.verdict is None else shared.sentence(model.verdict.sentence)


def _note(model: wire.Model) -> str:
    words = [shared.escape(model.note)] if model.note else []
    if model.pinned:
        until = model.pinned_until
        words.append(f"{PINNED} pinned" + (f" until {shared.local_time(until)}" if until else ""))
    return " · ".join(words)


# What was active when


def _show_timeline(timeline: list[wire.TimelineEntry]) -> None:
    with st.expander("What was active when", icon="📜", key="timeline"):
        if not timeline:
            st.caption("Nothing has been active yet.")
            return
        rows = [
            {
                "Version": "none" if entry.version is None else str(entry.version),
                "From": shared.local_time(entry.at, seconds=True),
                "Until": shared.local_time(entry.until, seconds=True) if entry.until else "now",
                "By": shared.escape(entry.actor),
                "Why": _why(entry),
            }
            for entry in timeline[:ENTRIES_SHOWN]
        ]
        shared.table(rows, alt="What was active when", wrapped=["Why"])


def _why(entry: wire.TimelineEntry) -> str:
    action = SWITCHES.get(entry.action, entry.action.replace("_", " "))
    return shared.escape(f"{action}: {entry.reason}" if entry.reason else action)


# Making another one active


def _show_switch(client: Client, models: list[wire.Model], target: int | None) -> None:
    inactive = [model.version for model in models if model.status != "active"]
    with st.container(border=True, key="switch"):
        st.markdown("**Switch versions**")
        choice, why = st.columns([2, 3])
        with choice:
            first = inactive[0] if inactive else models[0].version
            version = choose("Version", models, chosen=first, key="switch_version")
        why.text_input("Reason (optional)", key="switch_reason")
        model = next(model for model in models if model.version == version)
        is_active = model.status == "active"
        with st.container(horizontal=True, vertical_alignment="center"):
            _roll_back_button(client, target, place="switch")
            _button("Activate", lambda why: _activate(client, _chosen(), why), disabled=is_active)
            if model.pinned:
                _button("Unpin", lambda why: _unpin(client, _chosen(), why))
            else:
                _button("Pin", lambda why: _pin(client, _chosen(), why))
            if access.may("admin"):
                with st.popover("Delete …", disabled=is_active or model.pinned):
                    st.markdown(f"Version {version} and its files will be gone for good.")
                    _button(f"Delete version {version}", lambda why: _delete(client, version, why))
        st.markdown(f":small[{WHAT_THEY_DO}]")


def _chosen() -> int:
    """Return the version in the box now: a button may be pressed before the page has run again."""
    version: int = st.session_state["switch_version"]
    return version


def _roll_back_button(client: Client, target: int | None, *, place: str) -> None:
    _button(
        "Roll back" if target is None else f"Roll back to version {target}",
        lambda why: _roll_back(client, why),
        place=place,
        disabled=target is None,
        help="No version that was active before is left." if target is None else None,
    )


def _button(
    label: str,
    action: Callable[[str | None], str],
    *,
    place: str = "switch",
    disabled: bool = False,
    help: str | None = None,
) -> None:
    """Show a button whose action takes a reason and returns what it has done."""
    if not access.may("operator"):
        return
    st.button(
        label,
        key=f"{label} {place}",
        disabled=disabled,
        help=help,
        on_click=shared.attempt,
        args=(lambda: _act(action, f"{place}_reason"),),
        kwargs={"place": VERSIONS},
    )


def _act(action: Callable[[str | None], str], reason_key: str) -> None:
    """Act for the reason that stands in the field now, and empty the field."""
    st.toast(action(st.session_state.get(reason_key, "").strip() or None), icon="✅")
    if reason_key in st.session_state:
        st.session_state[reason_key] = ""


def _roll_back(client: Client, reason: str | None) -> str:
    return f"Version {client.roll_back(reason=reason).version} is active again."


def _activate(client: Client, version: int, reason: str | None) -> str:
    client.activate(version, reason=reason)
    return f"Version {version} is active."


def _pin(client: Client, version: int, reason: str | None) -> str:
    client.pin(version, reason=reason)
    return f"Version {version} is pinned."


def _unpin(client: Client, version: int, reason: str | None) -> str:
    client.unpin(version, reason=reason)
    return f"Version {version} is not pinned."


def _delete(client: Client, version: int, reason: str | None) -> str:
    client.delete_model(version, reason=reason)
    return f"Version {version} is deleted."

"""What came in: files to import, what became of them, and the interactions of late."""

import itertools
import time
from collections.abc import Iterator

import pandas as pd
import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.errors import ReckeeperError
from reckeeper.page import access, importing, shared

STATUS = {
    "running": "🔵 Running",
    "complete": "🟢 Complete",
    "failed": "🔴 Failed",
    "undoing": "🟠 Being undone",
    "undone": "⚪ Undone",
}
LISTED = 10
PROGRESS_SECONDS = 1.0
LATEST_SECONDS = 5.0
SUMMARY_SECONDS = 15.0
"""At least between two summaries: one reads 100,000 rows."""
_ALMOST = 0.97
"""Shown of an import whose file is read, while the last of it is written."""


# Imports


def show_imports(client: Client) -> None:
    listed = client.imports(limit=LISTED)
    if not listed:
        return
    st.subheader("Imports", anchor=False)
    shared.show_notice(client, "imports")
    for each in listed:
        if each.status == "running":
            show_running(client, each, itertools.count())
        else:
            show_import(client, each)
    moving = [each for each in listed if is_open(each)]
    if moving:
        rerun_when_ended(client, moving, itertools.count())


def is_open(each: wire.Import) -> bool:
    return each.status in {"running", "undoing"}


@st.fragment(run_every=PROGRESS_SECONDS)
def show_running(client: Client, known: wire.Import, runs: Iterator[int]) -> None:
    each = known if next(runs) == 0 else client.import_status(known.import_id)
    if not is_open(each):
        return  # the whole page runs again
    share = min(each.bytes_done / each.bytes_total, _ALMOST) if each.bytes_total else 0.0
    with st.container(border=True):
        st.markdown(heading(each))
        st.progress(share, text=progress_in_words(each))
        undo_button(client, each, "Stop and undo")


def progress_in_words(each: wire.Import) -> str:
    words = [f"{each.rows:,} rows"]
    if each.rows_per_second is not None:
        words.append(f"{each.rows_per_second:,.0f} rows/s")
    if each.seconds_left is not None:
        words.append(f"{shared.duration(each.seconds_left)} left")
    return " · ".join(words)


@st.fragment(run_every=PROGRESS_SECONDS)
def rerun_when_ended(client: Client, known: list[wire.Import], runs: Iterator[int]) -> None:
    if next(runs) == 0:
        return  # part of the run that has just asked
    try:
        now = [client.import_status(each.import_id).status for each in known]
    except ReckeeperError:
        return
    if now != [each.status for each in known]:
        st.rerun()


def show_import(client: Client, each: wire.Import) -> None:
    is_new = each.import_id == st.session_state.get(importing.BEGUN)
    with st.expander(heading(each), expanded=is_new, key=f"import {each.import_id}"):
        if each.reason is not None and each.status == "failed":
            st.error(shared.sentence(importing.in_labels(each.reason)))
        show_report(client, each)
        if each.status in {"complete", "failed"}:
            with st.container(horizontal=True, vertical_alignment="center"):
                undo_button(client, each, "Undo")
                if each.status == "complete" and each.accepted and is_new:
                    st.page_link(
                        "pages/2_Model_Management.py",
                        label="Retrain on what is new",
                        icon="🚀",
                    )


def heading(each: wire.Import) -> str:
    source = shared.escape(each.source)
    when = shared.local_time(each.started_at)
    return f"{STATUS[each.status]} · **{source}** · {each.accepted:,} new interactions · {when}"


def show_report(client: Client, each: wire.Import) -> None:
    numbers = {
        "New": each.accepted,
        "There already": each.duplicates,
        "Seen, not liked": each.without_taste,
        "Refused": each.refused,
        "Items": each.items,
    }
    for column, (name, number) in zip(st.columns(len(numbers)), numbers.items(), strict=True):
        column.metric(name, f"{number:,}")
    for note in each.notes:
        st.caption(shared.sentence(importing.in_labels(note)))
    if each.refusals:
        shared.table(
            [
                {
                    "column": shared.escape(refusal.column),
                    "why": shared.sentence(importing.in_labels(refusal.reason)),
                    "rows": f"{refusal.rows:,}",
                    "such as": "; ".join(
                        f"{refusal.unit} {one.line}: {shared.escape(one.value) or 'nothing'}"
                        for one in refusal.examples
                    ),
                }
                for refusal in each.refusals
            ],
            alt=f"Why rows of import {each.import_id} were refused",
            wrapped={"why", "such as"},
        )
    if each.has_report:
        import_id = each.import_id
        st.download_button(
            "All refused rows as CSV",
            lambda: client.refused_rows(import_id),
            file_name=f"import-{import_id}-refused.csv",
            mime="text/csv",
            key=f"refused {import_id}",
        )


def undo_button(client: Client, each: wire.Import, label: str) -> None:
    if not access.may("operator"):
        return
    import_id = each.import_id
    with st.popover(label, key=f"undo {import_id}"):
        st.markdown(
            "What this import brought is taken out: interactions and items. Models keep what they "
            "learned from it until the next retrain."
        )
        st.button(
            "Yes, take it out",
            type="primary",
            key=f"undo {import_id} now",
            on_click=shared.attempt,
            args=(lambda: client.undo_import(import_id), f"Import {import_id} is undone."),
            kwargs={"place": "imports"},
        )


# Of late


@st.fragment(run_every=LATEST_SECONDS)
def show_lately(client: Client) -> None:
    try:
        latest = client.latest_interactions(n=15)
        summary = _summary(client, latest)
    except ReckeeperError as exc:
        st.warning(shared.in_words(exc))
        return
    st.subheader("Lately", anchor=False)
    if not latest:
        st.caption("No interactions so far.")
        return
    show_rates(summary)
    newest, heaviest = st.columns([3, 2], gap="medium")
    with newest:
        st.markdown("**What came last**")
        shared.table(
            [
                {
                    "user": shared.escape(row.user_id),
                    "item": shared.escape(row.title or row.item_id),
                    "type": shared.escape(row.interaction_type),
                    "time": shared.local_time(row.occurred_at),
                }
                for row in latest
            ],
            alt="The interactions that came last",
            wrapped={"item"},
        )
    with heaviest:
        st.markdown("**Heaviest users**")
        shared.table(
            [
                {"user": shared.escape(each.user_id), "interactions": f"{each.n:,}"}
                for each in summary.users
            ],
            alt="Users with the most of the latest interactions",
        )
        st.markdown("**Heaviest items**")
        shared.table(
            [
                {"item": shared.escape(each.title or each.item_id), "interactions": f"{each.n:,}"}
                for each in summary.items
            ],
            alt="Items with the most of the latest interactions",
            wrapped={"item"},
        )


def _summary(client: Client, latest: list[wire.LatestInteraction]) -> wire.InteractionSummary:
    """Ask for the summary, unless it was asked for a moment ago or nothing came in since."""
    last = latest[0].event_id if latest else None
    known, at, summary = st.session_state.get("summary", (None, 0.0, None))
    is_fresh = known == last or time.monotonic() - at < SUMMARY_SECONDS
    if isinstance(summary, wire.InteractionSummary) and summary.n and is_fresh:
        return summary
    summary = client.interaction_summary()
    st.session_state["summary"] = (last, time.monotonic(), summary)
    return summary


def show_rates(summary: wire.InteractionSummary) -> None:
    types = ", ".join(f"{shared.escape(name)} {n:,}" for name, n in summary.types.items())
    length = _in_words(summary.bucket_seconds)
    st.caption(f"The latest {summary.n:,} interactions: {types}. A bar is {length} long.")
    rates = pd.DataFrame(
        {
            "time": pd.to_datetime([each.start for each in summary.rates])
            .tz_convert(shared.timezone())
            .tz_localize(None),
            "type": [each.interaction_type for each in summary.rates],
            "interactions": [each.n for each in summary.rates],
        }
    )
    st.bar_chart(
        rates,
        x="time",
        y="interactions",
        color="type",
        height=220,
        alt="Interactions by type over time",
    )


def _in_words(seconds: float) -> str:
    """Return a length of time in its largest whole unit."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            n = int(seconds // size)
            return f"{n:,} {unit}" if n == 1 else f"{n:,} {unit}s"
    return f"{seconds:g} s"


def show_dead_letters(client: Client) -> None:
    try:
        answer = client.dead_letters()
    except ReckeeperError as exc:
        st.subheader("Dead letters", anchor=False)
        st.warning(shared.in_words(exc))
        return
    if not answer.uses_kafka:
        return
    st.subheader("Dead letters", anchor=False)
    if not answer.letters:
        st.caption("No record from Kafka was refused.")
        return
    shared.table(
        [
            {
                "place": letter.place,
                "time": shared.local_time(letter.at),
                "why": shared.escape(letter.reason),
                "value": shared.escape(letter.value or ""),
                "replayed": "yes" if letter.is_replayed else "",
            }
            for letter in answer.letters
        ],
        alt="Records from Kafka that were refused",
        wrapped={"why", "value"},
    )
    st.markdown(":small[`reckeeper dlq replay` sends again those that have not been replayed yet.]")


def show_erasure(client: Client) -> None:
    """Offer to erase a person, and show the receipt."""
    st.subheader("Erase a person", anchor=False)
    shared.show_notice(client, "people")
    st.markdown("Everything that is kept of somebody goes for good, and cannot come back.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        user_id = st.text_input("User id", key="erased user", max_chars=256)
        with st.popover("Erase this person", disabled=not user_id):
            st.markdown(
                "Interactions, watchlist and merges are deleted, and pickles of versions that "
                "have the person. Where the active version was trained on what they did, the "
                "worker retrains."
            )
            st.button(
                "Yes, erase this person",
                type="primary",
                on_click=erase,
                args=(client, user_id),
            )
    receipt = st.session_state.get("receipt")
    if isinstance(receipt, wire.Erasure):
        show_receipt(receipt)


def erase(client: Client, user_id: str) -> None:
    """Erase a person, and keep the receipt for this window."""

    def run() -> None:
        st.session_state["receipt"] = client.erase(user_id)
        st.session_state["erased user"] = ""

    shared.attempt(run, "This person is erased.", place="people")


def show_retention(client: Client) -> None:
    """Offer to change for how long interactions are kept."""
    in_force = client.policy()
    known = in_force.policy.retention_days
    with st.container(horizontal=True, vertical_alignment="bottom"):
        days = st.number_input(
            "Keep interactions for so many days (empty: for ever)",
            min_value=0.5,
            max_value=100_000.0,
            value=known,
            step=1.0,
            key=f"retention {in_force.revision}",
        )
        st.button(
            "Save",
            key="save retention",
            disabled=days == known,
            on_click=shared.attempt,
            args=(lambda: keep(client, in_force, days), "Saved."),
            kwargs={"place": "people"},
        )


def keep(client: Client, in_force: wire.PolicyAnswer, days: float | None) -> None:
    changed = in_force.policy.model_copy(update={"retention_days": days})
    client.set_policy(changed, if_revision=in_force.revision, reason="changed on the page")


def show_receipt(receipt: wire.Erasure) -> None:
    removed = [f"{n:,} {name.replace('_', ' ')}" for name, n in receipt.removed.items()]
    facts = {
        "Receipt": f"{receipt.erasure_id}, {shared.local_time(receipt.erased_at)}",
        "Person in the audit trail": receipt.subject,
        "Removed": ", ".join(removed) or "there was nothing",
        "Versions trained on what they did": ", ".join(map(str, receipt.shaped_versions)) or "none",
        "State": {
            "retraining": "The worker retrains, or something is still left",
            "erasing": "It goes on; one that was cut off ends within minutes",
        }.get(receipt.state, "Complete"),
    }
    if receipt.remains:
        facts["What remains"] = " ".join(receipt.remains)
    shared.table(
        [{"": name, "receipt": shared.escape(text)} for name, text in facts.items()],
        alt="The receipt of the erasure",
        wrapped={"receipt"},
    )


def interactions(client: Client, _demo: wire.Demo) -> None:
    shared.show_notice(client)
    importing.show(client)
    show_imports(client)
    show_lately(client)
    show_dead_letters(client)
    if access.may("admin"):
        show_erasure(client)
    if access.may("operator"):
        show_retention(client)


def show() -> None:
    """Show the page."""
    shared.page("Interactions", "📥", interactions)

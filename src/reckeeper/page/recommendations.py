"""What a user did, what is recommended to them, and how the one changes the other."""

from collections.abc import Mapping

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.errors import NoModelError
from reckeeper.page import access, list_settings, shared

TYPES = {
    "click": "👆 clicked",
    "watchlist_add": "🔖 added to watchlist",
    "watchlist_remove": "🗑️ removed from watchlist",
    "dismiss": "🚫 not interested",
    "dismiss_undo": "↩️ interested after all",
}
TAKING_BACK = {"watchlist_remove", "dismiss", "dismiss_undo"}
STRATEGIES = {
    "model": "From what {user} had done when version {version} was trained.",
    "fold_in": (
        "From version {version} and what {user} has done since it was trained: new interactions "
        "count at once, without a retrain."
    ),
    "popular": (
        "Version {version} knows nothing of what {user} likes yet, so these are the items that "
        "most users chose lately."
    ),
}
NO_VERSION = (
    "No version is active yet, so these are the items that most users chose lately. Retrain to "
    "get the first one."
)
CATEGORIES = ("category", "categories", "genre", "genres")


# Whom to look at


def choose_user(demo: wire.Demo) -> tuple[str, int]:
    samples = demo.sample_users if demo.loaded else []
    if "user_id" not in st.session_state:
        st.session_state["user_id"] = samples[0] if samples else ""
    name, number, quick = st.columns([1.9, 1, 4], vertical_alignment="bottom")
    user_id = name.text_input(
        "User id",
        key="user_id",
        max_chars=256,
        placeholder="The id that your product sends, such as u1",
        persist_state="session",
    )
    n = number.number_input("Items", min_value=1, max_value=50, value=10, key="n")
    if samples:
        st.session_state["sample_user"] = user_id if user_id in samples else None
        quick.pills("Users to try", samples, key="sample_user", on_change=take_sample, wrap=True)
    return user_id, n


def take_sample() -> None:
    if st.session_state["sample_user"] is not None:
        st.session_state["user_id"] = st.session_state["sample_user"]


# What they did


def show_history(client: Client, user_id: str) -> None:
    st.subheader("Recently", anchor=False)
    interactions = client.interactions(user_id, n=12)
    if not interactions:
        st.caption("Nothing so far.")
        return
    decided: set[str] = set()
    with st.container(border=True, gap="xsmall"):
        for row in interactions:
            is_latest = row.item_id not in decided
            if row.interaction_type in {"dismiss", "dismiss_undo"}:
                decided.add(row.item_id)
            show_interaction(
                client, user_id, row, can_undo=is_latest and row.interaction_type == "dismiss"
            )


def show_interaction(
    client: Client, user_id: str, row: wire.StoredInteraction, *, can_undo: bool
) -> None:
    what = TYPES.get(row.interaction_type, shared.escape(row.interaction_type))
    if row.weight == 0 and row.interaction_type not in TAKING_BACK:
        what = "👁️ seen, not liked"
    title = shared.escape(row.title or row.item_id)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.markdown(
            f"{title}  \n:small[:gray[{what} · {shared.local_time(row.occurred_at)}]]",
            width="stretch",
        )
        if can_undo and access.may("ingest"):
            st.button(
                "Undo",
                key=f"undo {row.item_id}",
                help="Let it be recommended again; what the user did with it counts again",
                on_click=shared.attempt,
                args=(
                    lambda: client.undo_dismiss(user_id, row.item_id),
                    f"{title} can be recommended again.",
                ),
            )


def show_watchlist(client: Client, user_id: str) -> None:
    st.subheader("Watchlist", anchor=False)
    items = client.watchlist(user_id)
    if not items:
        st.caption("Empty.")
        return
    with st.container(border=True, gap="xsmall"):
        for item in items:
            item_id, title = item.item_id, item.title or item.item_id
            with st.container(horizontal=True, vertical_alignment="center", wrap=False):
                st.markdown(describe(title, item.attributes), width="stretch")
                if not access.may("ingest"):
                    continue
                st.button(
                    "Remove",
                    key=f"remove {item_id}",
                    help="Take it off the watchlist",
                    on_click=shared.attempt,
                    args=(
                        lambda item_id=item_id: client.remove_from_watchlist(user_id, item_id),
                        f"{shared.escape(title)} is off the watchlist.",
                    ),
                )


# What is recommended


def show_recommendations(client: Client, user_id: str, n: int) -> None:
    st.subheader("Recommended", anchor=False)
    try:
        answer = client.recommendations(user_id, n=n, explain=True)
    except NoModelError as exc:
        st.info(shared.in_words(exc), icon="💡")
        st.page_link("pages/2_Model_Management.py", label="Go to Model Management", icon="🚀")
        shared.watch(client, client.jobs(limit=1))
        return
    st.markdown(explain(answer))
    if answer.model_version is None:
        st.page_link("pages/2_Model_Management.py", label="Go to Model Management", icon="🚀")
        shared.watch(client, client.jobs(limit=1))
    if not answer.items:
        st.info("There is no item left that this user has not seen.", icon="💡")
        return
    with st.container(border=True, gap="xsmall"):
        for item in answer.items:
            show_item(client, user_id, item, strategy=answer.strategy)


def explain(answer: wire.RecommendationList) -> str:
    told = STRATEGIES[answer.strategy] if answer.model_version is not None else NO_VERSION
    words = told.format(user=f"**{shared.escape(answer.user_id)}**", version=answer.model_version)
    return f":blue-badge[{answer.strategy}] :small[{words}]"


def show_item(client: Client, user_id: str, item: wire.RecommendedItem, *, strategy: str) -> None:
    item_id, title = item.item_id, item.title or item.item_id
    shown = shared.escape(title)
    score = f"{item.score:.3f}"
    if strategy == "popular":  # how many users have it, of whom some count in part
        score = f"{item.score:,.0f}" if item.score >= 10 else f"{item.score:.2g}"
    with st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="xsmall"):
        st.markdown(f":gray[{item.rank}]", width=20)
        st.markdown(
            f"{describe(title, item.attributes)} :small[:gray[score{shared.NO_BREAK}{score}]]",
            width="stretch",
            help=reasons(item),
        )
        if not access.may("ingest"):
            return
        st.button(
            "👆 Click",
            key=f"click {item_id}",
            help="Record that the user clicked it",
            on_click=shared.attempt,
            args=(lambda: click(client, user_id, item_id), f"Recorded a click on {shown}."),
        )
        st.button(
            "🔖 Watchlist",
            key=f"add {item_id}",
            help="Put it on the user's watchlist",
            on_click=shared.attempt,
            args=(
                lambda: client.add_to_watchlist(user_id, item_id),
                f"{shown} is on the watchlist.",
            ),
        )
        st.button(
            "🚫 Not interested",
            key=f"dismiss {item_id}",
            help="Recommend it to the user no more; Undo is beside it under Recently",
            on_click=shared.attempt,
            args=(
                lambda: client.dismiss(user_id, item_id),
                f"{shown} is not recommended any more.",
            ),
        )


def reasons(item: wire.RecommendedItem) -> str | None:
    """Return what the score is made of, a line for each of the user's items; None: of none."""
    if not item.reasons:
        return None
    lines = [
        f"- **{reason.contribution:+.3f}** {shared.escape(reason.title or reason.item_id)}"
        for reason in item.reasons
    ]
    if item.rest and abs(item.rest) >= 0.0005:
        lines.append(f"- **{item.rest:+.3f}** all others")
    return "\n".join(["The score is the sum of what the user's items add:", "", *lines])


def click(client: Client, user_id: str, item_id: str) -> None:
    client.send([{"user_id": user_id, "item_id": item_id, "interaction_type": "click"}])


def describe(title: str, attributes: Mapping[str, object]) -> str:
    badges = " ".join(f":gray-badge[{shared.escape(name)}]" for name in categories(attributes))
    return f"**{shared.escape(title)}**  \n{badges}"


def categories(attributes: Mapping[str, object]) -> list[str]:
    """Return an item's categories: of a list, of text such as ``Comedy|Drama``, or one value."""
    found: list[str] = []
    for value in (attributes.get(name) for name in CATEGORIES):
        if isinstance(value, str):
            found += filter(None, value.split("|"))
        elif value is not None:
            found += map(str, value if isinstance(value, list) else [value])
    return found


def recommendations(client: Client, demo: wire.Demo) -> None:
    user_id, n = choose_user(demo)
    shared.show_notice(client)
    if user_id:
        past, future = st.columns([3, 5], gap="medium")
        with future:
            show_recommendations(client, user_id, n)
        with past:
            show_watchlist(client, user_id)
            show_history(client, user_id)
    else:
        st.info("Enter the id of a user to see what is recommended to them.", icon="💡")
    list_settings.show(client)


def show() -> None:
    """Show the page."""
    shared.page("Recommendations", "✨", recommendations)

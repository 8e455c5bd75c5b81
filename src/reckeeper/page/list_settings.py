"""What lists leave out, and what new users get: the policy's settings, to be changed."""

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import access, shared

EVERYTHING = "All that they did"


def show(client: Client) -> None:
    """Show the settings with a button that stores them."""
    if not access.may("operator"):
        return
    with st.expander("What lists leave out, and what new users get", icon="🌱", key="lists"):
        in_force = client.policy()
        _show_fields(in_force)
        st.button(
            "Save",
            key="save lists",
            on_click=shared.attempt,
            args=(lambda: _store(client, in_force), "Lists follow these settings now."),
        )
        if in_force.source == "environment":
            st.caption(
                "The policy comes from the environment. Once it is saved here it is stored whole, "
                "and the environment's settings do not count."
            )


def _show_fields(in_force: wire.PolicyAnswer) -> None:
    # Another revision has fields of its own, which begin with what is stored.
    lists, revision = in_force.policy.recommendations, in_force.revision
    left, middle, right = st.columns(3, gap="medium")
    left.multiselect(
        "What takes an item out of a user's lists",
        list(in_force.policy.weights),
        default=lists.seen_types or [],
        placeholder=EVERYTHING,
        key=f"seen types {revision}",
        help="Where people buy the same again, choose what does not. Dismissed items stay out.",
    )
    left.number_input(
        "Half-life of popularity in days",
        value=lists.popularity_half_life_days or 0.0,
        min_value=0.0,
        format="%g",
        key=f"half life {revision}",
        help="After so long an interaction counts half. 0: it counts the same for ever.",
    )
    middle.slider(
        "Places for new items",
        0,
        100,
        round(100 * lists.new_items_share),
        format="%d%%",
        key=f"new share {revision}",
        help="In the lists of those of whom nothing is known.",
    )
    middle.number_input(
        "Days for which an item is new",
        value=lists.new_items_days,
        format="%g",
        key=f"new days {revision}",
    )
    right.slider(
        "Daily variation",
        0.0,
        1.0,
        lists.daily_variation,
        step=0.05,
        key=f"variation {revision}",
        help="How far the order of popular items differs from user to user and from day to day. "
        "0: it is the same for everybody.",
    )


def _asked(before: wire.RecommendationPolicy, revision: int) -> wire.RecommendationPolicy:
    """Return what the fields say when the button is pressed."""
    said = st.session_state
    # An empty choice stands for all types; a stored "by none" is not to be seen here.
    by_none: list[str] | None = [] if before.seen_types == [] else None
    return wire.RecommendationPolicy(
        seen_types=said[f"seen types {revision}"] or by_none,
        popularity_half_life_days=said[f"half life {revision}"] or None,
        new_items_share=said[f"new share {revision}"] / 100,
        new_items_days=said[f"new days {revision}"],
        daily_variation=said[f"variation {revision}"],
    )


def _store(client: Client, in_force: wire.PolicyAnswer) -> None:
    lists = _asked(in_force.policy.recommendations, in_force.revision)
    changed = in_force.policy.model_copy(update={"recommendations": lists})
    client.set_policy(changed, if_revision=in_force.revision, reason="changed on the page")

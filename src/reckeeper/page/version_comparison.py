"""Two versions side by side, and what users would see of each."""

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.errors import ReckeeperError
from reckeeper.page import shared, versions

METRICS = {
    "ndcg@10": "NDCG@10",
    "recall@10": "Recall@10",
    "hit_rate@10": "Hit rate@10",
    "map@10": "MAP@10",
}
ITEMS_SHOWN = 5


def show(client: Client, models: list[wire.Model]) -> None:
    with st.expander("Compare two versions", icon="🔀", key="two_versions"):
        if len(models) < 2:
            st.caption("It takes two versions to compare.")
            return
        first, second = _choose(models)
        # Not by a callback: while it runs, the words say so.
        if st.button("Compare versions", disabled=first == second, key="compare_versions"):
            _compare(client, first, second)
        found: wire.Comparison | None = st.session_state.get("compared_versions")
        shown = None if found is None else (found.first.version, found.second.version)
        if found is not None and shown == (first, second):
            _show_found(found)


def _choose(models: list[wire.Model]) -> tuple[int, int]:
    numbers = [model.version for model in models]
    active = versions.active_of(models)
    first = numbers[0] if active is None else active.version
    second = next(number for number in numbers if number != first)
    left, right = st.columns(2)
    with left:
        first = versions.choose("First", models, chosen=first, key="first_version")
    with right:
        second = versions.choose("Second", models, chosen=second, key="second_version")
    return first, second


def _compare(client: Client, first: int, second: int) -> None:
    try:
        with st.spinner(f"Comparing versions {first} and {second} …"):
            st.session_state["compared_versions"] = client.compare(first, second)
    except ReckeeperError as exc:
        st.error(shared.in_words(exc))


def _show_found(found: wire.Comparison) -> None:
    st.markdown(_overlap(found))
    _show_sides(found)
    st.caption(
        "The quality of a version was measured when it was trained, on the data held out then; "
        "the other rows compare the same sampled users."
    )
    if found.most_changed:
        st.markdown("**Users whose lists change most**")
        _show_users(found)
    gained, lost = found.exposure.gained, found.exposure.lost
    left, right = st.columns(2)
    with left:
        _show_items("Items that gain", gained, found)
    with right:
        _show_items("Items that lose", lost, found)


def _overlap(found: wire.Comparison) -> str:
    said, overlap = shared.sentence(found.sentence), found.overlap
    if overlap is None:
        return said
    return f"{said} The 95% interval is {overlap.low:.1%} to {overlap.high:.1%}."


def _show_sides(found: wire.Comparison) -> None:
    first, second = found.first, found.second
    lines: dict[str, tuple[str, str]] = {
        "Recipe": (shared.escape(first.recipe), shared.escape(second.recipe)),
        "Interactions": (f"{first.training_samples:,}", f"{second.training_samples:,}"),
        "Users": (f"{first.n_users:,}", f"{second.n_users:,}"),
        "Items": (f"{first.n_items:,}", f"{second.n_items:,}"),
        "Explained variance": (first.explained_variance, second.explained_variance),
    }
    for setting in found.settings:
        lines[shared.escape(setting.name)] = (
            shared.setting_in_words(setting.first),
            shared.setting_in_words(setting.second),
        )
    lines |= _data(first, second) | _quality(first, second)
    for pair, label in (
        (found.coverage, "Items in anybody's list"),
        (found.popularity, "Users who have a listed item, on average"),
    ):
        if pair is not None:
            lines[label] = (f"{pair.first:.1%}", f"{pair.second:.1%}")
    names = _names(found)
    rows = [{"": label, names[0]: cells[0], names[1]: cells[1]} for label, cells in lines.items()]
    shared.table(rows, alt="Two versions side by side", wrapped=names)


def _data(first: wire.ComparedModel, second: wire.ComparedModel) -> dict[str, tuple[str, str]]:
    """Return how the interactions were weighed and chosen, where that differs."""
    left, right = first.data.model_dump(), second.data.model_dump()
    return {
        shared.escape(name): (shared.setting_in_words(left[name]), shared.setting_in_words(value))
        for name, value in right.items()
        if left[name] != value
    }


def _quality(first: wire.ComparedModel, second: wire.ComparedModel) -> dict[str, tuple[str, str]]:
    left, right = first.metrics or {}, second.metrics or {}
    return {
        name: (_mean(left.get(metric)), _mean(right.get(metric)))
        for metric, name in METRICS.items()
        if metric in left or metric in right
    }


def _mean(metric: wire.Metric | None) -> str:
    return "–" if metric is None else shared.with_interval(metric)


def _show_users(found: wire.Comparison) -> None:
    names = [f"Only with {name.lower()}" for name in _names(found)]
    rows = [
        {
            "User": shared.escape(user.user_id),
            "The same": f"{user.overlap:.0%}",
            names[0]: _only(user.first, user.second),
            names[1]: _only(user.second, user.first),
        }
        for user in found.most_changed
    ]
    shared.table(rows, alt="Users whose lists change most", wrapped=names)


def _only(items: list[str], others: list[str]) -> str:
    """Return the items that are in one list alone, the first ones by name."""
    only = [shared.escape(item) for item in items if item not in others]
    more = [f"and {len(only) - ITEMS_SHOWN} more"] if len(only) > ITEMS_SHOWN else []
    return ", ".join(only[:ITEMS_SHOWN] + more) or "none"


def _show_items(title: str, items: list[wire.ExposureChange], found: wire.Comparison) -> None:
    st.markdown(f"**{title}**")
    if not items:
        st.caption("None.")
        return
    names = _names(found)
    rows = [
        {
            "Item": shared.escape(item.item_id),
            names[0]: f"{item.first:.1%}",
            names[1]: f"{item.second:.1%}",
        }
        for item in items
    ]
    shared.table(rows, alt=title, wrapped=["Item"])
    st.caption("Share of the sampled lists that have the item.")


def _names(found: wire.Comparison) -> tuple[str, str]:
    return f"Version {found.first.version}", f"Version {found.second.version}"

"""The versions, which one is active, and a retrain at the press of a button."""

import json
from collections.abc import Callable

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import (
    access,
    jobs,
    recipe_comparison,
    shared,
    version_comparison,
    versions,
)

JOBS_ASKED = 200  # among these is the last comparison looked for
JOBS_SHOWN = 20
BY_HAND, TUNE = "Set by hand", "Tune"
NO_VARIANCE = "Only singular vectors explain a share of the variance, and this recipe uses none."
TUNING = (
    "Tuning tries settings on a part of your data that it holds out. The best are kept with the "
    "new version, and later retrains use them."
)
LONGEST_TUNING_SECONDS = 86_400
PROMOTED = {
    "always": "always becomes active",
    "gate": "becomes active if it passes the gate",
    "manual": "becomes active when somebody activates it",
}
DRIFTS: dict[wire.Drift | None, str] = {
    None: "As the policy says",
    "none": "No, it stays as it is",
    "mild": "Somewhat",
    "strong": "Strongly, or I can't tell",
}
PROMOTE: dict[wire.Promote | None, str] = {
    None: "As the policy says",
    "if_not_worse": "If it is not worse",
    "always": "Always",
    "never": "Not yet: I decide",
}


# The active model


def show_problems(client: Client) -> None:
    ready = client.ready()
    for problem in ready.problems:
        st.warning(shared.sentence(problem), icon="⚠️")
    offer = ready.offer_version
    if offer is not None and access.may("operator"):
        st.button(
            f"Activate version {offer}",
            on_click=shared.attempt,
            args=(lambda: client.activate(offer), f"Version {offer} is active."),
        )


def show_active(models: list[wire.Model], *, is_training: bool) -> None:
    st.subheader("Active model", anchor=False)
    active = versions.active_of(models)
    if active is None:
        missing = "No version is active." if models else "No model has been trained yet."
        what_next = "Press the button to train one." if access.may("operator") else ""
        what_next = "One is being trained." if is_training else what_next
        st.info(f"{missing} {what_next}".strip(), icon="💡")
        return
    users, items, variance, trained_on = st.columns([1, 1, 1.25, 1.75], border=True)
    users.metric("Users", f"{active.n_users:,}")
    items.metric("Items", f"{active.n_items:,}")
    variance.metric(
        "Explained variance",
        active.explained_variance,
        help=NO_VARIANCE if active.explained_variance == "0.00%" else None,
    )
    trained_on.metric("Trained on", shared.local_time(active.trained_on))
    settings = shared.settings_in_words(active.settings)
    recipe = shared.escape(active.recipe) + (f" ({settings})" if settings else "")
    st.caption(
        f"Version {active.version} · recipe {recipe} · "
        f"times are in {shared.escape(shared.timezone().key)}"
    )


# Retraining


def show_retrain(client: Client, page: wire.JobPage, running: wire.ListedJob | None) -> None:
    in_force = client.policy()
    st.subheader("Retrain", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        if access.may("operator"):
            st.button(
                "🚀 Retrain Model",
                type="primary",
                disabled=running is not None,
                on_click=shared.attempt,
                args=(lambda: jobs.start_retrain(client, wire.RetrainRequest()),),
            )
        # A caption fades code until it is hard to read.
        st.markdown(f":small[{schedule(page, in_force)}]", width="stretch")
    st.markdown(f":small[{policy_in_words(in_force)}]")
    shared.show_notice(client)
    jobs.show_running(client, running, place=shared.MAIN)


def schedule(page: wire.JobPage, in_force: wire.PolicyAnswer) -> str:
    if page.schedule is None or page.next_scheduled_at is None:
        if in_force.source == "stored":
            return "The policy has no schedule."
        return (
            "To retrain on a schedule, set `RECKEEPER_RETRAIN_SCHEDULE` to a cron expression, "
            "such as `0 3 * * 0`."
        )
    next_at = shared.local_time(page.next_scheduled_at)
    zone = shared.escape(shared.timezone().key)
    return f"Next scheduled retrain: **{next_at}** ({zone}), by `{page.schedule}`"


def policy_in_words(in_force: wire.PolicyAnswer) -> str:
    """Return what starts a retrain, what becomes active then, and who said so."""
    policy = in_force.policy
    by_rule = []
    if policy.every_interactions is not None:
        by_rule.append(f"after **{policy.every_interactions:,}** new interactions")
    if policy.max_age_hours is not None:
        by_rule.append(f"**{policy.max_age_hours:g}** hours after the last")
    starts = ["by hand"]
    promotion = {policy.promotion.manual: ["by hand"]}
    if policy.schedule is not None:
        zone = shared.escape(policy.timezone)
        starts.append(f"by the schedule `{policy.schedule}` ({zone})")
        promotion.setdefault(policy.promotion.schedule, []).append("by schedule")
    if by_rule:
        starts.append(" or ".join(by_rule))
        promotion.setdefault(policy.promotion.rule, []).append("by rule")
    promoted = "; ".join(
        f"what is trained {' or '.join(triggers)} {PROMOTED[rule]}"
        for rule, triggers in promotion.items()
    )
    changed = ""
    if policy.promotion.manual == "always":
        changed = (
            " A retrain by hand with another recipe, settings or tuning must pass the gate first."
        )
    return f"Retrains start {', '.join(starts)}; {promoted}.{changed} {origin(in_force)}"


def origin(in_force: wire.PolicyAnswer) -> str:
    if in_force.source == "environment" or in_force.updated_at is None:
        return "This policy comes from the environment; `reckeeper policy set` changes it."
    return (
        f"Stored policy, revision {in_force.revision}, by {shared.escape(in_force.actor or '?')} "
        f"at {shared.local_time(in_force.updated_at)}: it is in force, and the environment's "
        "settings do not count."
    )


def show_panel(client: Client, active: wire.Model | None, running: wire.ListedJob | None) -> None:
    with st.expander("Retrain with another recipe or settings", icon="🎛️", key="panel"):
        recipes = {recipe.name: recipe for recipe in client.recipes()}
        names = list(recipes)
        current = active.recipe if active is not None else None
        choice, how = st.columns(2)
        name = choice.selectbox(
            "Recipe", names, index=names.index(current) if current in names else 0, key="recipe"
        )
        way = how.radio("Settings", [BY_HAND, TUNE], horizontal=True, key="way")
        summary = shared.escape(recipes[name].summary)
        if way == TUNE:
            st.caption(f"{summary} {TUNING}")
            request = ask_tuning(name)
        else:
            base = active if active is not None and active.recipe == name else None
            origin = "the defaults" if base is None else f"those of version {base.version}"
            st.caption(f"{summary} The fields start from {origin}.")
            request = ask_settings(name, recipes[name].settings, base)
        st.radio(
            "Activate the new version",
            list(PROMOTE),
            format_func=PROMOTE.__getitem__,
            horizontal=True,
            key="promote",
            help="With another recipe, other settings or tuning, the policy leaves it to the gate "
            "unless it says that a person decides.",
        )
        st.button(
            "Tune and train" if way == TUNE else "Train with these settings",
            disabled=running is not None,
            on_click=shared.attempt,
            args=(
                lambda: jobs.start_retrain(
                    client,
                    request().model_copy(update={"promote": st.session_state["promote"]}),
                ),
            ),
            key="train",
        )


# Both return what reads the fields when the button is pressed: what was typed last before the
# press would not yet be in a value that is read here.


def ask_tuning(recipe: str) -> Callable[[], wire.RetrainRequest]:
    drift, seconds = st.columns(2)
    drift.selectbox(
        "Does taste drift to what is popular?",
        list(DRIFTS),
        format_func=DRIFTS.__getitem__,
        key="drift",
        help="What users choose next often leans more to popular items than the past shows. "
        "Tuning then looks for settings that still do well; where nothing drifts they cost a "
        "little.",
    )
    seconds.number_input(
        "Time budget in seconds (optional)",
        min_value=1,
        max_value=LONGEST_TUNING_SECONDS,
        value=None,
        placeholder="120 to 400, with much data more",
        key="tune_seconds",
        help="CPU time, that of all cores together.",
    )

    def request() -> wire.RetrainRequest:
        asked = st.session_state["drift"]
        return wire.RetrainRequest(
            recipe=recipe,
            tune=True,
            tune_seconds=st.session_state["tune_seconds"],
            tuning=None if asked is None else wire.RetrainTuning(drift=asked),
        )

    return request


def ask_settings(
    recipe: str, known: list[wire.RecipeSetting], base: wire.Model | None
) -> Callable[[], wire.RetrainRequest]:
    """Show a field for each setting, filled from the version if there is one."""
    reads: dict[str, Callable[[], object]] = {}
    columns = st.columns(3)
    for number, setting in enumerate(known):
        name, value = setting.name, setting.default
        if base is not None:
            value = base.settings.get(name, value)
        key = f"setting {recipe} {name} {None if base is None else base.version}"
        with columns[number % len(columns)]:
            reads[name] = ask_setting(name, value, key=key, help=shared.escape(setting.help))
    return lambda: wire.RetrainRequest(
        recipe=recipe, settings={name: read() for name, read in reads.items()}
    )


def ask_setting(label: str, value: object, *, key: str, help: str) -> Callable[[], object]:
    if isinstance(value, bool):
        st.checkbox(label, value, key=key, help=help)
    elif isinstance(value, int):
        st.number_input(label, value=value, step=1, key=key, help=help)
    elif isinstance(value, float):
        st.number_input(label, value=value, step=0.01, format="%g", key=key, help=help)
    else:
        shown = value if isinstance(value, str) else "" if value is None else json.dumps(value)
        st.text_input(label, shown, key=key, help=help, placeholder="null")
        return lambda: typed(st.session_state[key])
    return lambda: st.session_state[key]


def typed(text: str) -> object:
    """Return the value that a text stands for: null, a number, or the text itself."""
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text.strip()


def model_management(client: Client, _demo: wire.Demo) -> None:
    # In this order: a job that has succeeded has its version among the models.
    page = client.jobs(limit=JOBS_ASKED)
    models = client.models()
    timeline = client.timeline(limit=versions.ENTRIES_ASKED)
    running = jobs.find_running(page)
    show_problems(client)
    show_active(models, is_training=running is not None and running.kind == "retrain")
    jobs.follow(client, models, page)
    show_retrain(client, page, running)
    versions.show_verdict(client, models, page.jobs, timeline.rollback_version)
    if access.may("operator"):
        show_panel(client, versions.active_of(models), running)
    versions.show(client, models, timeline)
    versions.show_segments(page.jobs)
    version_comparison.show(client, models)
    recipe_comparison.show(client, page.jobs, running)
    jobs.show_recent(page.jobs[:JOBS_SHOWN])


def show() -> None:
    """Show the page."""
    shared.page("Model Management", "🚀", model_management)

"""Which recipe suits the data: measured on what was held out, in one table and one chart."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import access, jobs, shared, verdicts

GLOSSARY = """
- **NDCG**: how much of what was held out is in the list, near its top; 1 is a perfect list
- **Hit rate**: share of users with at least one held-out item in the list
- In brackets, or by ±: where the mean would lie for other users like these, 95 times in 100
- **… against …**: the difference between two recipes for the same users, and what the gate makes \
of it. *no worse*: a loss of twice the policy's margin would have been seen; *too few to tell*: it \
would not, and so many users are needed
- **Recall**: share of a user's held-out items that are in the list
- **MAP**: how few wrong items stand before the right ones
- **Coverage**: share of all items that are in anybody's list
- **Novelty**: how little known the listed items are, in bits
- **Time to fit**: what training took on the part that was not held out, without tuning
"""
METRICS = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "Hit rate", "map": "MAP"}
BAR_PIXELS = 16
COLOURS = ["#0e9bb4", "#d08b2c"]  # seen on light and on dark


def show(client: Client, listed: list[wire.ListedJob], running: wire.ListedJob | None) -> None:
    st.subheader("Which recipe suits my data?", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        if access.may("operator"):
            st.button(
                "🔎 Compare recipes",
                disabled=running is not None,
                on_click=shared.attempt,
                args=(lambda: jobs.start_comparison(client),),
                kwargs={"place": jobs.COMPARISON},
            )
        st.markdown(
            ":small[Measures each recipe on your own data, one of them tuned, as the gate does. "
            "The active version stays as it is.]",
            width="stretch",
        )
    shared.show_notice(client, jobs.COMPARISON)
    jobs.show_running(client, running, place=jobs.COMPARISON, more=_show_so_far)
    if running is None or running.kind != "evaluate":
        _show_last(client, [job for job in listed if job.kind == "evaluate"], running)


def _show_so_far(job: wire.Job) -> None:
    if job.result is not None and job.result.recipes:
        _show_table(job.result)


def _show_last(
    client: Client, comparisons: list[wire.ListedJob], running: wire.ListedJob | None
) -> None:
    last = next(iter(comparisons), None)
    if last is not None and last.error is not None:
        when = shared.local_time(last.started_at)
        shared.say(
            shared.NOT_AN_ERROR.get(last.error.code, "error"),
            f"{shared.sentence(last.error.message)}\n\n:small[Job {last.job_id}, {when}]",
        )
    succeeded = next((job for job in comparisons if job.status == "succeeded"), None)
    if succeeded is None:
        return
    job = client.job(succeeded.job_id)
    result = job.result
    if result is None:
        return
    _show_changes(result)
    if not result.recipes:
        return
    _show_advice(client, result, is_disabled=running is not None)
    _show_table(result)
    with st.popover("What the rows mean", type="tertiary"):
        st.markdown(GLOSSARY)
    _show_chart(result)
    st.caption(_protocol(result, job))


def _show_changes(result: wire.Evaluation) -> None:
    """Say why what was measured is out of date, or is shown no more."""
    if result.state == "current":
        return
    opening = (
        "The last comparison is no longer shown."
        if result.state == "gone"
        else "**This comparison is out of date.** Compare again."
    )
    said = " ".join(shared.sentence(change.sentence) for change in result.changes)
    shared.say("info" if result.state == "gone" else "warning", f"{opening} {said}")


def _show_advice(client: Client, result: wire.Evaluation, *, is_disabled: bool) -> None:
    advice = result.advice
    if result.problem is not None:
        shared.say("warning", shared.sentence(result.problem))
    if advice is None:
        return
    used = next((line for line in result.recipes if line.name == advice.use), None)
    if used is None or not access.may("operator"):
        st.markdown(shared.sentence(advice.sentence))
        return
    request = wire.RetrainRequest(recipe=used.recipe, settings=used.settings)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.button(
            f"Use {used.name}",
            type="primary",
            help="Trains a new version on all data, with the settings in the table. The gate "
            "judges it before it is activated.",
            disabled=is_disabled,
            on_click=shared.attempt,
            args=(lambda: jobs.start_retrain(client, request, place=jobs.COMPARISON),),
            kwargs={"place": jobs.COMPARISON},
        )
        st.markdown(shared.sentence(advice.sentence), width="stretch")


def _protocol(result: wire.Evaluation, job: wire.Job) -> str:
    made_on = result.made_on
    until = "" if made_on.latest_at is None else f", up to {shared.local_time(made_on.latest_at)}"
    when = shared.local_time(job.finished_at or job.started_at)
    return (
        f"{result.n_users:,} users were judged. Held out: {shared.escape(result.how)}. Each recipe "
        f"learned from the rest and listed {result.k} items; the numbers say how well the lists "
        "meet what was held out: higher is better, and popularity is the mark to beat. Made on "
        f"{made_on.n_interactions:,} interactions of {made_on.n_users:,} users{until}, under "
        f"revision {result.policy_revision} of the policy (margin {result.margin:.1%}). Measured "
        f"{when}, job {job.job_id}."
    )


def _show_table(result: wire.Evaluation) -> None:
    k = result.k

    def mean(metric: str, form: str = ".3f") -> Callable[[wire.MeasuredRecipe], str]:
        return lambda line: format(line.metrics[f"{metric}@{k}"].mean, form)

    def headline(metric: str) -> Callable[[wire.MeasuredRecipe], str]:
        best = max(line.metrics[f"{metric}@{k}"].mean for line in result.recipes)

        def shown(line: wire.MeasuredRecipe) -> str:
            found = line.metrics[f"{metric}@{k}"]
            words = shared.with_interval(found)
            return f"**{words}**" if found.mean == best else words

        return shown

    def against(other: str) -> Callable[[wire.MeasuredRecipe], str]:
        return lambda line: "–" if line.name == other else _beside(result, line.versus[other])

    judged_by = METRICS[result.metric.partition("@")[0]]
    lines: dict[str, Callable[[wire.MeasuredRecipe], str]] = {
        f"NDCG@{k}": headline("ndcg"),
        f"Hit rate@{k}": headline("hit_rate"),
        **(
            {f"{judged_by} against {other.name}": against(other.name) for other in result.recipes}
            if len(result.recipes) > 1
            else {}
        ),
        f"Recall@{k}": mean("recall"),
        f"MAP@{k}": mean("map"),
        "Coverage": mean("coverage", ".1%"),
        "Novelty": mean("novelty", ".1f"),
        "Time to fit": lambda line: shared.duration(line.fit_seconds),
        "Settings": lambda line: shared.settings_in_words(line.settings) or "none",
    }
    names = [line.name for line in result.recipes]
    rows = [
        {"Recipe": label, **dict(zip(names, map(cell, result.recipes), strict=True))}
        for label, cell in lines.items()
    ]
    shared.table(rows, alt="Recipes compared", wrapped=["Recipe", *names])


def _beside(result: wire.Evaluation, beside: wire.Beside) -> str:
    """Return a difference with its interval, and what the gate makes of it."""
    paired = beside.metrics[result.metric]
    half = (paired.high - paired.low) / 2
    words = f"{shared.signed(paired.difference)} ± {half:.3f}".replace(" ", shared.NO_BREAK)
    words += f" {verdicts.STANDINGS[beside.standing]}"
    is_asked_for = result.n_users >= result.min_users  # else the policy's number comes first
    if beside.standing == "too_few" and beside.n_users_needed and is_asked_for:
        words += f" :small[{beside.n_users_needed:,} users needed]"
    return words


def _show_chart(result: wire.Evaluation) -> None:
    k = result.k
    metrics = {f"ndcg@{k}": f"NDCG@{k}", f"hit_rate@{k}": f"Hit rate@{k}"}
    points = [
        {
            "Recipe": measured.name,
            "Metric": name,
            "Mean": measured.metrics[metric].mean,
            "From": measured.metrics[metric].low,
            "To": measured.metrics[metric].high,
        }
        for measured in result.recipes
        for metric, name in metrics.items()
    ]
    numbers = [{"field": name, "type": "quantitative"} for name in ("Mean", "From", "To")]
    mean, low, high = ({**number, "title": None} for number in numbers)
    st.vega_lite_chart(
        pd.DataFrame(points),
        {
            "height": {"step": BAR_PIXELS},
            "encoding": {
                "y": {"field": "Recipe", "sort": None, "title": None},
                "yOffset": {"field": "Metric", "sort": None},
                "color": {
                    "field": "Metric",
                    "scale": {"domain": list(metrics.values()), "range": COLOURS},
                    "legend": {"orient": "top", "title": None},
                },
                "tooltip": [
                    {"field": "Recipe"},
                    {"field": "Metric"},
                    *({**number, "format": ".4f"} for number in numbers),
                ],
            },
            "layer": [
                {
                    "mark": {"type": "bar", "opacity": 0.35},
                    "encoding": {"x": {**mean, "axis": {"tickCount": 8}}},
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 3, "strokeCap": "round"},
                    "encoding": {
                        "x": low,
                        "x2": {"field": high["field"]},
                        "yOffset": {"field": "Metric", "sort": None, "bandPosition": 0.5},
                    },
                },
            ],
        },
        alt="NDCG and hit rate of each recipe, with 95% intervals",
    )

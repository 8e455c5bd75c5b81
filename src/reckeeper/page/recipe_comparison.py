"""Which recipe suits the data: measured on what was held out, in one table and one chart."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import jobs, shared

SPLITS = {
    "user_time": "the last fifth of each user's history",
    "time": "everything since one moment",
    "random": "a random fifth of each user's items",
}
GLOSSARY = """
- **NDCG**: how much of what was held out is in the list, near its top; 1 is a perfect list. \
In brackets: where the mean would lie for other users like these, 95 times in 100
- **against popularity**: difference in NDCG; ▲ better, ▼ worse, ≈ may be chance
- **Recall**: share of a user's held-out items that are in the list
- **Hit rate**: share of users with at least one held-out item in the list
- **MAP**: how few wrong items stand before the right ones
- **Coverage**: share of all items that are in anybody's list
- **Novelty**: how little known the listed items are, in bits
- **Time to fit**: what training took on the part that was not held out, without tuning
"""
BAR_PIXELS = 16
COLOURS = ["#0e9bb4", "#d08b2c"]  # seen on light and on dark


def show(client: Client, listed: list[wire.ListedJob], running: wire.ListedJob | None) -> None:
    st.subheader("Which recipe suits my data?", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.button(
            "🔎 Compare recipes",
            disabled=running is not None,
            on_click=shared.attempt,
            args=(lambda: jobs.start_comparison(client),),
            kwargs={"place": jobs.COMPARISON},
        )
        st.markdown(
            ":small[Measures each recipe on your own data, one of them tuned. The active version "
            "stays as it is.]",
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
    if result is None or not result.recipes:
        return
    st.markdown(_verdict(result))
    _show_table(result)
    with st.container(horizontal=True, vertical_alignment="center"):
        for measured in result.recipes:
            _train_button(client, measured, is_disabled=running is not None)
        with st.popover("What the rows mean", type="tertiary"):
            st.markdown(GLOSSARY)
    _show_chart(result)
    st.caption(_protocol(result, job))


def _train_button(client: Client, measured: wire.MeasuredRecipe, *, is_disabled: bool) -> None:
    request = wire.RetrainRequest(recipe=measured.recipe, settings=measured.settings)
    st.button(
        f"Train {_name(measured)}",
        key=f"train {measured.recipe} {measured.tuned}",
        help="Trains a new version on all data, with the settings in the table. It is active once "
        "it is done, unless the policy asks for more.",
        disabled=is_disabled,
        on_click=shared.attempt,
        args=(lambda: jobs.start_retrain(client, request, place=jobs.COMPARISON),),
        kwargs={"place": jobs.COMPARISON},
    )


def _name(measured: wire.MeasuredRecipe) -> str:
    return f"{measured.recipe} (tuned)" if measured.tuned else measured.recipe


def _best(result: wire.Evaluation) -> wire.MeasuredRecipe:
    return max(result.recipes, key=lambda row: row.metrics[f"ndcg@{result.k}"].mean)


def _verdict(result: wire.Evaluation) -> str:
    best, ndcg = _best(result), f"ndcg@{result.k}"
    if best.recipe == "popularity":
        return "Nothing does better here than **popularity**, the same list for everybody."
    gain = best.versus_popularity[ndcg]
    bounds = f"95% interval {shared.signed(gain.low)} to {shared.signed(gain.high)}"
    said = f"**{_name(best)}** does best: NDCG {shared.signed(gain.difference)} against popularity"
    if gain.low <= 0:
        return f"{said}, which may be chance ({bounds})."
    return f"{said} ({bounds})."


def _protocol(result: wire.Evaluation, job: wire.Job) -> str:
    held_out = SPLITS.get(result.split, "a part of the data")
    when = shared.local_time(job.finished_at or job.started_at)
    return (
        f"For {result.n_users:,} users, {held_out} was held out; each recipe learned from the "
        f"rest and listed {result.k} items for each user, and the numbers say how well the list "
        "meets what was held out: higher is better, and popularity is the mark to beat. "
        f"Measured {when}, job {job.job_id}."
    )


def _show_table(result: wire.Evaluation) -> None:
    k, best = result.k, _best(result)

    def mean(metric: str, form: str = ".3f") -> Callable[[wire.MeasuredRecipe], str]:
        return lambda measured: format(measured.metrics[f"{metric}@{k}"].mean, form)

    def ndcg(measured: wire.MeasuredRecipe) -> str:
        shown = shared.with_interval(measured.metrics[f"ndcg@{k}"])
        return f"**{shown}**" if measured is best else shown

    def gain(measured: wire.MeasuredRecipe) -> str:
        is_yardstick = measured.recipe == "popularity"
        return "–" if is_yardstick else _change(measured.versus_popularity[f"ndcg@{k}"])

    lines: dict[str, Callable[[wire.MeasuredRecipe], str]] = {
        f"NDCG@{k}": ndcg,
        "against popularity": gain,
        f"Recall@{k}": mean("recall"),
        f"Hit rate@{k}": mean("hit_rate"),
        f"MAP@{k}": mean("map"),
        "Coverage": mean("coverage", ".1%"),
        "Novelty": mean("novelty", ".1f"),
        "Time to fit": lambda measured: shared.duration(measured.fit_seconds),
        "Settings": lambda measured: shared.settings_in_words(measured.settings) or "none",
    }
    names = [_name(measured) for measured in result.recipes]
    rows = [
        {"Recipe": label, **dict(zip(names, map(cell, result.recipes), strict=True))}
        for label, cell in lines.items()
    ]
    shared.table(rows, alt="Recipes compared", wrapped=names)


def _change(gain: wire.Difference) -> str:
    sign = "▲" if gain.low > 0 else "▼" if gain.high < 0 else "≈"
    bounds = f"({shared.signed(gain.low)} to {shared.signed(gain.high)})"
    return f"{sign} {shared.signed(gain.difference)} {bounds}".replace(" ", shared.NO_BREAK)


def _show_chart(result: wire.Evaluation) -> None:
    k = result.k
    metrics = {f"ndcg@{k}": f"NDCG@{k}", f"recall@{k}": f"Recall@{k}"}
    points = [
        {
            "Recipe": _name(measured),
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
        alt="NDCG and Recall of each recipe, with 95% intervals",
    )

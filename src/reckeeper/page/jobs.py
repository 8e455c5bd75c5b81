"""Jobs on the page: how one is started, how far it is, and how it ended."""

import contextlib
from collections.abc import Callable

import pandas as pd
import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.errors import ConflictError, JobRunningError, ReckeeperError
from reckeeper.page import access, shared, verdicts

PROGRESS_SECONDS = 1.0
CHART_PIXELS = 160

COMPARISON = "comparison"
"""The place, besides `shared.MAIN`, where a job may be started; its progress is shown there."""

STATUS = {
    "running": ":blue-badge[🔵 running]",
    "succeeded": ":green-badge[🟢 succeeded]",
    "failed": ":red-badge[🔴 failed]",
    "cancelled": ":gray-badge[⚪ cancelled]",
    "interrupted": ":orange-badge[🟠 interrupted]",
}
STAGES = {
    "starting": "Starting the training process",
    "reading": "Reading interactions",
    "tuning": "Tuning: trying settings",
    "judging": "Judging against the active version",
    "deciding": "Seeing whether order helps",
    "fitting": "Fitting the model",
    "measuring": "Measuring on what was held out",
    "writing": "Writing the model files",
    "registering": "Registering the new version",
    "loading": "Loading the new version and trying it",
    "done": "Done",
}


# Starting one, and following it


def start_retrain(
    client: Client, request: wire.RetrainRequest, *, place: str = shared.MAIN
) -> None:
    """Start a retrain, or join the one that runs."""
    try:
        job = client.start_retrain(
            recipe=request.recipe,
            settings=request.settings,
            tune=request.tune,
            tune_seconds=request.tune_seconds,
            drift=None if request.tuning is None else request.tuning.drift,
            promote=request.promote,
        )
    except JobRunningError as exc:
        match exc.details:
            case {"kind": "evaluate"}:
                pass  # the page says that it runs
            case {"job_id": int(job_id)}:
                words = "A retrain was already running: this is its progress."
                shared.notify("info", words, place=place)
                _watch(job_id, place)
            case _:
                raise
    else:
        _watch(job.job_id, place)


def start_comparison(client: Client) -> None:
    """Start comparing the recipes; of a job that runs already, the page says so."""
    with contextlib.suppress(JobRunningError):
        client.start_evaluation()


def follow(client: Client, models: list[wire.Model], page: wire.JobPage) -> None:
    """Remember the running job, or keep the outcome of the one that ran as the notice."""
    running = find_running(page)
    if running is None:
        _conclude(models, page.jobs)
        shared.watch(client, page)
    else:
        _watch(running.job_id, place_of(running))


def find_running(page: wire.JobPage) -> wire.ListedJob | None:
    return next((job for job in page.jobs if job.status == "running"), None)


def place_of(job: wire.ListedJob) -> str:
    """Return where a job's progress is shown: where this reader started it."""
    if job.kind == "evaluate":
        return COMPARISON
    watched_id, place = st.session_state.get("watched_job", (None, shared.MAIN))
    return place if watched_id == job.job_id else shared.MAIN


def _watch(job_id: int | None, place: str) -> None:
    st.session_state["watched_job"] = (job_id, place)


def _conclude(models: list[wire.Model], jobs: list[wire.ListedJob]) -> None:
    watched_id, place = st.session_state.pop("watched_job", (None, shared.MAIN))
    job = next((job for job in jobs if job.job_id == watched_id), None)
    if job is None or job.kind != "retrain":
        return  # what became of a comparison is said from its job, for whoever comes
    if job.error is not None:
        shared.notify_error(job.error.to_error(), place=place)
        return
    model = next((model for model in models if model.version == job.version), None)
    if model is not None:
        shared.notify("success", _success(model, job, place), place=place)
    elif job.version is None:
        shared.notify("info", _outcome(job), place=place)


def _success(model: wire.Model, job: wire.ListedJob, place: str) -> str:
    lines = [
        f"Model retrained in {model.seconds:.1f}s - {model.training_samples} samples, "
        f"{model.explained_variance} variance explained",
        f"Version **{model.version}** · **{model.training_samples:,}** samples · "
        f"**{model.n_users:,}** users · **{model.n_items:,}** items · "
        f"**{model.explained_variance}** explained variance",
    ]
    verdict = job.verdict
    if job.request != wire.JobRequest():
        how = ", settings found by tuning" if job.request.tune else ""
        settings = shared.settings_in_words(model.settings)
        lines.append(f"Recipe **{shared.escape(model.recipe)}**{how}: {settings}")
    if model.decided:
        lines.append(f"Decided from the data: {shared.settings_in_words(model.decided)}")
    if verdict is not None and not verdicts.asks_for_care(job):
        lines.append(verdicts.in_words(verdict))
    elif verdict is not None and place != shared.MAIN:
        lines.append("Its verdict is shown above, with what you can do about it.")
    return "\n\n".join(lines)


# While one runs


def show_running(
    client: Client,
    running: wire.ListedJob | None,
    *,
    place: str,
    more: Callable[[wire.Job], None] | None = None,
) -> None:
    """Show in a place the progress of the job that belongs there, or where to look for it."""
    if running is None:
        return
    if place_of(running) == place:
        _show_progress(client, running.job_id, more)
        return
    what = "A retrain runs" if running.kind == "retrain" else "The recipes are being compared"
    where = "above" if place == COMPARISON else "below"
    st.markdown(f":small[{what}: the progress is shown {where}. One job runs at a time.]")


@st.fragment(run_every=PROGRESS_SECONDS)
def _show_progress(client: Client, job_id: int, more: Callable[[wire.Job], None] | None) -> None:
    try:
        job = client.job(job_id)
    except ReckeeperError as exc:
        st.warning(shared.in_words(exc), icon="⏳")
        return
    if job.status != "running":
        st.rerun()
    st.progress(min(max(job.fraction, 0.0), 1.0), text=_progress(job))
    if job.stage == "tuning":
        _show_tuning(job)
    _show_buttons(client, job)
    if more is not None:
        more(job)


def _progress(job: wire.ListedJob) -> str:
    stage = STAGES.get(job.stage, job.stage.replace("_", " ").capitalize())
    words = [f"**{shared.escape(stage)}**", f"{job.fraction:.0%}"]
    words.append(f"{shared.duration(job.seconds_elapsed)} elapsed")
    if job.seconds_left is not None:
        words.append(f"about {shared.duration(job.seconds_left)} left")
    words.append(f"job {job.job_id}, {shared.escape(shared.trigger(job.trigger))}")
    return " · ".join(words)


def _background(job: wire.ListedJob) -> str:
    """Return what started a job, where a rule did, and the memory that it takes."""
    words = [] if job.cause is None else [shared.escape(job.cause.sentence)]
    used, estimated = job.memory_bytes, job.estimated_memory_bytes
    if used is not None:
        words.append(f"Memory: **{shared.memory(used)}**")
        if estimated is not None:
            words[-1] += f" of about {shared.memory(estimated)} that it may need"
    elif estimated is not None:
        words.append(f"Memory: about {shared.memory(estimated)} may be needed")
    return " · ".join(words)


def _show_tuning(job: wire.ListedJob) -> None:
    found = job.progress
    best = None if found is None else found.settings
    if found is None or best is None or found.ndcg is None:
        st.markdown(":small[The first settings are being measured.]")
    else:
        tried = f"**{found.n_tried:,}** tried · best NDCG so far **{found.ndcg:.4f}**"
        st.markdown(f":small[{tried}, with {shared.settings_in_words(best)}]")
        _show_rise(found.history)
    if job.finish_requested:
        st.markdown(":small[Tuning is being ended; the model gets the best settings so far.]")


def _show_rise(history: list[wire.BestSoFar]) -> None:
    """Draw how the best has risen, once there is a second one."""
    if len(history) < 2:
        return
    st.vega_lite_chart(
        pd.DataFrame([(best.n_tried, best.ndcg) for best in history], columns=["Tried", "Best"]),
        {
            "height": CHART_PIXELS,
            "mark": {"type": "line", "interpolate": "step-after", "point": True},
            "encoding": {
                "x": {"field": "Tried", "type": "quantitative", "title": "Settings tried"},
                "y": {
                    "field": "Best",
                    "type": "quantitative",
                    "title": "Best NDCG so far",
                    "scale": {"zero": False},
                },
                "tooltip": [{"field": "Tried"}, {"field": "Best", "format": ".4f"}],
            },
        },
        alt="The best NDCG so far, by the number of settings tried",
    )


def _show_buttons(client: Client, job: wire.Job) -> None:
    if job.cancel_requested:
        st.markdown(":small[The job is being cancelled.]")
        return
    job_id, place = job.job_id, place_of(job)
    if not access.may("operator"):
        st.markdown(f":small[{_background(job)}]")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.stage == "tuning" and not job.finish_requested:
            has_best = job.progress is not None and job.progress.settings is not None
            stop = "Stop tuning, use the best so far"
            if st.button(stop, disabled=not has_best, icon="⏹️"):
                shared.attempt(lambda: _ask(client.finish_job, job_id), place=place)
                st.rerun()
        help = "Ends the job and removes what it has made. The active version stays active."
        if st.button("Cancel", key=f"cancel {job_id}", help=help):
            shared.attempt(lambda: _ask(client.cancel_job, job_id), place=place)
            st.rerun()
        st.markdown(f":small[{_background(job)}]", width="stretch")


def _ask(end: Callable[[int], object], job_id: int) -> None:
    with contextlib.suppress(ConflictError):  # it had just ended by itself
        end(job_id)


# Those that have been


def show_recent(jobs: list[wire.ListedJob]) -> None:
    with st.expander("Recent jobs", icon="🕘", key="recent_jobs"):
        if not jobs:
            st.caption("None yet.")
            return
        rows = [
            {
                "Job": job.job_id,
                "What": _kind(job),
                "Status": STATUS[job.status],
                "Started": shared.local_time(job.started_at, seconds=True).replace(
                    "-", "\N{NON-BREAKING HYPHEN}"
                ),
                "Duration": job.seconds_elapsed,
                "Trigger": _trigger(job),
                "Outcome": _outcome(job),
            }
            for job in jobs
        ]
        shared.table(
            rows,
            alt="Recent training jobs",
            formats={"Duration": shared.duration},
            wrapped=["Trigger", "Outcome"],
        )


def _kind(job: wire.ListedJob) -> str:
    if job.kind == "evaluate":
        return "comparison"
    return "tuned retrain" if job.request.tune else "retrain"


def _trigger(job: wire.ListedJob) -> str:
    if job.cause is not None:
        return shared.escape(job.cause.sentence)
    return shared.escape(shared.trigger(job.trigger)).replace(" ", shared.NO_BREAK)


def _outcome(job: wire.ListedJob) -> str:
    if job.error is not None:
        return shared.sentence(job.error.message)
    if job.status != "succeeded":
        return ""
    if job.kind == "evaluate":
        return "Recipes compared"
    if job.version is None:
        return "Nothing had changed since the last version: no new one was made"
    promoted = {True: ", promoted", False: ", not promoted", None: ""}[job.promoted]
    return f"Version {job.version}{promoted}"

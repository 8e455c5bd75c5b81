"""The versions, which one serves, and a retrain at the press of a button."""

import shared
import streamlit as st

from reckeeper.client import Client, Demo, Job, JobPage, Model
from reckeeper.errors import JobRunningError, ReckeeperError

PROGRESS_SECONDS = 0.5

MODEL_STATUS = {"active": ":green-badge[🟢 active]", "inactive": ":gray-badge[⚪ inactive]"}
JOB_STATUS = {
    "running": ":blue-badge[🔵 running]",
    "succeeded": ":green-badge[🟢 succeeded]",
    "failed": ":red-badge[🔴 failed]",
    "interrupted": ":orange-badge[🟠 interrupted]",
}
STAGES = {
    "starting": "Starting the training process",
    "reading": "Reading interactions",
    "fitting": "Fitting the model",
    "writing": "Writing the model files",
    "registering": "Registering the new version",
    "done": "Done",
}


# The active model


def show_problems(client: Client) -> None:
    ready = client.ready()
    for problem in ready["problems"]:
        st.warning(shared.sentence(problem), icon="⚠️")
    offer = ready["offer_version"]
    if offer is not None:
        st.button(
            f"Activate version {offer}",
            on_click=shared.attempt,
            args=(lambda: client.activate(offer), f"Version {offer} is active."),
        )


def show_active(models: list[Model], *, is_training: bool) -> None:
    st.subheader("Active model", anchor=False)
    active = next((model for model in models if model["status"] == "active"), None)
    if active is None:
        missing = "No version is active." if models else "No model has been trained yet."
        what_next = "One is being trained." if is_training else "Press the button to train one."
        st.info(f"{missing} {what_next}", icon="💡")
        return
    users, items, variance, trained_on = st.columns([1, 1, 1.25, 1.75], border=True)
    users.metric("Users", f"{active['n_users']:,}")
    items.metric("Items", f"{active['n_items']:,}")
    variance.metric("Explained variance", active["explained_variance"])
    trained_on.metric("Trained on", shared.local_time(active["trained_on"]))
    st.caption(
        f"Version {active['version']} · recipe {shared.escape(recipe(active))} · "
        f"times are in {shared.escape(shared.timezone().key)}"
    )


def recipe(model: Model) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in model["settings"].items())
    return f"{model['recipe']} ({settings})" if settings else model["recipe"]


# Retraining


def start_retrain(client: Client) -> None:
    try:
        job = client.start_retrain()
    except JobRunningError as exc:
        shared.notify("info", "A retrain was already running: this is its progress.")
        st.session_state["watched_job"] = (exc.details or {}).get("job_id")
    else:
        st.session_state["watched_job"] = job["job_id"]


def show_retrain(client: Client, models: list[Model], page: JobPage, running: Job | None) -> None:
    st.subheader("Retrain", anchor=False)
    if running is not None:
        st.session_state["watched_job"] = running["job_id"]
    else:
        conclude(models, page["jobs"])
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.button(
            "🚀 Retrain Model",
            type="primary",
            disabled=running is not None,
            on_click=shared.attempt,
            args=(lambda: start_retrain(client),),
        )
        # A caption fades code until it is hard to read.
        st.markdown(f":small[{schedule(page)}]", width="stretch")
    shared.show_notice()
    if running is not None:
        show_progress(client, running["job_id"])
    else:
        shared.watch(client, page)


def schedule(page: JobPage) -> str:
    if page["schedule"] is None or page["next_scheduled_at"] is None:
        return (
            "To retrain on a schedule, set `RECKEEPER_RETRAIN_SCHEDULE` to a cron expression, "
            "such as `0 3 * * 0`."
        )
    next_at = shared.local_time(page["next_scheduled_at"])
    zone = shared.escape(shared.timezone().key)
    return f"Next scheduled retrain: **{next_at}** ({zone}), by `{page['schedule']}`"


@st.fragment(run_every=PROGRESS_SECONDS)
def show_progress(client: Client, job_id: int) -> None:
    try:
        job = client.job(job_id)
    except ReckeeperError as exc:
        st.warning(shared.sentence(exc.message), icon="⏳")
        return
    if job["status"] != "running":
        st.rerun()
    st.progress(min(max(job["fraction"], 0.0), 1.0), text=progress(job))


def progress(job: Job) -> str:
    stage = STAGES.get(job["stage"], job["stage"].replace("_", " ").capitalize())
    words = [f"**{shared.escape(stage)}**", f"{job['fraction']:.0%}"]
    words.append(f"{shared.duration(job['seconds_elapsed'])} elapsed")
    if job["seconds_left"] is not None:
        words.append(f"about {shared.duration(job['seconds_left'])} left")
    words.append(f"job {job['job_id']}, {shared.escape(shared.trigger(job['trigger']))}")
    return " · ".join(words)


def conclude(models: list[Model], jobs: list[Job]) -> None:
    """Keep the outcome of the job that was watched as the notice."""
    job_id = st.session_state.pop("watched_job", None)
    job = next((job for job in jobs if job["job_id"] == job_id), None)
    if job is None:
        return
    if job["error"] is not None:
        shared.notify_error(job["error"]["code"], job["error"]["message"])
        return
    model = next((model for model in models if model["version"] == job["version"]), None)
    if model is not None:
        shared.notify("success", outcome(model))


def outcome(model: Model) -> str:
    return (
        f"Model retrained in {model['seconds']:.1f}s - {model['training_samples']} samples, "
        f"{model['explained_variance']} variance explained\n\n"
        f"Version **{model['version']}** · **{model['training_samples']:,}** samples · "
        f"**{model['n_users']:,}** users · **{model['n_items']:,}** items · "
        f"**{model['explained_variance']}** explained variance"
    )


# Tables


def show_versions(models: list[Model]) -> None:
    st.subheader("Versions", anchor=False)
    if not models:
        st.caption("None yet.")
        return
    rows = [
        {
            "Version": model["version"],
            "Status": MODEL_STATUS[model["status"]],
            "Users": model["n_users"],
            "Items": model["n_items"],
            "Explained variance": float(model["explained_variance"].rstrip("%")),
            "Interactions": model["training_samples"],
            "Trained on": shared.local_time(model["trained_on"], seconds=True),
            "Trigger": shared.escape(shared.trigger(model["trigger"])),
            "Took": model["seconds"],
        }
        for model in models
    ]
    shared.table(
        rows,
        alt="Model versions",
        formats={
            "Users": "{:,}",
            "Items": "{:,}",
            "Interactions": "{:,}",
            "Explained variance": "{:.2f}%",
            "Took": shared.duration,
        },
    )


def show_jobs(jobs: list[Job]) -> None:
    with st.expander("Recent jobs", icon="🕘", key="recent_jobs"):
        if not jobs:
            st.caption("None yet.")
            return
        rows = [
            {
                "Job": job["job_id"],
                "Status": JOB_STATUS[job["status"]],
                "Started": shared.local_time(job["started_at"], seconds=True).replace(
                    "-", "\N{NON-BREAKING HYPHEN}"
                ),
                "Duration": job["seconds_elapsed"],
                "Trigger": shared.escape(shared.trigger(job["trigger"])),
                "Outcome": job_outcome(job),
            }
            for job in jobs
        ]
        shared.table(
            rows,
            alt="Recent training jobs",
            formats={"Duration": shared.duration},
            wrapped="Outcome",
        )


def job_outcome(job: Job) -> str:
    if job["error"] is not None:
        return shared.sentence(job["error"]["message"])
    return "" if job["version"] is None else f"Version {job['version']}"


def model_management(client: Client, _demo: Demo) -> None:
    # In this order: a job that has succeeded has its version among the models.
    page = client.jobs(limit=20)
    models = client.models()
    running = next((job for job in page["jobs"] if job["status"] == "running"), None)
    show_problems(client)
    show_active(models, is_training=running is not None)
    show_retrain(client, models, page, running)
    show_versions(models)
    show_jobs(page["jobs"])


shared.page("Model Management", "🚀", model_management)

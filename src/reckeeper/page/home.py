"""The first page: what Reckeeper is, how the installation is, where to go."""

import json

import streamlit as st

from reckeeper import wire
from reckeeper.client import Client
from reckeeper.page import access, shared

SERVER_STATUS = {"ok": "🟢 Ready", "degraded": "🟡 Degraded", "unavailable": "🔴 Not ready"}
JOB_STATUS = {
    "running": "🔵 Running",
    "succeeded": "🟢 Succeeded",
    "failed": "🔴 Failed",
    "cancelled": "⚪ Cancelled",
    "interrupted": "🟠 Interrupted",
}
FIRST_INTERACTIONS = [
    {"user_id": "u1", "item_id": "i7", "interaction_type": "click"},
    {"user_id": "u2", "item_id": "i7", "interaction_type": "click"},
    {"user_id": "u2", "item_id": "i8", "interaction_type": "click"},
]
"""So that there is an item for u1, even where there is nothing else yet."""


def status(client: Client, models: list[wire.Model]) -> None:
    ready = client.ready()
    page = client.jobs(limit=20)
    job = next((job for job in page.jobs if job.kind == "retrain"), None)
    active = next((model for model in models if model.status == "active"), None)
    server_card, model_card, job_card = st.columns(3, border=True)
    with server_card:
        show_server(ready, client.url)
    with model_card:
        show_model(active, job)
    with job_card:
        show_job(job)
    for problem in ready.problems:
        st.warning(shared.sentence(problem), icon="⚠️")
    shared.watch(client, page)


def show_server(ready: wire.Readiness, url: str) -> None:
    st.metric("Server", SERVER_STATUS[ready.status])
    st.markdown(f":small[`{url}`]")  # a caption fades code until it is hard to read


def show_model(model: wire.Model | None, job: wire.ListedJob | None) -> None:
    if model is None:
        st.metric("Active model", "None yet")
        is_coming = job is not None and job.status == "running"
        st.caption("One is being trained." if is_coming else "Retrain to get the first one.")
        return
    st.metric("Active model", f"Version {model.version}")
    st.caption(
        f"{model.n_users:,} users · {model.n_items:,} items · {model.explained_variance} explained"
    )


def show_job(job: wire.ListedJob | None) -> None:
    if job is None:
        st.metric("Last retrain", "None yet")
        st.caption("Nothing was trained so far.")
        return
    st.metric("Last retrain", JOB_STATUS[job.status])
    st.caption(
        f"{shared.local_time(job.started_at)} · {shared.duration(job.seconds_elapsed)} · "
        f"{shared.escape(shared.trigger(job.trigger))}"
    )


def first_steps(url: str) -> None:
    st.subheader("Send your first interactions", anchor=False)
    st.markdown(
        "Tell Reckeeper what your users do, one interaction or up to 10,000 in a list. "
        "Recommendations follow at once; a retrain makes them better."
    )
    rows = ",\n       ".join(json.dumps(row) for row in FIRST_INTERACTIONS)
    st.code(
        f"curl {url}/user_interactions \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d '[{rows}]'\n\n"
        f"curl {url}/recommendations/u1",
        language="bash",
    )
    st.markdown(f"Every route, with examples to try: [API documentation]({url}/docs)")


def show_offer() -> None:
    """Show what to begin with where there is nothing yet."""
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.markdown(
            "**Begin with a file of what your users did**: an export of your shop, in any common "
            "form. You see what is found in it before anything is stored.",
            width="stretch",
        )
        st.page_link("pages/3_Interactions.py", label="Import a file", icon="📥")


def home(client: Client, demo: wire.Demo) -> None:
    st.markdown(
        "Reckeeper keeps the recommendation models of your product: it takes in what users do, "
        "retrains on it, and swaps in the new model without dropping a request."
    )
    shared.show_notice(client)
    models = client.models()
    if not demo.loaded and not models and access.may("operator"):
        show_offer()
    status(client, models)
    with st.container(horizontal=True):
        st.page_link(
            "pages/1_Recommendations.py", label="See recommendations for a user", icon="✨"
        )
        st.page_link("pages/2_Model_Management.py", label="Manage and retrain models", icon="🚀")
        st.page_link("pages/3_Interactions.py", label="See and import interactions", icon="📥")
    first_steps(shared.reachable_url(client.url))


def show() -> None:
    """Show the page."""
    shared.page("Reckeeper", "🎯", home)

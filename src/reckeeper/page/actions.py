"""What a person may do next, as the page words it: a button where it can be done here."""

from collections.abc import Mapping

from reckeeper.client import Client
from reckeeper.errors import Action, ActionName

ACTIONS: Mapping[ActionName, str] = {
    "activate": "Activate version {version}",
    "change_policy": "`reckeeper policy set` changes the policy.",
    "create_admin_key": "`reckeeper keys create NAME --role admin` makes one.",
    "give_history": "`reckeeper evaluate --history FILE` gives it.",
    "import_file": "`reckeeper import` reads a file in.",
    "import_query": "`reckeeper import --database URL --query SQL` imports what is there.",
    "list_dead_letters": "`reckeeper dlq list` lists the dead letters.",
    "list_imports": "`reckeeper imports list` lists the imports.",
    "list_jobs": "The jobs are listed under Recent jobs, on the page Model Management.",
    "list_keys": "`reckeeper keys list` lists the keys.",
    "list_recipes": "The recipes are listed under Retrain with another recipe or settings.",
    "list_versions": "The versions are listed on the page Model Management.",
    "migrate": "`reckeeper migrate` makes or updates the database.",
    "retrain": "Retrain now",
    "roll_back": "Roll back",
    "see_job": "Job {job_id} is listed under Recent jobs, on the page Model Management.",
    "see_policy": "The policy in force is described on the page Model Management.",
    "send_interactions": "The first page shows how to send interactions.",
    "start": "`reckeeper up` starts worker, server and page.",
    "undo_import": "`reckeeper imports undo {import_id}` undoes it.",
    "unpin": "Unpin version {version}",
    "verify_audit": "`reckeeper audit verify` checks the audit trail.",
    "weigh_type": "`reckeeper policy set weights.TYPE=1` gives an interaction type a weight.",
}
"""The label of a button for those that are done here, a sentence for the others."""

_BUTTONS: frozenset[ActionName] = frozenset({"activate", "retrain", "roll_back", "unpin"})


def is_button(action: Action | None) -> bool:
    """Say whether an action can be done here."""
    return action is not None and action.name in _BUTTONS


def act(client: Client, action: Action) -> str:
    """Do what a button stands for, and return what was done."""
    match action:
        case Action("activate", {"version": int(version)}):
            return f"Version {client.activate(version).version} is active."
        case Action("unpin", {"version": int(version)}):
            return f"Version {client.unpin(version).version} is not pinned."
        case Action("roll_back"):
            return f"Version {client.roll_back().version} is active again."
        case _:
            return f"Retrain {client.start_retrain().job_id} has started."

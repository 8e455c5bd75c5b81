"""What to do next, as the command line words it."""

from collections.abc import Mapping

from reckeeper.errors import ActionName, ReckeeperError

ACTIONS: Mapping[ActionName, str] = {
    "activate": "`reckeeper models activate {version}` activates it.",
    "change_policy": "`reckeeper policy set` changes the policy.",
    "create_admin_key": "`reckeeper keys create NAME --role admin` makes one.",
    "give_history": "`--history FILE` gives it.",
    "import_file": "`reckeeper import FILE` reads a file in.",
    "import_query": "`reckeeper import --database URL --query SQL` imports what is there.",
    "list_dead_letters": "`reckeeper dlq list` lists the dead letters.",
    "list_imports": "`reckeeper imports list` lists the imports.",
    "list_jobs": "`reckeeper jobs` lists the jobs.",
    "list_keys": "`reckeeper keys list` lists the keys.",
    "list_recipes": "`reckeeper evaluate --compare` measures the recipes.",
    "list_versions": "`reckeeper models` lists the versions.",
    "migrate": "`reckeeper migrate` makes or updates the database.",
    "retrain": "`reckeeper retrain` trains a new version.",
    "roll_back": "`reckeeper models rollback` rolls back.",
    "see_job": "`reckeeper jobs show {job_id}` shows the job.",
    "see_policy": "`reckeeper policy` shows the policy in force.",
    "send_interactions": "`reckeeper import FILE` reads interactions from a file.",
    "start": "`reckeeper up` starts one. RECKEEPER_SERVER_URL names a server elsewhere, and "
    "RECKEEPER_DATA_DIR the data folder of another installation.",
    "undo_import": "`reckeeper imports undo {import_id}` undoes it.",
    "unpin": "`reckeeper models unpin {version}` unpins it.",
    "verify_audit": "`reckeeper audit verify` checks the audit trail.",
    "weigh_type": "`reckeeper policy set weights.TYPE=1` gives an interaction type a weight.",
}
"""A sentence for each action."""


def sentence(error: ReckeeperError) -> str:
    """Return the message of an error, with what to do next."""
    if error.action is None:
        return error.in_full
    return f"{error.in_full} {error.action.in_words(ACTIONS)}"

"""What becomes of a version that a job has made: checked, decided on, activated or held back."""

import contextlib
import functools

from reckeeper import notices, serving, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    ConflictError,
    JobCancelledError,
    NotFoundError,
    PinnedError,
    TrainingError,
)
from reckeeper.registry import Registry
from reckeeper.training import jobs
from reckeeper.training.request import AUTOMATIC, has_same_settings
from reckeeper.training.verdict import Disposition, PromotionRule, Verdict
from reckeeper.wire import Promote, RetrainRequest


class Promotion:
    """Decides on the versions that jobs have made.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    settings : Settings
        The policy while none is stored.
    served : Serving, optional
        What this process serves; it takes over the model that was checked.
    """

    def __init__(
        self,
        database: storage.Database,
        registry: Registry,
        settings: Settings,
        *,
        served: serving.Serving | None = None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._served = served

    def settle(self, job: storage.Job) -> None:
        """End a job whose child has done its work; decide on its version, if it has made one.

        Raises
        ------
        JobCancelledError
            It was cancelled at the last moment; its version is gone.
        JobInterruptedError
            It has lost its lease.
        ReckeeperError
            Its version cannot be activated.
        """
        job_id = job.job_id
        if job.version is None:  # an evaluation, or a retrain that found nothing new
            is_retrain = job.kind == storage.jobs.RETRAIN
            with self._database.write() as connection:
                jobs.succeed(connection, job_id, promoted=False if is_retrain else None)
            jobs.count(self._database, job_id)
            return
        try:
            self._decide(job, job.version, Verdict.from_json(job.verdict or {}))
        except JobCancelledError:
            self.discard(job, reason=f"job {job_id} was cancelled")
            raise
        jobs.count(self._database, job_id)
        self.tidy()

    def discard(self, job: storage.Job, *, reason: str) -> None:
        """Delete the version that a job has made, if it has made one."""
        if job.version is not None:
            with contextlib.suppress(ConflictError, NotFoundError):
                self._registry.versions.delete(job.version, actor="worker", reason=reason)

    def tidy(self) -> None:
        """Delete the versions that the policy does not keep."""
        with self._database.read() as connection:
            policy = policies.current(connection, self._settings).policy
        self._registry.versions.retain(
            n_versions=policy.versions_kept, days=policy.kept_days, actor="worker"
        )

    def _decide(self, job: storage.Job, version: int, verdict: Verdict) -> None:
        """Check a version, then activate it if the policy lets it; its file is read once."""
        is_rejected = verdict.decision == "reject"
        with self._database.read() as connection:
            policy = policies.current(connection, self._settings).policy
            before = storage.models.active_version(connection)
            judged_beside = None
            if verdict.active_version is not None:
                judged_beside = storage.models.get(connection, verdict.active_version)
            has_demo = storage.imports.demo(connection) is not None
        model = self._registry.versions.load(version)
        serving.check(model)
        if model.artifact.metadata.is_demo and not has_demo:
            self.discard(job, reason="demo data removed")
            raise TrainingError(
                "The demo data was removed while this job trained on it. Retrain on what is there.",
                action=Action("retrain"),
            )
        made = model.artifact.metadata
        is_plain = not job.request.get("tune") and (
            judged_beside is None or has_same_settings(judged_beside, made.recipe, made.settings)
        )
        rule = promotion_rule(job, policy, is_plain=is_plain)
        hold_back = functools.partial(self._hold_back, job, version, verdict, rule)
        if rule.promote == "never":
            by = "by the policy" if rule.because == "policy" else "as was asked,"
            hold_back("waits", f"waits: {by} a person decides.")
            return
        if rule.promote == "if_not_worse" and is_rejected:
            hold_back("rejected", "was rejected and is not active.")
            return
        is_untold = verdict.standing in {"too_few", "not_compared"}
        if rule.because == "unattended" and is_untold and not is_plain:
            hold_back(
                "waits",
                "waits: it has another recipe or other settings than the active version, and "
                "whether it is worse could not be told. A person decides.",
            )
            return
        outcome, action = f"Version {version} is active.", None
        if is_rejected:
            as_said = "as was asked"
            if rule.because != "request":
                as_said = "as the policy has it for this kind of retrain"
            outcome = f"Version {version} is active, {as_said}."
            action = None if before is None else Action("roll_back")
        activated = verdict.with_outcome(rule, "activated", outcome, action)

        def note(connection: storage.Connection) -> None:
            active = storage.models.active_version(connection)
            if rule.promote == "if_not_worse" and active != verdict.active_version:
                raise _OvertakenError
            jobs.succeed(connection, job.job_id, promoted=True, verdict=activated)

        try:
            with (
                contextlib.nullcontext() if self._served is None else self._served.expecting(model)
            ):
                self._registry.switch.activate(
                    model,
                    actor=job.actor or "worker",
                    reason=_why(job),
                    action="promote",
                    job_id=job.job_id,
                    also=note,
                )
        except PinnedError as exc:
            hold_back("pinned", f"is not active: {exc.message}")
        except _OvertakenError:
            hold_back("overtaken", "waits: since it was judged, another version was activated.")

    def _hold_back(
        self,
        job: storage.Job,
        version: int,
        verdict: Verdict,
        rule: PromotionRule,
        disposition: Disposition,
        why: str,
    ) -> None:
        """Keep a job's version inactive, and say why."""
        verdict = verdict.with_outcome(
            rule, disposition, f"Version {version} {why}", Action("activate", {"version": version})
        )
        with self._database.write() as connection:
            jobs.succeed(connection, job.job_id, promoted=False, verdict=verdict)
            if verdict.decision == "reject":
                notices.notify(
                    connection,
                    "rejected",
                    {
                        "job_id": job.job_id,
                        "version": version,
                        "trigger": job.trigger,
                        "message": verdict.outcome,
                        "verdict": verdict.to_json(),
                    },
                )


_PROMOTE: dict[str, Promote] = {"always": "always", "gate": "if_not_worse", "manual": "never"}
"""What a retrain says in place of the policy's words."""


def promotion_rule(job: storage.Job, policy: policies.Policy, *, is_plain: bool) -> PromotionRule:
    """Return what decides whether a job's version is activated, and why that applies.

    What the request says comes first, then the policy; where that activates
    every retrain by hand, the gate still decides on one that changes recipe or
    settings.

    Parameters
    ----------
    job : storage.Job
    policy : Policy
    is_plain : bool
        Whether recipe and settings are those of the active version, and were
        not tuned.
    """
    asked = RetrainRequest.model_validate(job.request).promote
    if asked is not None:
        return PromotionRule(asked, "request")
    said = _PROMOTE[policy.promotion_for(job.trigger)]
    if job.trigger == "demo":
        return PromotionRule(said, "demo")
    if job.trigger in AUTOMATIC:
        return PromotionRule(said, "unattended" if said == "if_not_worse" else "policy")
    if said != "always":
        return PromotionRule(said, "policy")
    if is_plain:
        return PromotionRule("always", "plain")
    return PromotionRule("if_not_worse", "changed")


class _OvertakenError(Exception):
    """What a version was judged against is no longer active."""


def _why(job: storage.Job) -> str:
    """Return in words what started a job, for the timeline."""
    cause = (job.cause or {}).get("sentence")
    return f"job {job.job_id}: {cause}" if cause else f"job {job.job_id}"

"""What becomes of a version that a job has made: checked, decided on, activated or held back."""

import contextlib

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
from reckeeper.training.verdict import Disposition, Verdict


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
            has_demo = storage.imports.demo(connection) is not None
        mode = policy.promotion_for(job.trigger)
        model = self._registry.versions.load(version)
        serving.check(model)
        if model.artifact.metadata.is_demo and not has_demo:
            self.discard(job, reason="demo data removed")
            raise TrainingError(
                "The demo data was removed while this job trained on it. Retrain on what is there.",
                action=Action("retrain"),
            )
        if mode == "manual":
            self._hold_back(
                job, version, verdict, "waits", "waits: by the policy a person decides."
            )
            return
        if mode == "gate" and is_rejected:
            self._hold_back(job, version, verdict, "rejected", "was rejected and is not active.")
            return
        outcome, action = f"Version {version} is active.", None
        if is_rejected:
            outcome = f"Version {version} is active, as the policy has it for this kind of retrain."
            action = None if before is None else Action("roll_back")
        activated = verdict.with_outcome("activated", outcome, action)

        def note(connection: storage.Connection) -> None:
            active = storage.models.active_version(connection)
            if mode == "gate" and active != verdict.active_version:
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
            self._hold_back(job, version, verdict, "pinned", f"is not active: {exc.message}")
        except _OvertakenError:
            self._hold_back(
                job,
                version,
                verdict,
                "overtaken",
                "waits: since it was judged, another version was activated.",
            )

    def _hold_back(
        self, job: storage.Job, version: int, verdict: Verdict, disposition: Disposition, why: str
    ) -> None:
        """Keep a job's version inactive, and say why."""
        verdict = verdict.with_outcome(
            disposition, f"Version {version} {why}", Action("activate", {"version": version})
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


class _OvertakenError(Exception):
    """What a version was judged against is no longer active."""


def _why(job: storage.Job) -> str:
    """Return in words what started a job, for the timeline."""
    cause = (job.cause or {}).get("sentence")
    return f"job {job.job_id}: {cause}" if cause else f"job {job.job_id}"

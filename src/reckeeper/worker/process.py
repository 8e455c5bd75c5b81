"""The worker process: what it holds, starts and stops."""

import functools
from typing import TYPE_CHECKING

from reckeeper import (
    backup,
    notices,
    people,
    registry,
    security,
    serving,
    storage,
    telemetry,
    training,
    wire,
)
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.events import demo, imports
from reckeeper.periodic import Periodic
from reckeeper.worker.gauges import Gauges

if TYPE_CHECKING:
    from reckeeper.events.kafka import KafkaReader

_MENDING_SECONDS = 60.0

_log = telemetry.get_logger("worker")


class Worker:
    """What the worker process holds between its start and its stop.

    Its database is open once it is made; nothing else is done before `start`.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    ReckeeperError
        The database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = storage.open_database(settings)
        self.database.see_that_sound()
        with self.database.read() as connection:
            self.installation_id = storage.installation.id_of(connection)
        self.registry = registry.Registry(self.database, settings.model_dir)
        security.see_that_guarded(self.database, settings)
        self.access = security.Access(self.database, settings, is_worker=True)
        self.policy = policies.PolicyWatch(self.database, settings)
        self.serving = serving.Serving(
            self.database, self.registry, self.policy, every_seconds=settings.poll_seconds
        )
        self.jobs = training.JobRunner(self.database, self.registry, settings, served=self.serving)
        self.schedule = training.Schedule(
            self.database, settings, self._retrain_by_itself, tidy=self.jobs.tidy
        )
        self.backups = backup.BackupSchedule(self.database, settings)
        self.gauges = Gauges(self.database, settings, self.policy)
        self.people = people.Aftercare(
            self.database, self.registry, settings, self._retrain_after_erasure
        )
        self.courier = notices.Courier(self.database, settings)
        self.mending = Periodic(
            functools.partial(imports.restore_lookups, self.database),
            name="lookups",
            every_seconds=_MENDING_SECONDS,
        )
        self.reader = _reader(self.database, settings)

    def start(self) -> None:
        """Put in order what a crash has left, load the active model, and follow the policy.

        Into an empty database the demo is loaded, if it is wanted.
        """
        self.registry.recovery.rebuild()
        self.registry.switch.repair_link()
        training.expire_silent(self.database)
        self.registry.recovery.remove_unfinished()
        self.registry.recovery.set_aside_unknown()
        self.access.start()
        self.policy.start()
        self.serving.start()
        self.schedule.start()
        self.backups.start()
        self.gauges.start()
        self.people.start()
        self.courier.start()
        self.mending.start()
        if self.reader is not None:
            self.reader.start()
        if demo.load_if_empty(self.database, self.settings):
            self.jobs.start(trigger="demo", actor="start")
        _log.info("worker_started", version=self.serving.version)

    def stop(self) -> None:
        """Stop reading, the schedule, a running job and what reports it."""
        if self.reader is not None:
            self.reader.stop()
        self.schedule.stop()
        self.people.stop()
        self.jobs.stop()
        self.mending.stop()
        self.courier.stop()
        self.gauges.stop()
        self.backups.stop()
        self.serving.stop()
        self.policy.stop()
        self.access.stop()
        self.database.close()

    def readiness(self) -> serving.Readiness:
        """Say whether the process can do its work, serving and reading."""
        readiness = self.serving.readiness()
        problems = [] if self.reader is None else self.reader.problems()
        threads = (
            *(self.mending, self.people),
            *(self.access, self.policy, self.schedule, self.backups, self.gauges, self.courier),
        )
        problems += [thread.problem for thread in threads if thread.problem is not None]
        return readiness.also(*problems).worded(self.settings.without_folders)

    def _retrain_after_erasure(self) -> None:
        """Replace a version that somebody who was erased has shaped, even by a worse one."""
        self.jobs.start(trigger="manual", actor="erasure", request={"promote": "always"})

    def _retrain_by_itself(self, trigger: str, cause: wire.Cause, not_since: int | None) -> None:
        self.jobs.start(trigger=trigger, actor=trigger, cause=cause, not_since=not_since)


def _reader(database: storage.Database, settings: Settings) -> "KafkaReader | None":
    if not settings.uses_kafka:
        return None
    from reckeeper.events.kafka import KafkaReader

    return KafkaReader(database, settings)

"""What whoever is on call wants to know of an installation, as metrics of the worker."""

import shutil
from pathlib import Path

from reckeeper import backup, storage, telemetry
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.periodic import Periodic

_EVERY_SECONDS = 15.0
_ENDS = (
    storage.jobs.SUCCEEDED,
    storage.jobs.FAILED,
    storage.jobs.CANCELLED,
    storage.jobs.INTERRUPTED,
)


class Gauges:
    """Keeps the metrics of the active version, the disks and the backups up to date.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    policy : policy.PolicyWatch
    """

    def __init__(
        self, database: storage.Database, settings: Settings, policy: policies.PolicyWatch
    ) -> None:
        self._database = database
        self._settings = settings
        self._policy = policy
        self._looking = Periodic(self.look, name="gauges", every_seconds=_EVERY_SECONDS)

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        return self._looking.problem

    def start(self) -> None:
        """Look, and again and again until `stop`."""
        telemetry.name_jobs(_ENDS)
        self._looking.start()

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop()

    def look(self) -> None:
        """Set the metrics to what is now.

        Raises
        ------
        StorageError
            The database did not answer.
        """
        with self._database.read() as connection:
            active = storage.models.active(connection)
        telemetry.ACTIVE_VERSION.set(active.version if active else 0)
        telemetry.TRAINED_AT.set(active.trained_at / 1e6 if active else 0)
        telemetry.BACKUP_AT.set((backup.last_made(self._database) or 0) / 1e6)
        stored = self._policy.current()
        folders = {
            "data": self._settings.data_dir,
            "models": self._settings.model_dir,
            "backups": backup.folder_of(stored, self._settings),
        }
        for name, folder in folders.items():
            usage = shutil.disk_usage(_there(folder))
            telemetry.DISK_FREE.labels(name).set(usage.free)
            telemetry.DISK_SIZE.labels(name).set(usage.total)


def _there(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    while not folder.is_dir():
        folder = folder.parent
    return folder

"""The process that renews a job's lease while the worker's own cannot.

A worker renews the lease of its job in a thread, which whatever holds its interpreter keeps from
that: one large object that is parsed, or a model that is loaded. This process has an interpreter
of its own and nothing else to do.
"""

import contextlib
from multiprocessing.connection import Connection

import psutil

from reckeeper import storage
from reckeeper.clock import now
from reckeeper.config import Settings
from reckeeper.errors import StorageError
from reckeeper.telemetry import configure_logging

_LOOK_SECONDS = 1.0
_SPARE_SECONDS = 3.0
"""The worker renews every second: one that has not for so long is busy."""


def run(job_id: int, settings: Settings, worker_pid: int, worker: Connection) -> None:
    """Keep the lease of a job until it is another's, or the worker ends.

    Parameters
    ----------
    job_id : int
    settings : Settings
    worker_pid : int
        A worker that was stopped, by a debugger or a machine that sleeps, is no busy one: its
        job is given up as if it had died.
    worker : multiprocessing.connection.Connection
        Nothing is ever sent; its end is the worker's.
    """
    configure_logging("training")
    with contextlib.closing(storage.open_database(settings)) as database:
        while not worker.poll(_LOOK_SECONDS):
            with contextlib.suppress(StorageError):  # the worker tells of it
                if not _is_stopped(worker_pid) and not _is_kept(database, job_id):
                    return


def _is_kept(database: storage.Database, job_id: int) -> bool:
    """Renew a lease that nobody has for a while; return whether it is still the job's."""
    with database.read() as connection:
        if not storage.jobs.is_held(connection, job_id):
            return False
        lapses_at = storage.leases.lapses_at(connection, storage.leases.TRAINING)
    if lapses_at - now() > (storage.jobs.LEASE_SECONDS - _SPARE_SECONDS) * 1e6:
        return True
    with database.write() as connection:
        return storage.jobs.beat(connection, job_id) is not None


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    except psutil.Error:
        return True

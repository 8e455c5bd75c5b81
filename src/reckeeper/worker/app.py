"""The worker: reads Kafka, runs jobs, keeps the schedule, answers the contract's two routes."""

import signal
import sys
from types import FrameType

from flask import Flask

from reckeeper import durable, errors, telemetry, wire
from reckeeper.config import Settings
from reckeeper.origins import Origins
from reckeeper.worker import connections, handlers
from reckeeper.worker.process import Worker
from reckeeper.worker.routes import routes

_log = telemetry.get_logger("worker")


def create_app(settings: Settings) -> Flask:
    """Make the worker and its routes; ``app.extensions["worker"]`` is to be started and stopped.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    ReckeeperError
        The database cannot be used.
    """
    app = Flask("kafka_worker")
    app.extensions["worker"] = Worker(settings)
    app.register_blueprint(routes)
    handlers.register(app, Origins(settings))
    return app


def main() -> None:
    """Work until a signal ends the process; settings come from the environment."""
    durable.keep_to_this_user()
    telemetry.configure_logging("worker")
    try:
        settings = Settings.from_env()
        app = create_app(settings)
    except errors.ReckeeperError as exc:
        _log.error("worker_not_started", error=wire.with_private(exc))
        sys.exit(2)
    worker: Worker = app.extensions["worker"]
    server = connections.listen(app, settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        worker.jobs.stop(wait=False)  # a request that waits for a job gets its answer
        raise SystemExit  # ends the loop of `server.run`

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        worker.start()
        server.run()
    finally:
        worker.stop()
        server.close()

"""Logs and metrics, the same in every process."""

import contextlib
import functools
import logging
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

HTTP_REQUESTS = Counter(
    "reckeeper_http_requests_total", "Requests answered.", ["method", "route", "status"]
)
HTTP_SECONDS = Histogram(
    "reckeeper_http_request_seconds",
    "Time from a request to its answer.",
    ["method", "route"],
    # A list takes a millisecond or two.
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
HTTP_CONNECTIONS = Gauge(
    "reckeeper_http_connections", "Open connections, a second ago.", multiprocess_mode="livesum"
)
HTTP_CONNECTIONS_ENDED = Counter(
    "reckeeper_http_connections_ended_total",
    "Connections ended for what their clients did or did not do, by reason: full (there was no "
    "room), made_room (idle, when another came), idle, slow_head, slow_body, slow_reader, "
    "head_too_large, not_http.",
    ["reason"],
)
INTERACTIONS = Counter(
    "reckeeper_interactions_total", "Interactions offered, by what became of them.", ["outcome"]
)
RECOMMENDATIONS = Counter(
    "reckeeper_recommendations_total", "Recommendation lists answered.", ["strategy"]
)
SIMILAR_LISTS = Counter(
    "reckeeper_similar_lists_total",
    "Lists of similar items answered, by what they have and how they were made.",
    ["kind", "strategy"],
)
TRAINING_JOBS = Counter("reckeeper_training_jobs_total", "Training jobs ended.", ["status"])
TRAINING_SECONDS = Histogram(
    "reckeeper_training_seconds",
    "Time from the start of a training job to its end.",
    buckets=(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
SERVED_VERSION = Gauge(
    "reckeeper_served_version",
    "Model version in memory; 0 when there is none. Of several processes, the oldest.",
    multiprocess_mode="livemin",
)

ACTIVE_VERSION = Gauge(
    "reckeeper_active_version",
    "Number of the active version, by the worker; 0 when there is none.",
    multiprocess_mode="max",
)
TRAINED_AT = Gauge(
    "reckeeper_active_version_trained_timestamp_seconds",
    "When the active version was trained, by the worker: seconds since 1970; 0 without one.",
    multiprocess_mode="max",
)
BACKUP_AT = Gauge(
    "reckeeper_last_backup_timestamp_seconds",
    "When the last backup was made, by the worker: seconds since 1970; 0 without one.",
    multiprocess_mode="max",
)
DISK_FREE = Gauge(
    "reckeeper_disk_free_bytes",
    "Free bytes on the disk of a folder (data, models, backups), by the worker.",
    ["folder"],
    multiprocess_mode="max",
)
DISK_SIZE = Gauge(
    "reckeeper_disk_size_bytes",
    "Bytes of the disk of a folder, by the worker.",
    ["folder"],
    multiprocess_mode="max",
)


def name_jobs(statuses: Iterable[str]) -> None:
    """Show the numbers of ended jobs from the start: a first one is seen to raise one from 0."""
    for status in statuses:
        TRAINING_JOBS.labels(status)


def count_answer(method: str, route: str, status: int, *, seconds: float) -> None:
    """Count and time an answer."""
    n_requests, times = _of_answer(method, route, status)
    n_requests.inc()
    times.observe(seconds)


def count_unread(status: int) -> None:
    """Count an answer to what was not read as a request; it has neither method nor route."""
    HTTP_REQUESTS.labels("unknown", "unknown", int(status)).inc()


def count_list(strategy: str) -> None:
    """Count a list of recommendations."""
    _of_list(strategy).inc()


# To look a metric up by its labels takes longer than to change it.
@functools.lru_cache(maxsize=1024)
def _of_answer(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return HTTP_REQUESTS.labels(method, route, status), HTTP_SECONDS.labels(method, route)


@functools.lru_cache(maxsize=16)
def _of_list(strategy: str) -> Counter:
    return RECOMMENDATIONS.labels(strategy)


class ServedQuality(Collector):
    """NDCG and hit rate of the version in memory, as they were measured.

    No `Gauge`: one that is shared by processes never forgets a label.
    """

    labels = ("metric", "figure")

    def __init__(self) -> None:
        self._figures: Mapping[tuple[str, str], float] = {}
        REGISTRY.register(self)

    def tell(self, figures: Mapping[tuple[str, str], float]) -> None:
        """Show these from now on, by metric and figure, and no others."""
        self._figures = figures

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Give the metric without its figures."""
        yield GaugeMetricFamily(
            "reckeeper_served_quality",
            "NDCG and hit rate of the version in memory when it was judged: the mean over users, "
            "and the ends of its 95% interval. Absent where it was not judged.",
            labels=self.labels,
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what is shown."""
        for family in self.describe():
            for labels, value in self._figures.items():
                family.add_metric(labels, value)
            yield family


SERVED_QUALITY = ServedQuality()
MODEL_SWAPS = Counter(
    "reckeeper_model_swaps_total",
    "Times a process swapped to another model, summed over processes.",
)

KAFKA_LAG = Gauge(
    "reckeeper_kafka_lag_messages",
    "Messages of a partition that this process still has to store.",
    ["partition"],
)
KAFKA_RECORDS = Counter(
    "reckeeper_kafka_records_total",
    "Records read from the topic, by what became of them: stored, duplicate or refused.",
    ["outcome"],
)
KAFKA_DEAD_LETTERS = Counter(
    "reckeeper_kafka_dead_letters_total", "Records refused, by the reason's code.", ["code"]
)
KAFKA_BATCH_RECORDS = Histogram(
    "reckeeper_kafka_batch_records",
    "Records that were stored in one transaction.",
    buckets=(1, 10, 100, 300, 1000, 3000, 10_000, 30_000),
)
KAFKA_COMMIT_SECONDS = Histogram(
    "reckeeper_kafka_commit_seconds",
    "Time of a transaction that stores records and their offsets.",
)
KAFKA_RESETS = Counter(
    "reckeeper_kafka_resets_total",
    "Times a partition was read from its start again: gap (messages are gone unread), "
    "beyond_end (the topic was cut) or recreated.",
    ["reason"],
)

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST


def render_metrics() -> bytes:
    """Return the metrics in Prometheus' text format, of all processes that share them."""
    if values.ValueClass is values.MutexValue:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(SERVED_QUALITY)
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """Take a process that ended out of shared metrics: what it counted stays, its state goes."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def peak_memory_bytes() -> int:
    """Return the most memory that this process held at once."""
    # Linux counts in getrusage the peak of the process that started this one, and not here.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def configure_logging(process: str, *, stream: TextIO | None = None) -> None:
    """Send this process's log lines, the libraries' too, to `stream` (stderr).

    One JSON object a line, or coloured text where `stream` is a terminal;
    every line carries `process`.
    """
    stream = sys.stderr if stream is None else stream

    def add_process(_logger: Any, _method: str, event: Any) -> Any:
        event["process"] = process
        return event

    shared: list[structlog.types.Processor] = [
        add_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # What rich would show of each frame takes seconds to print, and may be anybody's secret.
    plain = structlog.dev.plain_traceback
    renderer: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
        if stream.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for quiet in ("httpx", "alembic"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    """Return a structlog logger: a constant event name, then fields."""
    return structlog.get_logger(name)

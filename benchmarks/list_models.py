"""``GET /models`` with 100 versions: ``python -m benchmarks.list_models``.

The rows are registered and the model folder stays empty, so that a model
file which the route opened would be an error. The limit beside it, in the
same run: the same server's ``GET /health/live``, which does no work.
"""

import http.client
import json
import statistics
import time
import urllib.parse

from benchmarks import harness
from reckeeper import clock, storage
from reckeeper.artifact import Metadata, WrittenFile
from reckeeper.registry import Registry


def _register(registry: Registry, n_versions: int) -> None:
    file = WrittenFile("", 1, "0" * 64)
    for version in range(1, n_versions + 1):
        metadata = Metadata(
            version=version,
            recipe="svd",
            settings={"n_components": 10},
            n_users=2000,
            n_items=500,
            training_samples=60_000,
            explained_variance=0.4,
            watermark=60_000,
            trained_at=clock.now(),
            seconds=2.0,
            trigger="manual",
        )
        registry.versions.register(metadata, (file, file), job_id=None)


def _seconds(url: str, path: str, n_requests: int) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    seconds, n_bytes = [], 0
    for _ in range(n_requests):
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        n_bytes = len(answer.read())
        seconds.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
    connection.close()
    return seconds, n_bytes


def run(n_versions: int = 100, n_requests: int = 500) -> dict[str, object]:
    """Measure the fastest request, the median and the 99th percentile of both routes."""
    results: dict[str, object] = {"benchmark": "list_models", "versions": n_versions}
    with harness.installation() as settings:
        database = storage.open_database(settings)
        _register(Registry(database, settings.model_dir), n_versions)
        database.close()
        with harness.process("server/server.py", settings, url=settings.server_url) as server:
            for path in ("/models", "/health/live"):
                _seconds(settings.server_url, path, 20)
                seconds, n_bytes = _seconds(settings.server_url, path, n_requests)
                results[path] = {
                    "fastest_ms": round(min(seconds) * 1000, 2),
                    "p50_ms": round(statistics.median(seconds) * 1000, 2),
                    "p99_ms": round(statistics.quantiles(seconds, n=100)[98] * 1000, 2),
                    "bytes": n_bytes,
                }
            results["server_peak_memory_bytes"] = harness.memory_bytes(server.pid)
    return results


if __name__ == "__main__":
    print(json.dumps(run()))

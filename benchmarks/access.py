"""What an API key costs: ``python -m benchmarks.access [--rounds N] [--seconds S]``.

Two servers on the same 20,000 interactions, one open and one with ten keys, asked in turns by
wrk for the same finished lists: the cheapest answers, of which a key is the largest share. What
else runs on the machine changes these figures by more than a key does; so the same requests
also go straight to both programs, without a socket, in short turns: ``straight_us`` is the least
that a turn took for each, in seconds of this thread's processor.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import harness
from benchmarks.serving import load, processor_seconds, train
from reckeeper import storage
from reckeeper.api.app import create_app
from reckeeper.config import Settings
from reckeeper.interactions import Interaction
from reckeeper.security import keys

N_KEYS, N_USERS = 10, 500
_TURNS, _REQUESTS = 60, 500

_ASK = """
local place = 0
request = function()
  place = place + 1
  return wrk.format("GET", "/recommendations/u" .. (place %% %d) .. "?n=10", {%s})
end
"""


class Site(NamedTuple):
    """An installation, and the key that its server takes; an empty one if it is open."""

    settings: Settings
    key: str


@contextlib.contextmanager
def site(*, n_keys: int) -> Iterator[Site]:
    """Give a trained installation with so many keys."""
    with harness.installation() as settings:
        key = ""
        with contextlib.closing(storage.open_database(settings)) as database:
            rows = [
                Interaction(f"e{n}", f"u{n % N_USERS}", f"i{n % 997}", "click", 1.0, n + 1)
                for n in range(20_000)
            ]
            with database.write() as connection:
                storage.interactions.append(connection, rows)
            train(database, settings)
            for number in range(n_keys):
                key = keys.create(database, f"key-{number}", "viewer", actor="benchmark").text
        yield Site(settings, key)


def by_wrk(sites: dict[str, Site], *, rounds: int, seconds: int) -> dict[str, Any]:
    """Ask both servers in turns; medians of the rounds."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sites}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                harness.process("server/server.py", each.settings, url=each.settings.server_url)
            )
            for name, each in sites.items()
        }
        for _ in range(rounds):
            for name, each in sites.items():
                before = processor_seconds(servers[name].pid)
                header = f'["Authorization"] = "Bearer {each.key}"' if each.key else ""
                found = load(each.settings.server_url, _ASK % (N_USERS, header), seconds=seconds)
                used = processor_seconds(servers[name].pid) - before
                found["processor_us"] = round(1e6 * used / (found["per_second"] * seconds), 1)
                taken[name].append(found)
    return {
        name: {part: statistics.median(one[part] for one in found) for part in found[0]}
        for name, found in taken.items()
    }


async def straight(sites: dict[str, Site]) -> dict[str, float]:
    """Return the least that a request took each program, in microseconds of the processor."""
    least = dict.fromkeys(sites, float("inf"))
    async with contextlib.AsyncExitStack() as stack:
        apps = {}
        for name, each in sites.items():
            apps[name] = app = create_app(each.settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
        for _ in range(_TURNS):
            for name, each in sites.items():
                headers = [(b"host", b"127.0.0.1"), (b"accept", b"*/*")]
                if each.key:
                    headers.append((b"authorization", f"Bearer {each.key}".encode()))
                began = time.thread_time()
                for number in range(_REQUESTS):
                    await _ask(apps[name], f"/recommendations/u{number % N_USERS}", headers)
                least[name] = min(least[name], (time.thread_time() - began) / _REQUESTS * 1e6)
    return {name: round(value, 1) for name, value in least.items()}


async def _ask(app: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"n=10",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)


def run(*, rounds: int, seconds: int) -> dict[str, Any]:
    """Measure both ways."""
    result: dict[str, Any] = {"benchmark": "access", "keys": N_KEYS}
    with site(n_keys=0) as opened, site(n_keys=N_KEYS) as guarded:
        sites = {"open": opened, "with a key": guarded}
        result["straight_us"] = found = asyncio.run(straight(sites))
        result["straight_ratio"] = round(found["with a key"] / found["open"], 3)
        if rounds:
            result |= by_wrk(sites, rounds=rounds, seconds=seconds)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    print(json.dumps(run(rounds=options.rounds, seconds=options.seconds)))

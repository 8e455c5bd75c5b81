"""The ports of `reckeeper up`: free, moved, or still held by what another `up` has started."""

import socket
import time
from collections.abc import Container

import psutil
from rich.console import Console

from reckeeper.config import Settings, reachable
from reckeeper.errors import ConfigError

_POLL_SECONDS = 0.2
_LEFT_SECONDS = 20.0


def wait_for_those_before(settings: Settings, *, console: Console) -> None:
    """Wait until what an `up` of this folder has started, whose supervisor was killed, has ended.

    It ends by itself, and as long as that lasts its ports are in use.
    """
    pid_file = settings.data_dir / "supervisord.pid"
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return  # it ended in order
    ports = (settings.server_port, settings.ui_port, settings.worker_port)

    def any_is_in_use() -> bool:
        return any(_answers(settings.host, port) for port in ports)

    if psutil.pid_exists(pid) or not any_is_in_use():
        return
    console.print(
        "An earlier `reckeeper up` was killed: waiting until what it has started has ended …",
        soft_wrap=True,
    )
    ends = time.monotonic() + _LEFT_SECONDS
    while any_is_in_use() and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((reachable(host), port), timeout=0.5).close()
    except OSError:
        return False
    return True


def with_free_ports(
    settings: Settings, *, console: Console, explicit_worker_port: bool
) -> Settings:
    """Return `settings`, the worker's port changed where it was in the way and free to move."""
    taken: dict[int, str] = {}
    for env, port in (
        ("RECKEEPER_SERVER_PORT", settings.server_port),
        ("RECKEEPER_UI_PORT", settings.ui_port),
        ("RECKEEPER_WORKER_PORT", settings.worker_port),
    ):
        if port in taken:
            reason = f"{taken[port]} asks for it too"
        elif _is_in_use(settings.host, port, env=env):
            reason = f"another program listens there on {settings.host}"
        else:
            taken[port] = env
            continue
        if env == "RECKEEPER_WORKER_PORT" and not explicit_worker_port:
            moved = _move_worker(settings, _free_port(settings.host, besides=taken))
            console.print(
                f"Port {port} is in use ({reason}): the worker takes {moved.worker_port} instead. "
                "RECKEEPER_WORKER_PORT chooses one that stays.",
                style="yellow",
                soft_wrap=True,
                highlight=False,
            )
            return moved
        raise ConfigError(
            f"Port {port} is in use: {reason}. Set {env} to a free port, or free this one."
        )
    return settings


def _is_in_use(host: str, port: int, *, env: str) -> bool:
    # Binding alone does not tell on macOS, where a listener on all addresses
    # leaves the single ones free; connecting alone misses a backlog that is full.
    if _answers(host, port):
        return True
    try:
        _bind(host, port).close()
    except PermissionError as exc:
        raise ConfigError(
            f"{env}={port} cannot be used: this user may not listen on it. "
            "Choose a port of 1024 or above."
        ) from exc
    except OSError as exc:
        if _is_bindable(host):
            return True
        raise ConfigError(
            f"RECKEEPER_HOST={host!r} cannot be listened on: {exc.strerror}. "
            "Use an address of this machine, such as 127.0.0.1."
        ) from exc
    return False


def _is_bindable(host: str) -> bool:
    try:
        _bind(host, 0).close()
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _free_port(host: str, *, besides: Container[int]) -> int:
    while True:
        with _bind(host, 0) as listener:
            port: int = listener.getsockname()[1]
        if port not in besides:
            return port


def _move_worker(settings: Settings, port: int) -> Settings:
    environ = settings.to_env()
    del environ["RECKEEPER_WORKER_URL"]
    if Settings.from_env(environ).worker_url != settings.worker_url:
        return settings.replaced(worker_port=port)
    return Settings.from_env(environ | {"RECKEEPER_WORKER_PORT": str(port)})

"""What the server proves itself to the worker with."""

import contextlib
import errno
import hmac
import os
import secrets
from pathlib import Path

from reckeeper import durable
from reckeeper.config import Settings
from reckeeper.errors import ConfigError

SECRET_NAME = "worker.secret"
"""Name in the data folder of the file that has it, where the settings have none."""


class WorkerSecret:
    """The secret that server and worker share: of the settings, or a file of the data folder.

    The file is made when it is first asked for, readable to its owner alone.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._text = settings.worker_secret
        self._path = settings.data_dir / SECRET_NAME

    def text(self) -> str:
        """Return the secret.

        Raises
        ------
        ConfigError
            Its file cannot be read or made.
        """
        if self._text is None:
            try:
                self._text = _read(self._path) or _make(self._path)
            except OSError as exc:
                raise ConfigError(
                    f"{SECRET_NAME} in the data folder (RECKEEPER_DATA_DIR), with which the server "
                    f"proves itself to the worker, cannot be used: {exc.strerror}. Let this user "
                    "read and write it, or set RECKEEPER_WORKER_SECRET, the same in both."
                ) from exc
        return self._text

    def is_in(self, credentials: str) -> bool:
        """Say whether somebody has sent the secret, in a time that tells nothing of it."""
        return hmac.compare_digest(credentials.encode(), self.text().encode())


def _read(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    return None


def _make(path: Path) -> str:
    """Make the file, unless another process is quicker, and return what it has then."""
    durable.make_folder(path.parent)
    with (
        contextlib.suppress(FileExistsError),
        durable.new_file(path, mode=0o600) as temporary,
    ):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
    made = _read(path)
    if made is None:
        raise OSError(errno.ENODATA, "it is empty")
    return made

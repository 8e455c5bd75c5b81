"""The policy in force, kept in memory."""

import contextlib
from collections.abc import Mapping

from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.periodic import Periodic
from reckeeper.policy.revisions import StoredPolicy, current


class PolicyWatch:
    """The policy in force, kept in memory: whoever asks waits for no database.

    Safe to share between threads. While the stored policy cannot be read, the
    one that was read last stays in force, and `problem` says so.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        The policy while none is stored. It is read every second `poll_seconds`: a change is
        seen after so long at most.
    """

    def __init__(self, database: storage.Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._reading = Periodic(
            self.refresh, name="policy", every_seconds=2 * settings.poll_seconds
        )
        self._last: StoredPolicy | ReckeeperError | None = None

    @property
    def problem(self) -> str | None:
        """Why the last reading failed, in a sentence; None if it succeeded."""
        problem = self._reading.problem
        if problem is None or not isinstance(self._last, StoredPolicy):
            return problem
        return f"The policy cannot be read; the one read last stays in force. {problem}"

    def start(self) -> None:
        """Read the policy, and again and again until `stop`."""
        with contextlib.suppress(ReckeeperError):  # `current` raises it
            self.refresh()
        self._reading.start()

    def stop(self) -> None:
        """Read it no more."""
        self._reading.stop()

    def refresh(self) -> None:
        """Read the policy now.

        Raises
        ------
        ConfigError, StorageError
            It cannot be read, or not be used.
        """
        try:
            with self._database.read() as connection:
                self._last = current(connection, self._settings)
        except ReckeeperError as exc:
            if not isinstance(self._last, StoredPolicy):
                self._last = exc
            raise

    def current(self) -> StoredPolicy:
        """Return the policy in force, at most two `poll_seconds` late.

        Raises
        ------
        ConfigError, StorageError
            None could be read yet, or the one that is there cannot be used.
        """
        assert self._last is not None, "start it first"
        if isinstance(self._last, ReckeeperError):
            raise self._last
        return self._last

    @property
    def revision(self) -> int | None:
        """Revision of the policy in memory; None while there is none that can be used."""
        return self._last.revision if isinstance(self._last, StoredPolicy) else None

    def weights(self) -> Mapping[str, float]:
        """Return the interaction types that are accepted, and the weight of each.

        Raises
        ------
        ConfigError, StorageError
            As `current`.
        """
        return self.current().policy.weights

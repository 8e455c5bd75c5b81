"""Whether a process can answer, and what stands in the way."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from reckeeper.errors import Action


@dataclass(frozen=True)
class Problem:
    """Why the active version cannot be loaded, and what could be activated instead.

    Attributes
    ----------
    version : int
        The active version.
    reason : str
    offer : int or None
        The newest other version whose file is sound.
    serving : int or None
        The version in memory: the active one where its file went later.
    """

    version: int
    reason: str
    offer: int | None
    serving: int | None

    @property
    def sentence(self) -> str:
        """The whole in words, with what to do."""
        if self.serving == self.version:
            told = f"The active version {self.version} answers from memory alone"
        else:
            told = f"The active version {self.version} cannot be loaded"
        meanwhile = ""
        if self.serving not in {None, self.version}:
            meanwhile = f"Version {self.serving} answers in its place. "
        what_to_do = (
            f"Version {self.offer} is sound: activate it, or retrain."
            if self.offer is not None
            else "No other version is sound: retrain."
        )
        return f"{told}: {self.reason} {meanwhile}{what_to_do}"

    @property
    def action(self) -> Action:
        """What helps: to activate the sound version, or to retrain."""
        if self.offer is None:
            return Action("retrain")
        return Action("activate", {"version": self.offer})


@dataclass(frozen=True)
class Readiness:
    """Whether a process can do its work.

    Attributes
    ----------
    status : str
        ``ok``; ``degraded``: it answers, but not from the active version, or something else does
        not work; ``unavailable``: it does not answer.
    problems : list of str
        Sentences that say what is wrong and what to do.
    model_version : int or None
        The version in memory.
    offer_version : int or None
        A sound version that could be activated instead of the active one.
    """

    status: str
    problems: list[str]
    model_version: int | None
    offer_version: int | None

    def worded(self, word: Callable[[str], str]) -> "Readiness":
        """Return it with each problem put in other words."""
        return dataclasses.replace(self, problems=[word(problem) for problem in self.problems])

    def also(self, *problems: str) -> "Readiness":
        """Add problems of other parts, which leave it degraded at best; each is said once."""
        said = [*self.problems]
        for problem in problems:
            if not any(problem in other for other in said):
                said.append(problem)
        if not said:
            return self
        status = "degraded" if self.status == "ok" else self.status
        return dataclasses.replace(self, status=status, problems=said)

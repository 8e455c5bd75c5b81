"""Recipes compared: what was measured, what that advises, and whether it still holds."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import TypeAdapter

from reckeeper.evaluation import PairedDifference
from reckeeper.policy import StoredPolicy
from reckeeper.training.verdict import Metric, Standing, beside_in_words, metrics_to_json
from reckeeper.wire import JsonObject

BASELINE = "popularity"

_STALE_SHARE = 0.05
"""So many new interactions for each one compared, and a comparison is out of date."""


@dataclass(frozen=True)
class Beside:
    """How a line stands beside another, on the same users.

    Attributes
    ----------
    standing : str
    n_users_needed : int or None
        By the gate's rule, as if the line were the candidate and the other
        active; see `verdict.found`.
    metrics : mapping of str to PairedDifference
        The line's less the other's.
    """

    standing: Standing
    n_users_needed: int | None
    metrics: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class MeasuredRecipe:
    """A line of a comparison: how a recipe with its settings did on what was held out.

    Attributes
    ----------
    name : str
        What the line is called, such as ``spectral (tuned)``.
    recipe : str
    settings : mapping
        Complete, as JSON values.
    tuned : bool
        Whether tuning has found them.
    version : int or None
        The active version, where these are its recipe and settings.
    fit_seconds, tune_seconds : float
    metrics : mapping of str to Metric
    versus : mapping of str to Beside
        By the names of the other lines.
    """

    name: str
    recipe: str
    settings: JsonObject
    tuned: bool
    version: int | None
    fit_seconds: float
    tune_seconds: float
    metrics: Mapping[str, Metric]
    versus: Mapping[str, Beside]


@dataclass(frozen=True)
class Rule:
    """What the policy in force said when recipes were compared, as far as that matters to it.

    Attributes
    ----------
    revision : int
        0 where the policy came from the environment.
    metric : str
    margin : float
    min_users : int
    min_coverage_share : float
    data : mapping
        Which interactions go in, and their weights; see `Policy.data`.
    """

    revision: int
    metric: str
    margin: float
    min_users: int
    min_coverage_share: float
    data: JsonObject

    @classmethod
    def of(cls, stored: StoredPolicy) -> "Rule":
        """Return what a policy says."""
        policy = stored.policy
        return cls(
            revision=stored.revision,
            metric=policy.metric,
            margin=policy.margin,
            min_users=policy.min_users,
            min_coverage_share=policy.min_coverage_share,
            data=policy.model_copy(deep=True).data(),
        )

    def differs(self, other: "Rule") -> bool:
        """Say whether another rule could come to another result."""
        return self != dataclasses.replace(other, revision=self.revision)


@dataclass(frozen=True)
class MadeOn:
    """The data of a comparison.

    Attributes
    ----------
    n_interactions, n_users, n_items : int
        That the policy lets into training.
    latest_at : int or None
        When the latest of them occurred, in microseconds since 1970; None
        without times.
    watermark : int
        Number of the last interaction that there was.
    read_at : int
        When they were read.
    """

    n_interactions: int
    n_users: int
    n_items: int
    latest_at: int | None
    watermark: int = 0
    read_at: int = 0


@dataclass(frozen=True)
class Advice:
    """Which line is to be used, None where none is better than what is active; and why."""

    use: str | None
    sentence: str


@dataclass(frozen=True)
class Change:
    """What has happened since a comparison that it does not know of."""

    code: Literal["data_removed", "new_interactions", "policy_changed", "active_changed"]
    sentence: str


@dataclass(frozen=True)
class Today:
    """What there is now, beside which a comparison may be out of date.

    Attributes
    ----------
    rule : Rule
    removed : str or None
        What data it was made on that is gone, in words.
    n_newer : int
        Interactions since, counted as far as `Comparison.n_newer_to_count`.
    active : tuple of int, str and mapping, or None
        Version, recipe and complete settings.
    """

    rule: Rule
    removed: str | None
    n_newer: int
    active: tuple[int, str, JsonObject] | None


@dataclass(frozen=True)
class Comparison:
    """Recipes measured on the same cuts of the interactions, for the same users.

    Attributes
    ----------
    split : str
        Kind of the cuts.
    how : str
        How they were made, in words: "a random fifth of each user's
        interactions: they carry no times".
    k : int
        Length of the lists.
    n_users : int
        Users measured; 0 before the first line.
    made_on : MadeOn
    rule : Rule
    active_version : int or None
        What was active at the time.
    recipes : tuple of MeasuredRecipe
        In the order of measuring, the baseline first.
    problem : str or None
        Why the active version's recipe has no line.
    """

    split: str
    how: str
    k: int
    made_on: MadeOn
    rule: Rule
    active_version: int | None = None
    n_users: int = 0
    recipes: tuple[MeasuredRecipe, ...] = ()
    problem: str | None = None

    @property
    def n_newer_to_count(self) -> int:
        """With so many interactions since, it is out of date."""
        return max(1, round(_STALE_SHARE * self.made_on.n_interactions))

    def advice(self) -> Advice | None:
        """Say by the gate's rule which line is to be used in place of the active one.

        That is the best of those that are better than it, and against which
        the gate has nothing else. Where no version is active, popularity is
        in its place.

        Returns
        -------
        Advice or None
            None while there is nothing to choose from, or where the active
            version has no line.
        """
        base = next((line for line in self.recipes if line.version is not None), None)
        if base is None and self.active_version is None:
            base = next((line for line in self.recipes if line.recipe == BASELINE), None)
        others = [line for line in self.recipes if base is not None and line is not base]
        if base is None or not others:
            return None
        others.sort(key=lambda line: -line.metrics[self.rule.metric].mean)
        better = [line for line in others if self._standing(line, base) == "better"]
        good = [line for line in better if self._against(line, base) is None]
        known = self._in_words(base)
        if good:
            words = f"{good[0].name} is better than {known}: {self._beside(good[0], base)}."
            alike = [one.name for one in good[1:] if self._standing(good[0], one) == "too_few"]
            if alike:
                words += f" Too few users to tell it from {' and '.join(alike)}."
            return Advice(good[0].name, words)
        if better:
            words = f"{better[0].name} is better than {known}: {self._beside(better[0], base)}."
            return Advice(None, f"{words} Yet {self._against(better[0], base)}.")
        unsure = next((line for line in others if self._standing(line, base) == "too_few"), None)
        if unsure is not None:
            return Advice(None, self._unsure(unsure, base))
        return Advice(None, f"No recipe is better than {known}.")

    def line_of(self, recipe: str, settings: Mapping[str, object]) -> MeasuredRecipe | None:
        """Return the line of a recipe with complete settings, or None."""
        wanted = (recipe, dict(settings))
        lines = (line for line in self.recipes if (line.recipe, dict(line.settings)) == wanted)
        return next(lines, None)

    def changes(self, today: Today) -> tuple[Change, ...]:
        """Return what has changed since that makes it out of date; gone data says it all."""
        if today.removed is not None:
            words = f"The data that it was made on are gone: {today.removed}."
            return (Change("data_removed", words),)
        changes: list[Change] = []
        if self.rule.differs(today.rule):
            words = (
                f"The policy has changed what is judged or how: revision {today.rule.revision} is "
                f"in force, and it was made under revision {self.rule.revision}."
            )
            changes.append(Change("policy_changed", words))
        if today.n_newer >= self.n_newer_to_count:
            words = (
                f"At least {today.n_newer:,} interactions have come in since; it was made on "
                f"{self.made_on.n_interactions:,}."
            )
            changes.append(Change("new_interactions", words))
        if today.active is not None:
            version, recipe, settings = today.active
            if version != self.active_version and self.line_of(recipe, settings) is None:
                words = f"Version {version} is active now, and was not among those compared."
                changes.append(Change("active_changed", words))
        return tuple(changes)

    def described(self, today: Today | None = None) -> JsonObject:
        """Return the comparison as the API shows it.

        Parameters
        ----------
        today : Today, optional
            What it is held against; without, it is as when it was made. What
            was made on data that is gone has no lines; what is out of date
            has no advice.
        """
        changes = () if today is None else self.changes(today)
        codes = {change.code for change in changes}
        state = "gone" if "data_removed" in codes else "out_of_date" if codes else "current"
        seen = self if today is None else self._seen(today)
        told = seen.to_json()
        return {
            **told,
            "metric": self.rule.metric,
            "margin": self.rule.margin,
            "min_users": self.rule.min_users,
            "policy_revision": self.rule.revision,
            "state": state,
            "changes": [dataclasses.asdict(change) for change in changes],
            "advice": seen.advice() if state == "current" else None,
            "recipes": [] if state == "gone" else told["recipes"],
        }

    def to_json(self) -> JsonObject:
        """Return the comparison in JSON values, as a job's row has it."""
        told = dataclasses.asdict(self)
        told["recipes"] = [
            {**row, "metrics": metrics_to_json(measured.metrics)}
            for row, measured in zip(told["recipes"], self.recipes, strict=True)
        ]
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> "Comparison":
        """Return the comparison that `to_json` gave."""
        return _ADAPTER.validate_python(dict(told))

    def _seen(self, today: Today) -> Self:
        """Return the comparison with the version that is active now."""
        active = None if today.active is None else self.line_of(*today.active[1:])
        version = None if today.active is None else today.active[0]
        lines = (
            dataclasses.replace(line, version=version if line is active else None)
            for line in self.recipes
        )
        return dataclasses.replace(self, active_version=version, recipes=tuple(lines))

    # In words

    def _standing(self, line: MeasuredRecipe, base: MeasuredRecipe) -> str:
        return line.versus[base.name].standing

    def _against(self, line: MeasuredRecipe, base: MeasuredRecipe) -> str | None:
        """Return what the gate has against a line that is better than the active one."""
        metric, popular = self.rule.metric, line.versus.get(BASELINE)
        theirs = base.versus.get(BASELINE)
        is_base_below = theirs is not None and theirs.metrics[metric].difference < 0
        if popular is not None and popular.metrics[metric].is_below(0.0) and not is_base_below:
            return "it is worse than the same popular items for everybody"
        ours, others = (one.metrics[f"coverage@{self.k}"].mean for one in (line, base))
        if ours < self.rule.min_coverage_share * others:
            return (
                f"its lists have {ours:.1%} of all items, less than "
                f"{self.rule.min_coverage_share:.0%} of the {others:.1%} that the other's have"
            )
        return None

    def _in_words(self, base: MeasuredRecipe) -> str:
        if base.version is not None:
            return f"the active one, {base.name}"
        return "popularity, the same list for everybody"

    def _beside(self, line: MeasuredRecipe, base: MeasuredRecipe) -> str:
        metric = self.rule.metric
        paired = line.versus[base.name].metrics[metric]
        ours, theirs = line.metrics[metric].mean, base.metrics[metric].mean
        return beside_in_words(metric, ours, theirs, paired)

    def _unsure(self, line: MeasuredRecipe, base: MeasuredRecipe) -> str:
        words = (
            f"Too few to tell whether {line.name} is better than {self._in_words(base)}: "
            f"{self.n_users:,} users were judged"
        )
        if self.n_users < self.rule.min_users:
            return f"{words}, and the policy asks for {self.rule.min_users:,}."
        needed = line.versus[base.name].n_users_needed
        if needed is None:
            return f"{words}."
        loss = 2 * self.rule.margin
        return f"{words}, and to find a loss of {loss:.1%} takes {needed:,}."


_ADAPTER = TypeAdapter(Comparison)

"""A comparison of recipes on the terminal: what was measured, and what it advises."""

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reckeeper.cli.terminal import print_table, say, warn, when

if TYPE_CHECKING:  # help does without them
    from reckeeper import wire

STANDINGS = {
    "better": "better",
    "no_worse": "no worse",
    "slightly_worse": "slightly worse",
    "worse": "worse",
    "too_few": "too few to tell",
}
_SHOWN = ("recall", "map", "mrr", "coverage", "novelty")
"""Metrics after NDCG and hit rate, which are shown with their intervals."""


def print_comparison(result: "wire.Evaluation") -> None:
    """Print a comparison: each recipe's figures, each difference, and the advice."""
    for change in result.changes:
        warn(change.sentence)
    if not result.recipes:
        return
    k = result.k
    print_table(
        ("recipe", f"ndcg@{k}", f"hit_rate@{k}", *(f"{name}@{k}" for name in _SHOWN), "fit"),
        [
            (
                line.name,
                *(_with_interval(line.metrics[f"{name}@{k}"]) for name in ("ndcg", "hit_rate")),
                *(f"{line.metrics[f'{name}@{k}'].mean:.4f}" for name in _SHOWN),
                f"{line.fit_seconds:.1f} s",
            )
            for line in result.recipes
        ],
    )
    print_table(
        (f"difference in {result.metric}", *(f"to {line.name}" for line in result.recipes)),
        [
            (line.name, *(_beside(result, line, other.name) for other in result.recipes))
            for line in result.recipes
        ],
    )
    for sentence in _sentences(result):
        say(sentence)


def _with_interval(metric: "wire.Metric") -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.mean:.4f}"
    return f"{metric.mean:.4f} ({metric.low:.4f} to {metric.high:.4f})"


def _beside(result: "wire.Evaluation", line: "wire.MeasuredRecipe", other: str) -> str:
    beside = line.versus.get(other)
    if beside is None:
        return ""
    paired, words = beside.metrics[result.metric], STANDINGS[beside.standing]
    if (
        beside.standing == "too_few"
        and beside.n_users_needed
        and result.n_users >= result.min_users
    ):
        words += f": {beside.n_users_needed:,} users needed"
    return f"{paired.difference:+.4f} ({paired.low:+.4f} to {paired.high:+.4f}), {words}"


def _sentences(result: "wire.Evaluation") -> Iterator[str]:
    made_on = result.made_on
    until = "" if made_on.latest_at is None else f" until {when(made_on.latest_at)} UTC"
    yield (
        f"{result.n_users:,} users judged, of {made_on.n_users:,} with {made_on.n_interactions:,} "
        f"interactions{until}. Held out: {result.how}. Policy revision {result.policy_revision}: "
        f"{result.metric}, margin {result.margin:.1%}."
    )
    if result.problem is not None:
        yield result.problem
    advice = result.advice
    if advice is None:
        return
    yield advice.sentence
    used = next((line for line in result.recipes if line.name == advice.use), None)
    if used is not None:
        settings = "".join(
            f" --set {shlex.quote(f'{name}={json.dumps(value)}')}"
            for name, value in used.settings.items()
        )
        yield f"`reckeeper retrain --recipe {used.recipe}{settings}` trains it; the gate decides."

"""What `reckeeper evaluate` found: one record, from which JSON, tables and the page are made."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reckeeper import evaluation
from reckeeper.cli.terminal import compact, print_facts, print_table, say
from reckeeper.evaluation import Compared, Figure, PairedDifference, Quality, segments

_HEADLINES = ("ndcg", "recall", "hit_rate")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model that was judged.

    Attributes
    ----------
    label : str
        What it is called: the recipe's name, with the settings that were given.
    recipe : str
    settings : dict
        All of them.
    is_peer : bool
        Whether it is no recipe of Reckeeper's.
    is_ordered : bool
        Whether its scores depend on the order of a history.
    fit_seconds, evaluate_seconds, tune_seconds : float
        Over all cuts.
    tuning : dict or None
        What tuning found.
    decided : tuple of dict
        What each cut's data decided of the settings that leave it to them.
    """

    label: str
    recipe: str
    settings: dict[str, Any]
    is_peer: bool
    is_ordered: bool
    fit_seconds: float
    evaluate_seconds: float
    tune_seconds: float = 0.0
    tuning: dict[str, Any] | None = None
    decided: tuple[dict[str, Any], ...] = ()

    def decided_in_words(self) -> str:
        """Return what was decided, and in how many of the cuts where these differ."""
        found = Counter(compact(one) for one in self.decided)
        if len(found) < 2:
            return "".join(found)
        return "; ".join(
            f"{words} in {n} of {len(self.decided)} cuts" for words, n in found.items()
        )


@dataclass(frozen=True)
class Segment:
    """The figures of some users, or on some items.

    Attributes
    ----------
    of : str
        ``users`` or ``items``.
    by : str
        ``history_length``, ``popularity`` or a column of a table.
    name : str
    n_users : int
        Users who are judged in it.
    compared : Compared
    """

    of: str
    by: str
    name: str
    n_users: int
    compared: Compared


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of one run.

    Attributes
    ----------
    source : str
        The interactions, in words.
    how : str
        How they were cut, in words.
    split : str or None
        None for a test file.
    n_cuts, n_questions : int
    repeats : bool
    ks : tuple of int
        Ascending.
    seed : int
    counts : dict
        Sizes of the data.
    lines : tuple of Line
        The baseline first.
    headline : str
        The label of the first model that was asked for.
    compared : Compared
        By label.
    segments : tuple of Segment
    seconds : float
    peak_memory_bytes : int
    """

    source: str
    how: str
    split: str | None
    n_cuts: int
    n_questions: int
    repeats: bool
    ks: tuple[int, ...]
    seed: int
    counts: dict[str, int | str | None]
    lines: tuple[Line, ...]
    headline: str
    compared: Compared
    segments: tuple[Segment, ...] = field(repr=False)
    seconds: float
    peak_memory_bytes: int

    @property
    def baseline(self) -> str:
        """The label of the line that all are compared with."""
        return self.lines[0].label

    @property
    def metrics(self) -> list[str]:
        """The names of all figures, by k."""
        names = self.compared.figures[self.baseline]
        return sorted(names, key=lambda name: int(name.rpartition("@")[2]))

    def headlines(self) -> list[str]:
        """Return the names of the figures that tell most, at the largest k."""
        return [f"{name}@{self.ks[-1]}" for name in _HEADLINES]

    def versus(self, first: str, second: str) -> dict[str, PairedDifference]:
        """Return the second's figures less the first's, in whatever order they were compared."""
        if (first, second) in self.compared.differences:
            return self.compared.differences[first, second]
        if first == second:
            one = self.compared.figures[first]
            n = int(self.counts["n_test_users"] or 0)
            return {
                name: PairedDifference(0.0, 0.0, 0.0, sd=0.0, n=n)
                for name, figure in one.items()
                if figure.low is not None
            }
        return {
            name: dataclasses.replace(
                found, difference=-found.difference, low=-found.high, high=-found.low
            )
            for name, found in self.compared.differences[second, first].items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the first model's figures at the top, all below."""
        first = next(line for line in self.lines if line.label == self.headline)
        figures = self.compared.figures
        return {
            "recipe": first.recipe,
            "settings": first.settings,
            "k": self.ks[-1],
            "ks": list(self.ks),
            "seed": self.seed,
            **{name: figure.mean for name, figure in figures[self.headline].items()},
            "intervals": {
                name: {"low": figure.low, "high": figure.high}
                for name, figure in figures[self.headline].items()
                if figure.low is not None
            },
            "popularity": {name: figure.mean for name, figure in figures[self.baseline].items()},
            "versus_popularity": _differences(self.versus(self.baseline, self.headline)),
            "source": self.source,
            "how": self.how,
            "repeats": self.repeats,
            "n_cuts": self.n_cuts,
            "n_questions": self.n_questions,
            **self.counts,
            "fit_seconds": first.fit_seconds,
            "evaluate_seconds": first.evaluate_seconds,
            "tuned": first.tuning is not None,
            "tune_seconds": first.tune_seconds,
            "tuning": first.tuning,
            "recipes": [
                dataclasses.asdict(line) | {"metrics": _figures(figures[line.label])}
                for line in self.lines
            ],
            "differences": _pairs(self.compared),
            "segments": [
                {
                    "of": segment.of,
                    "by": segment.by,
                    "name": segment.name,
                    "n_users": segment.n_users,
                    "metrics": {
                        label: _figures(of_line)
                        for label, of_line in segment.compared.figures.items()
                    },
                    "differences": _pairs(segment.compared),
                }
                for segment in self.segments
            ],
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


Groups = dict[tuple[str, str], dict[str, np.ndarray]]
"""By (``users`` or ``items``, column): the name of each segment, and who is in it."""


def segments_of(
    qualities: Mapping[str, Quality],
    tables: Groups,
    *,
    baseline: str,
    popularity: np.ndarray,
    seed: int,
    on_progress: Callable[[float], None],
) -> list[Segment]:
    """Compare all models on each part of the users and of the items.

    Parameters
    ----------
    qualities : mapping of str to Quality
        By label.
    tables : Groups
        Parts besides those by length of history and by popularity.
    baseline : str
        The label of a model whose parts all have.
    popularity : ndarray of int, shape (n_items,)
        How many users have each item.
    seed : int
        Of the intervals.
    on_progress : callable
        Called with the fraction done.
    """

    def by_name(
        parts_of: Callable[[Quality], dict[str, Quality]],
    ) -> dict[str, dict[str, Quality]]:
        parts = {label: parts_of(quality) for label, quality in qualities.items()}
        return {name: {label: parts[label][name] for label in parts} for name in parts[baseline]}

    parts: list[tuple[str, str, dict[str, dict[str, Quality]]]] = [
        ("users", "history_length", by_name(segments.by_history_length)),
        (
            "items",
            "popularity",
            by_name(lambda one: segments.by_item_popularity(one, popularity)),
        ),
    ]
    for (of, column), masks in tables.items():

        def of_column(
            quality: Quality, of: str = of, masks: dict[str, np.ndarray] = masks
        ) -> dict[str, Quality]:
            found = {
                name: quality.on_items(within)
                if of == "items"
                else quality.part(within[quality.question_user])
                for name, within in masks.items()
            }
            return {name: part for name, part in found.items() if len(part.question_user)}

        parts.append((of, column, by_name(of_column)))
    found: list[Segment] = []
    for place, (of, column, of_name) in enumerate(parts):
        for name, models in of_name.items():
            n_users = len(models[baseline].user_index)
            compared = evaluation.compare_all(models, seed=seed)
            found.append(Segment(of, column, name, n_users, compared))
        on_progress((place + 1) / len(parts))
    return found


def _figures(figures: Mapping[str, Figure]) -> dict[str, dict[str, float | None]]:
    return {name: dataclasses.asdict(figure) for name, figure in figures.items()}


def _differences(found: Mapping[str, PairedDifference]) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(difference) for name, difference in found.items()}


def _pairs(compared: Compared) -> list[dict[str, Any]]:
    return [
        {"first": first, "second": second, "metrics": _differences(found)}
        for (first, second), found in compared.differences.items()
    ]


def verdict(difference: PairedDifference) -> str:
    """Say in a word what an interval shows of the second of two."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference shown"


def half(interval: Figure | PairedDifference) -> str:
    """Return half of an interval as it stands behind a mean; empty where there is none."""
    if interval.low is None or interval.high is None:
        return ""
    return f" ±{(interval.high - interval.low) / 2:.4f}"


_FACTS = (
    *("split", "n_users", "n_items", "n_interactions", "n_test_users", "n_test_users_unseen"),
    *("n_test_users_left_out", "n_test_items_unseen", "n_test_pairs_in_train"),
)


def print_report(report: Report) -> None:
    """Print the tables: figures, differences, segments, and what they were made from."""
    for line in report.lines:
        found = f" (found among {line.tuning['n_tried']} that were tried)" if line.tuning else ""
        shown = ", ".join(f"{key}={json.dumps(value)}" for key, value in line.settings.items())
        decided = f"; decided from the data: {line.decided_in_words()}" if line.decided else ""
        say(f"{line.label}: {shown}{found}{decided}")
    labels = [line.label for line in report.lines]
    figures = report.compared.figures
    rows: Iterable[list[str]] = (
        [
            name,
            *(f"{figures[label][name].mean:.4f}{half(figures[label][name])}" for label in labels),
        ]
        for name in report.metrics
    )
    say(f"Held out: {report.how}.")
    print_table(["±: half of the 95% interval", *labels], rows)
    _print_differences(report)
    _print_segments(report)
    facts = [(name, report.counts[name]) for name in _FACTS]
    facts += [("n_cuts", report.n_cuts), ("n_questions", report.n_questions)]
    print_facts(
        [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in facts]
        + [(f"seconds to fit {line.label}", f"{line.fit_seconds:.1f}") for line in report.lines]
        + [("seconds in all", f"{report.seconds:.1f}")]
        + [("peak memory (MB)", f"{report.peak_memory_bytes / 1e6:,.0f}")]
    )


def _print_differences(report: Report) -> None:
    names = report.headlines()
    labels = [line.label for line in report.lines]
    pairs = list(itertools.combinations(labels, 2)) or [(report.headline, report.baseline)]
    print_table(
        ["difference", *names, f"by {names[0]}"],
        (
            [
                f"{second} less {first}",
                *(f"{found[name].difference:+.4f}{half(found[name])}" for name in names),
                verdict(found[names[0]]),
            ]
            for first, second in pairs
            for found in [report.versus(first, second)]
        ),
        title="Paired by user",
    )


def _print_segments(report: Report) -> None:
    name = report.headlines()[0]
    labels = [line.label for line in report.lines]
    print_table(
        ["segment", "", "users", *(f"{label} {name}" for label in labels)],
        (
            [
                f"{segment.of} by {segment.by.replace('_', ' ')}",
                segment.name,
                f"{segment.n_users:,}",
                *(
                    f"{of[name].mean:.4f}{half(of[name])}"
                    for of in map(segment.compared.figures.get, labels)
                    if of
                ),
            ]
            for segment in report.segments
            for figures in [segment.compared.figures]
        ),
        title="By segment",
    )

"""The report of `reckeeper evaluate` as one page: nothing is loaded, so that it can be mailed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from itertools import groupby
from pathlib import Path

import jinja2

from reckeeper import clock
from reckeeper.cli.evaluation_report import Line, Report, Segment, verdict
from reckeeper.cli.terminal import compact
from reckeeper.errors import DataError
from reckeeper.evaluation import Figure, PairedDifference

_NAMES = {
    "ndcg": ("NDCG", "hits count more the higher they stand; 1 is a perfect list"),
    "recall": ("Recall", "share of what users went on to do that was in the list"),
    "hit_rate": ("Hit rate", "share of lists with at least one hit"),
    "precision": ("Precision", "share of the list that was a hit"),
    "map": ("MAP", "precision at each hit, averaged"),
    "mrr": ("MRR", "1 ÷ the rank of the first hit"),
    "without_hit": ("Users without any hit", "share of users none of whose lists had a hit"),
    "coverage": ("Coverage", "share of all items that somebody is shown"),
    "novelty": ("Novelty", "bits; more for items that few users have"),
    "gini": ("Gini", "0 where all items are shown alike, 1 where few have all places"),
    "popularity_lift": ("Popularity lift", "popularity of what is shown ÷ of what users have"),
}
_CHARTED = ("ndcg", "recall", "hit_rate", "precision", "map", "mrr")
_OF_ITEMS = ("without_hit", "coverage", "novelty", "gini", "popularity_lift")
_BY = {"history_length": "length of the history", "popularity": "popularity"}


@dataclass(frozen=True)
class Mark:
    """A mean with its interval on a chart: places in percent of the width, and words."""

    label: str
    tone: str
    left: float
    width: float
    dot: float
    value: str


@dataclass(frozen=True)
class Row:
    """What stands under one label of a chart."""

    label: str
    note: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """Rows of marks on one scale, with its ticks and the place of its zero."""

    title: str
    note: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float


def write(report: Report, path: Path) -> None:
    """Write the page.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    try:
        path.write_text(page(report), encoding="utf-8")
    except OSError as exc:
        raise DataError(f"{path} cannot be written: {exc.strerror}.") from exc


def page(report: Report) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    template = resources.files("reckeeper.cli").joinpath("evaluation_page.html")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        report=report,
        tones={line.label: f"line{place % 8}" for place, line in enumerate(report.lines)},
        best=_best(report),
        tiles=_tiles(report),
        figures=[_of_metric(report, name) for name in _CHARTED],
        differences=_differences(report),
        segments=[
            _of_segments(report, list(found))
            for _, found in groupby(report.segments, key=lambda one: (one.of, one.by))
        ],
        beyond=_beyond(report),
        tables=[(k, _table(report, k)) for k in report.ks],
        settings={line.label: compact(line.settings) for line in report.lines},
        names=_NAMES,
        made_at=f"{clock.utc(clock.now()):%Y-%m-%d %H:%M} UTC",
        version=metadata.version("reckeeper"),
    )


def _best(report: Report) -> str:
    """Say in a sentence which model finds most, and how sure that is."""
    name = report.headlines()[0]
    figures = report.compared.figures
    ranked = sorted(report.lines, key=lambda line: -figures[line.label][name].mean)
    best: Line = ranked[0]
    if best.label == report.baseline:
        return "No model finds more than the most popular items do."
    found = report.versus(report.baseline, best.label)[name]
    base = figures[report.baseline][name].mean
    words = f"{best.label} finds most"
    if base > 0:
        low, mean, high = (
            f"{value / base:+.0%}" for value in (found.low, found.difference, found.high)
        )
        words += f": {mean} NDCG over the most popular items ({low} to {high})"
    if verdict(found) != "better":
        return f"{words}, yet the difference may be chance."
    rivals = [
        line.label
        for line in ranked[1:]
        if line.label != report.baseline
        and verdict(report.versus(line.label, best.label)[name]) != "better"
    ]
    if rivals:
        words += f"; no difference is shown to {' and '.join(rivals)}"
    return f"{words}."


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and interval of the main figures of the best model."""
    name = report.headlines()[0]
    best = max(report.lines, key=lambda line: report.compared.figures[line.label][name].mean)
    figures = report.compared.figures[best.label]
    tiles = [
        (f"{_title(name)} · {best.label}", f"{figures[name].mean:.4f}", _interval(figures[name]))
        for name in report.headlines()
    ]
    n_users = report.counts["n_test_users"]
    return [*tiles, ("Users judged", f"{n_users:,}", f"{report.n_questions:,} lists")]


def _title(name: str) -> str:
    metric, _, k = name.partition("@")
    return f"{_NAMES[metric][0]}@{k}"


def _interval(figure: Figure | PairedDifference, sign: str = "") -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:{sign}.4f} to {figure.high:{sign}.4f}"


def _of_metric(report: Report, metric: str) -> Chart:
    name = f"{metric}@{report.ks[-1]}"
    figures = report.compared.figures
    scale = _Scale.of([figures[line.label][name] for line in report.lines])
    rows = [
        Row(
            line.label,
            "",
            (scale.figure(line.label, f"line{place % 8}", figures[line.label][name]),),
        )
        for place, line in enumerate(report.lines)
    ]
    return scale.chart(_title(name), _NAMES[metric][1], rows)


def _differences(report: Report) -> list[Chart]:
    pairs = report.compared.differences
    charts = []
    for name in report.headlines()[:2] if pairs else ():
        scale = _Scale.of_differences([found[name] for found in pairs.values()])
        rows = []
        for (first, second), found in pairs.items():
            word = verdict(found[name])
            tone = word if word in ("better", "worse") else "even"
            label = f"{second} \N{MINUS SIGN} {first}"
            rows.append(Row(label, word, (scale.difference(tone, found[name]),)))
        charts.append(scale.chart(_title(name), "second less first, paired by user", rows))
    return charts


def _of_segments(report: Report, found: Sequence[Segment]) -> Chart:
    name = report.headlines()[0]
    labels = [line.label for line in report.lines]
    scale = _Scale.of(
        [segment.compared.figures[label][name] for segment in found for label in labels]
    )
    rows = [
        Row(
            segment.name,
            f"{segment.n_users:,} users",
            tuple(
                scale.figure(label, f"line{place % 8}", segment.compared.figures[label][name])
                for place, label in enumerate(labels)
            ),
        )
        for segment in found
    ]
    by = _BY.get(found[0].by, found[0].by)
    return scale.chart(f"{found[0].of.capitalize()} by {by}", _title(name), rows)


def _beyond(report: Report) -> list[tuple[str, str, list[str]]]:
    """Return name, meaning and each model's value of what is no accuracy."""
    k = report.ks[-1]
    return [
        (
            f"{_NAMES[metric][0]}@{k}",
            _NAMES[metric][1],
            [_value(report.compared.figures[line.label][f"{metric}@{k}"]) for line in report.lines],
        )
        for metric in _OF_ITEMS
    ]


def _table(report: Report, k: int) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return name, and each model's value and interval, of all figures of one k."""
    return [
        (
            _NAMES[name.partition("@")[0]][0],
            [
                (_value(figure), _interval(figure))
                for line in report.lines
                for figure in [report.compared.figures[line.label][name]]
            ],
        )
        for name in report.metrics
        if name.endswith(f"@{k}")
    ]


def _value(figure: Figure) -> str:
    return f"{figure.mean:.4f}" if abs(figure.mean) < 1 else f"{figure.mean:.3f}"


@dataclass(frozen=True)
class _Scale:
    """A range of values on the width of a chart."""

    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[Figure]) -> "_Scale":
        """Return one from 0 to beyond the largest."""
        highest = max((max(one.mean, one.high or 0.0) for one in figures), default=1.0)
        return cls(0.0, (highest or 1.0) * 1.04)

    @classmethod
    def of_differences(cls, found: Iterable[PairedDifference]) -> "_Scale":
        """Return one with all intervals and 0."""
        bounds = [bound for one in found for bound in (one.low, one.high, 0.0)]
        margin = 0.06 * (max(bounds) - min(bounds)) or 0.01
        return cls(min(bounds) - margin, max(bounds) + margin)

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def figure(self, label: str, tone: str, figure: Figure) -> Mark:
        low = figure.mean if figure.low is None else figure.low
        high = figure.mean if figure.high is None else figure.high
        return self._mark(label, tone, low, figure.mean, high, f"{figure.mean:.4f}")

    def difference(self, tone: str, found: PairedDifference) -> Mark:
        value = f"{found.difference:+.4f}"
        return self._mark(
            _interval(found, "+"), tone, found.low, found.difference, found.high, value
        )

    def _mark(
        self, label: str, tone: str, low: float, mean: float, high: float, value: str
    ) -> Mark:
        left = self.place(low)
        return Mark(label, tone, left, round(self.place(high) - left, 2), self.place(mean), value)

    def chart(self, title: str, note: str, rows: Iterable[Row]) -> Chart:
        width = self.high - self.low
        step = 10 ** math.floor(math.log10(width / 3))
        step = next(step * by for by in (1, 2, 5, 10) if width / (step * by) <= 5)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        digits = max(0, -math.floor(math.log10(step)))
        ticks = tuple(
            (self.place(number * step), f"{number * step:.{digits}f}")
            for number in range(first, last + 1)
        )
        return Chart(title, note, tuple(rows), ticks, self.place(0.0))

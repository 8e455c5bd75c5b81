"""What the gate thinks of a version, in words and as a badge."""

from reckeeper import wire
from reckeeper.page import shared

STANDINGS = {
    "better": ":green-badge[better]",
    "no_worse": ":blue-badge[no worse]",
    "slightly_worse": ":blue-badge[slightly worse]",
    "worse": ":red-badge[worse]",
    "too_few": ":orange-badge[too few to tell]",
    "not_compared": ":gray-badge[not compared]",
}

_SEGMENTS = {
    "history_length": "{} items in the history",
    "popularity": "{} items",
}


def asks_for_care(job: wire.ListedJob) -> bool:
    """Say whether a job's version was judged badly, or is not active."""
    verdict = job.verdict
    return verdict is not None and (is_bad(verdict) or job.promoted is False)


def is_bad(verdict: wire.Verdict) -> bool:
    return verdict.decision == "reject" or bool(verdict.reasons)


def in_words(verdict: wire.Verdict) -> str:
    """Return what was found, and what else is to be known of it, as Markdown."""
    said = verdict.sentence
    more = [words for words in [*verdict.reasons, *verdict.warnings] if words not in said]
    return "\n".join([shared.sentence(said), *(["", *_listed(more)] if more else [])])


def segments(verdict: wire.Verdict) -> list[dict[str, object]]:
    """Return the new version beside the active one by segment, a row for each; none if alone."""
    metric = verdict.metric
    return [
        {
            "Segment": _SEGMENTS[segment.by].format(shared.escape(segment.name)),
            "Users": segment.n_users,
            "New version": shared.with_interval(segment.candidate[metric]),
            "Active version": shared.with_interval(segment.active[metric]),
            "Difference": shared.with_interval(segment.versus_active[metric]),
        }
        for segment in verdict.segments
        if segment.active is not None and segment.versus_active is not None
        if metric in {*segment.candidate} & {*segment.active} & {*segment.versus_active}
    ]


def badge(verdict: wire.VerdictSummary | None) -> str:
    """Return the verdict in a word or two."""
    if verdict is None or verdict.standing is None:
        return "–"
    if verdict.decision == "reject" and verdict.standing != "worse":
        return ":red-badge[rejected]"
    return STANDINGS[verdict.standing]


def _listed(sentences: list[str]) -> list[str]:
    return [f"- {shared.sentence(text)}" for text in sentences]

"""What the gate thinks of a version, in words and as a badge."""

from reckeeper import wire
from reckeeper.page import shared


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


def badge(model: wire.Model, verdict: wire.Verdict | None) -> str:
    """Return the verdict in a word or two.

    Whether a version is better, and not only no worse, is known of those alone whose whole
    verdict is at hand.
    """
    listed = model.verdict
    if listed is None:
        return "–"
    found = None if verdict is None else verdict.versus_active
    gain = None if verdict is None or found is None else found.get(verdict.metric)
    if listed.decision == "reject":
        is_worse = gain is not None and gain.high < 0
        return f":red-badge[{'worse' if is_worse else 'rejected'}]"
    if verdict is not None and (verdict.method == "none" or verdict.sentence in verdict.warnings):
        return ":gray-badge[not judged]"
    if gain is None:
        return ":blue-badge[passed]"
    return ":green-badge[better]" if gain.low > 0 else ":blue-badge[no worse]"


def _listed(sentences: list[str]) -> list[str]:
    return [f"- {shared.sentence(text)}" for text in sentences]

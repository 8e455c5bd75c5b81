"""In which encoding text is, told from its bytes."""

import codecs
import re
from collections.abc import Iterable
from pathlib import Path

from reckeeper.errors import DataError

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAMPLES = 16
_SAMPLE_BYTES = 64 * 1024
_ODD_BYTES = 32 * 1024
_FEW = 3
"""So many bytes that are not UTF-8 tell of damage, and fewer need not be another encoding."""

_STRAY = re.compile("[\udc80-\udcff]")
_SOUND = re.compile("[\x80-\ud7ff\ue000-\U0010ffff]")
_LINE_END = re.compile("[\r\n]")
_CONTROL = re.compile("[\0-\x08\x0e-\x1f]")
_WORD = re.compile(r"[^\W\d_]+")
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüŒœŠšŽžªº")
_STRANGE = re.compile(r"[^\W\d_][^\w\s\x00-\x7f\u2018\u2019\u2013\u2014\u2026·\xad\xa0][^\W\d_]")
_COHERENT = 0.1
_CLEARLY = 0.05
_CHOICES = 4
_SHOWN = 40


def certain_encoding_of(start: bytes) -> str | None:
    """Return the encoding that a mark, or the zeros of UTF-16, tell; None if there are none."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    return _with_zeros(start) if b"\0" in start else None


def encoding_of(path: Path, start: bytes, *, is_packed: bool) -> str:
    """Return the encoding of text, as Python names it.

    A mark says it, and what is sound UTF-8 is UTF-8. UTF-16 without a mark is known by its
    zeros. For the rest, Western text is taken for cp1252, which has all letters of latin-1, and
    other text is judged by charset-normalizer. Where damage in UTF-8 is as likely, it's UTF-8:
    a row that is not is refused.

    Parameters
    ----------
    path : Path
    start : bytes
        What the file begins with, unpacked.
    is_packed : bool
        Whether `start` is all that can be looked at; else more places are.

    Raises
    ------
    DataError
        Several encodings are as likely; the message has what each would give.
    """
    if certain := certain_encoding_of(start):
        return certain
    pieces = [start]
    if not is_packed and path.stat().st_size > len(start):
        pieces += _pieces(path, len(start))
    odd, n_stray, n_sound = _odd_lines(pieces)
    # Damage is rare; of two bytes of another encoding, few happen to be UTF-8 together.
    if n_sound * 2 >= n_stray:
        return "utf-8"
    return _judged(path, odd, n_stray)


def _with_zeros(start: bytes) -> str:
    """Tell UTF-16 from a file that has a zero or two in it."""
    zeros = (start[::2].count(0), start[1::2].count(0))
    if max(zeros) < max(4, len(start) / 40) or min(zeros) > max(zeros) / 10:
        return "utf-8"
    name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    text = start[: len(start) // 2 * 2].decode(name, "replace")
    return name if _LINE_END.search(text) and not _CONTROL.search(text) else "utf-8"


def _pieces(path: Path, begin: int) -> Iterable[bytes]:
    """Give whole lines of places all over a file."""
    end = path.stat().st_size
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(begin + max(0, end - begin - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            _, _, piece = file.read(_SAMPLE_BYTES).partition(b"\n")
            yield piece[: piece.rfind(b"\n") + 1]


def _odd_lines(pieces: Iterable[bytes]) -> tuple[bytes, int, int]:
    """Return lines that are not UTF-8, and how many of all characters are not, or not ASCII."""
    lines: list[bytes] = []
    n_bytes = n_stray = n_sound = 0
    for piece in pieces:
        if piece.isascii():
            continue
        text = piece.decode("utf-8", "surrogateescape")
        if len(piece) - piece.rfind(b"\n") < len(piece):
            text = text[: text.rfind("\n") + 1]  # the last line may be cut within a character
        n_stray += len(_STRAY.findall(text))
        n_sound += len(_SOUND.findall(text))
        for line in text.splitlines(keepends=True):
            if n_bytes < _ODD_BYTES and _STRAY.search(line):
                lines.append(line.encode("utf-8", "surrogateescape")[:_ODD_BYTES])
                n_bytes += len(lines[-1])
    return b"".join(lines), n_stray, n_sound


def _is_western(odd: bytes) -> bool:
    """Say whether lines read well in cp1252: few accents, and none that West Europe lacks."""
    try:
        text = odd.decode("cp1252")
    except UnicodeDecodeError:
        return False
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    if _STRANGE.search(text) or not _WESTERN.issuperset(
        letter for word in words for letter in word if not letter.isascii()
    ):
        return False
    if any(word[1:] != word[1:].lower() and word != word.upper() for word in words):
        return False  # an accent of another encoding is often a capital letter here
    long = "".join(word for word in words if len(word) > 1)
    return sum(not letter.isascii() for letter in long) <= len(long) / 2


def _judged(path: Path, odd: bytes, n_stray: int) -> str:
    """Return the encoding of lines that are not UTF-8."""
    import charset_normalizer

    is_western = _is_western(odd)
    found = list(charset_normalizer.from_bytes(odd, cp_exclusion=["utf_16", "utf_32", "utf_8"]))
    names = {name for match in found for name in (match.encoding, *match.could_be_from_charset)}
    first = found[0] if found else None
    if is_western and (
        first is None
        or names & {"cp1252", "latin_1"}
        or not first.encoding.startswith(("cp125", "iso8859"))
    ):
        return "cp1252"
    if (
        first is not None
        and first.coherence > _COHERENT
        and all(
            other.coherence + _CLEARLY < first.coherence or other.chaos > first.chaos + _CLEARLY
            for other in found[1:]
        )
    ):
        return first.encoding
    if n_stray < _FEW and not is_western:
        return "utf-8"
    choices = ["cp1252"] * is_western + [match.encoding for match in found]
    line = odd.splitlines()[0]
    told = "".join(
        f" --encoding {name} gives {_shown(line, name)!r}." for name in choices[:_CHOICES]
    )
    raise DataError(
        f"{path} is not in UTF-8, and which encoding it is in cannot be told for certain.{told} "
        "Say which it is, one of these or another; with --encoding utf-8, rows that are not in it "
        "are refused."
        if told
        else f"{path} is not in UTF-8, nor in any other encoding that can be told: it may be no "
        "text at all. If it is, say in which encoding, with --encoding.",
        details={"encodings": choices[:_CHOICES]},
    )


def _shown(line: bytes, encoding: str) -> str:
    text = line.decode(encoding, "replace")
    at = next((place for place, sign in enumerate(text) if not sign.isascii()), 0)
    return text[max(0, at - _SHOWN // 2) : at + _SHOWN // 2]

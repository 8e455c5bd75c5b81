"""The elements of a JSON array, or JSON values behind each other; beyond broken ones too."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from pydantic_core import from_json

from reckeeper.errors import DataError
from reckeeper.tabular.columns import shown
from reckeeper.tabular.source import VALUE_SHOWN
from reckeeper.tabular.streams import Stream

MOST_BYTES = 16 * 1024 * 1024
"""Characters of one element, or bytes of a line: a longer one is refused."""

_PIECE_BYTES = 1024 * 1024
_AT_ONCE = 32 * 1024
"""Characters of elements that are scanned together."""

_BROKEN_LOOKED_AT = 16 * 1024
"""Characters of a broken element in which its end is sought by its brackets."""

_LONGEST_WORD = 16
"""Characters: what is broken so near to the end of a piece may be cut there."""

_MOST_ENDLESS = 10
_FEW_ODD = 8
_FIRST_NAMES = 20
_NOTED = 3
_BEGINNING = 1_000
"""Characters that the beginning of an element has at most."""

_SPACE = re.compile(r"[ \t\r\n]*")
_TEXT = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_BEGIN = re.compile(rf"\{{\s*{_TEXT}\s*:")
_TOKEN = re.compile(rf'(?P<sign>[\[\]{{}},:])|(?P<text>{_TEXT})|[^\[\]{{}},:"\s]+|"')
_PLAIN = re.compile(r"-?\d[\d.eE+-]*|true|false|null|NaN|-?Infinity")
_OPENING = {"}": "{", "]": "["}


class Broken(NamedTuple):
    """An element that is none: what it begins with, and what is wrong."""

    beginning: str
    reason: str


class _UnsoundError(ValueError):
    pass


class Elements:
    """The elements of an array, or the values of a text, read as they are asked for.

    Sound ones are given together. A broken one ends where its brackets do, or else where what
    begins as sound ones do can be read; what is in between is part of it.

    Attributes
    ----------
    n_pieces : int
        How many pieces of the stream were read.

    Raises
    ------
    DataError
        While they are read: many elements have no end.
    """

    def __init__(self, stream: Stream, file: str) -> None:
        self.n_pieces = 0
        self._file = file
        self._n_given = self._n_endless = 0
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape").decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._is_over = False
        self._firsts: dict[str, None] = {}
        self._n_singly = self._n_next_singly = 0

    def __iter__(self) -> Iterator[list[object] | Broken]:
        is_inside = is_broken = False
        while sign := self._next_sign():
            if sign == ",":
                self._at += 1
            elif sign == "[" and not is_inside:
                self._at += 1
                is_inside = True
            elif sign == "]" and is_inside:
                self._at += 1
                is_inside = False
            else:
                found = self._several() or self._one()
                is_broken = isinstance(found, Broken)
                if isinstance(found, Broken):
                    self._n_given += 1
                else:
                    self._n_given += len(found)
                    self._note(found)
                yield found
        if is_inside and not is_broken:
            yield Broken("", "is missing: the file ends within the array")

    def _note(self, found: list[object]) -> None:
        """Remember the names that elements begin with."""
        for value in found[:_NOTED]:
            if value and isinstance(value, dict) and len(self._firsts) < _FIRST_NAMES:
                self._firsts[next(iter(value))] = None

    def _several(self) -> list[object] | None:
        """Return elements that are scanned together; None where that cannot be."""
        if self._n_singly:
            self._n_singly -= 1
            return None
        end = self._end_of_several()
        if end is not None:
            try:
                found: list[object] = from_json(
                    f"[{self._text[self._at : end]}]", cache_strings="keys"
                )
            except (ValueError, TypeError):  # the latter: it is not text in UTF-8
                end = None
        if end is None:
            self._n_next_singly = min(2 * self._n_next_singly + 1, 1_000)
            self._n_singly = self._n_next_singly
            return None
        self._at = end
        self._n_next_singly = 0
        return found

    def _end_of_several(self) -> int | None:
        """Return the place of the last comma before what begins as the next element does."""
        begin = _BEGIN.match(self._text, self._at, self._at + _BEGINNING)
        if begin is None:
            return None
        last = self._text.rfind(begin[0], begin.end(), self._at + _AT_ONCE)
        if last < 0:
            return None
        start = max(begin.end(), last - _BEGINNING)
        before = self._text[start:last].rstrip()
        return start + len(before) - 1 if before.endswith(",") else None

    def _next_sign(self) -> str:
        """Return the next character that is no space, without passing it; none at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _one(self) -> list[object] | Broken:
        try:
            value, end = self._scanned()
        except _UnsoundError as exc:
            broken = Broken(shown(self._text[self._at : self._at + VALUE_SHOWN]), str(exc))
            self._pass_over()
            return broken
        self._at = end
        return [value]

    def _scanned(self) -> tuple[object, int]:
        """Return the next value and the place where it ends, without passing it."""
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                length = end - self._at
                # What ends with the text may go on, as a number does.
                if end < len(self._text) or not self._more():
                    return value, self._at + length
            except RecursionError:
                raise _UnsoundError("is nested too deeply") from None
            except json.JSONDecodeError as exc:
                what = exc.msg.removesuffix(" at")
                reason = f"is no JSON: {what} at its character {exc.pos - self._at + 1}"
                is_cut = exc.msg.startswith("Unterminated") or exc.pos == len(self._text)
                if not is_cut and exc.pos < len(self._text) - _LONGEST_WORD:
                    raise _UnsoundError(reason) from None
                if len(self._text) - self._at > MOST_BYTES:
                    self._see_that_it_is_rare()
                    reason = f"is longer than {MOST_BYTES:,} characters"
                    raise _UnsoundError(reason) from None
                if not self._more():
                    reason = "is not whole: the file ends within it" if is_cut else reason
                    raise _UnsoundError(reason) from None
            except ValueError:
                raise _UnsoundError("has too long a number in it") from None

    def _see_that_it_is_rare(self) -> None:
        """Give up where many an element has no end: each takes long."""
        self._n_endless += 1
        if self._n_endless > _MOST_ENDLESS:
            raise DataError(
                f"{self._file} cannot be read beyond element {self._n_given}: {_MOST_ENDLESS} "
                f"elements before that are longer than {MOST_BYTES:,} characters, or a bracket is "
                "missing in each. Correct the file."
            )

    def _more(self) -> bool:
        """Read on; return whether there was more."""
        if self._is_over:
            return False
        piece = self._stream.read(_PIECE_BYTES)
        self.n_pieces += 1
        self._is_over = not piece
        self._text = self._text[self._at :] + self._decode(piece, final=self._is_over)
        self._at = 0
        return not self._is_over

    def _pass_over(self) -> None:
        """Go on to what is behind a broken element."""
        while len(self._text) - self._at < _BROKEN_LOOKED_AT and self._more():
            pass
        end = self._end_by_brackets()
        if end is not None:
            self._at = end
            return
        like_sound = self._like_sound()
        while True:
            found = like_sound.search(self._text, self._at)
            if found is not None:
                self._at = found.start("element")
                if self._is_element():
                    return
            else:
                self._at = max(self._at, len(self._text) - _BEGINNING)
                if not self._more():
                    self._at = len(self._text)
                    return

    def _end_by_brackets(self) -> int | None:
        """Return where a broken element ends by its brackets; None if these are broken, too."""
        opened: list[str] = []
        n_odd = 0
        before = ""
        for token in _TOKEN.finditer(self._text, self._at, self._at + _BROKEN_LOOKED_AT):
            sign = token["sign"]
            if sign in ("{", "["):
                if sign == "{" and before == "," and opened[-1:] == ["{"]:
                    return token.start()  # no object has another one there: a bracket is missing
                opened.append(sign)
            elif sign in ("}", "]"):
                if not opened:
                    return token.start() if sign == "]" and before else None
                if opened.pop() != _OPENING[sign]:
                    return None
                if not opened:
                    return token.end()
            elif sign == "," and not opened:
                return token.start()
            elif sign is None and token["text"] is None and not _PLAIN.fullmatch(token[0]):
                n_odd += 1
                if token[0] == '"' or n_odd > _FEW_ODD:
                    return None  # a quotation mark is missing: what stands in text seems to be none
            before = token[0]
        return None

    def _like_sound(self) -> re.Pattern[str]:
        """Return what finds the next element that begins as sound ones do, or as this one does."""
        own = _BEGIN.match(self._text, self._at, self._at + _BEGINNING)
        names = {re.escape(own[0][1:-1].strip())} if own else set()
        for name in self._firsts:
            names |= {re.escape(json.dumps(name, ensure_ascii=one)) for one in (True, False)}
        any_name = "|".join(sorted(names)) or _TEXT
        return re.compile(rf"[,\]}}]\s*(?P<element>\{{\s*(?:{any_name})\s*:)")

    def _is_element(self) -> bool:
        """Say whether a sound value is next, and behind it another one or an end."""
        try:
            _, end = self._scanned()
        except _UnsoundError:
            return False
        return self._text[end:].lstrip()[:1] in (",", "]", "{", "")

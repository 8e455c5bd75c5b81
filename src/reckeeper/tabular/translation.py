"""Text in any encoding and with any delimiter, as Arrow reads it: UTF-8, one sign of ASCII."""

import codecs
import csv
import io
import itertools
import re
from typing import TYPE_CHECKING

import pyarrow as pa

from reckeeper.errors import DataError
from reckeeper.tabular.forms import WHITE_SPACE, Form, Kind
from reckeeper.tabular.streams import Stream

SEPARATOR = "\x1f"
"""Takes the place of a delimiter that is not one sign of ASCII."""

_PIECE_BYTES = 1024 * 1024
_LONGEST_ROW = 2 * 1024 * 1024
_FIRST_BYTE = 0x10FF00
"""Bytes that are no text are these characters for Arrow, which loses broken rows with others."""

_NO_TEXT = "\udcff"
_UNREADABLE = chr(_FIRST_BYTE + 0xFF)
_STANDS_FOR_A_BYTE = re.compile(rb"\xf4\x8f[\xbe\xbf][\x80-\xbf]")
_STRAY = re.compile("[\udc80-\udcff]")

_ESCAPED_LINE_END = re.compile(r"(?<!\\)((?:\\\\)*)\\(?=[\r\n])")
_ESCAPED_LINE_END_BYTES = re.compile(_ESCAPED_LINE_END.pattern.encode())

_REFUSING = "reckeeper.refusing"
_LINE_END = re.compile(r"\r\n|\r|\n")
if TYPE_CHECKING:
    import _csv  # where alone the type of what csv.reader returns has a name

_PLAIN = "utf-8"


def _refusing(exc: UnicodeError) -> tuple[str, int]:
    if isinstance(exc, UnicodeDecodeError):
        return _UNREADABLE, exc.end
    raise exc


codecs.register_error(_REFUSING, _refusing)


def restored(value: bytes) -> bytes:
    """Return a value with the bytes that are no text, as they are in the file."""
    return _STANDS_FOR_A_BYTE.sub(
        lambda found: bytes([ord(found[0].decode()) - _FIRST_BYTE]), value
    )


def stands_in(content: pa.Buffer | None) -> bool:
    """Say whether values have a byte to be `restored`."""
    return content is not None and b"\xf4\x8f" in memoryview(content).tobytes()


class Sound:
    """Text in UTF-8 as it is; a byte that is no text is a character for as long as Arrow has it.

    Attributes
    ----------
    is_restored_by_hand : bool
        Whether there was such a byte, so that values must be `restored`.
    """

    def __init__(self, content: Stream) -> None:
        self.is_restored_by_hand = False
        self._content = content
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ready = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        if not self._ready:
            self._ready = memoryview(self._next(size))
        piece, self._ready = self._ready[:size], self._ready[size:]
        return bytes(piece)

    def _next(self, size: int) -> bytes:
        piece = b"x"
        while piece:
            piece = self._content.read(size)
            if piece.isascii() and not self._decoder.getstate()[0]:
                return piece
            text = self._decoder.decode(piece, final=not piece)
            if _STRAY.search(text):
                self.is_restored_by_hand = True
                text = _STRAY.sub(lambda found: chr(ord(found[0]) - 0xDC00 + _FIRST_BYTE), text)
            if text:
                return text.encode()
        return b""


class Ended:
    """Text as Arrow reads it with one more line, in which no row may end but at its beginning.

    Where that line is part of a value, a quotation mark is not closed. A backslash before the end
    of a line is left out: it would hold rows together.

    Parameters
    ----------
    content : Stream
    end : bytes
        The line, with the end of the one before it.
    has_escapes : bool
    """

    def __init__(self, content: Stream, end: bytes, *, has_escapes: bool) -> None:
        self._content = content
        self._end = end
        self._has_escapes = has_escapes
        self._held = b""
        self._ready = b""
        self._is_over = False

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, or fewer at the end.

        Arrow takes what it gets at once for a block, and a row may reach over two of these.
        """
        while len(self._ready) < size and not self._is_over:
            piece = self._content.read(size)
            self._is_over = not piece
            self._ready += self._unescaped(piece or self._end)
        piece, self._ready = self._ready[:size], self._ready[size:]
        return piece

    def _unescaped(self, piece: bytes) -> bytes:
        if not self._has_escapes:
            return piece
        text = self._held + piece
        n_held = (len(text) - len(text.rstrip(b"\\"))) % 2
        text, self._held = text[: len(text) - n_held], text[len(text) - n_held :]
        if b"\\\n" in text or b"\\\r" in text:
            return _ESCAPED_LINE_END_BYTES.sub(rb"\1", text)
        return text


def is_one_sign(delimiter: str) -> bool:
    """Say whether Arrow and `csv` can read text with this delimiter as it is."""
    return len(delimiter) == 1 and delimiter.isascii()


def is_plain(form: Form) -> bool:
    """Say whether Arrow can read text of this form as it is, once it is unpacked."""
    return form.encoding == _PLAIN and is_one_sign(form.delimiter or "")


def text_of(start: bytes, form: Form) -> str:
    """Return the text that a file begins with; bytes that are none stand for themselves.

    Raises
    ------
    DataError
        The encoding asks for a mark at the beginning, which is not there.
    """
    if form.encoding == _PLAIN:
        text = start.decode("utf-8", "surrogateescape")
    else:
        decoder = codecs.getincrementaldecoder(form.encoding or "")(_REFUSING)
        try:
            text = decoder.decode(start)
        except UnicodeError as exc:
            raise DataError(
                f"The file is not text in {form.encoding} ({exc}): name another encoding, such as "
                f"{form.encoding}-le, or let it be found out."
            ) from exc
    return text.removeprefix("\ufeff")


def rows_of(
    text: str, delimiter: str, *, has_quotes: bool, has_escapes: bool = False
) -> "_csv.Reader":
    """Return the rows of a text, each with its values.

    What is returned raises `csv.Error` where a value is too long.
    """
    if not is_one_sign(delimiter):
        text, delimiter = separated(text, delimiter, has_quotes=has_quotes), SEPARATOR
    if has_escapes:
        text = _ESCAPED_LINE_END.sub(r"\1", text)
    lines = io.StringIO(text, newline="")
    if has_quotes:
        return csv.reader(lines, delimiter=delimiter, escapechar="\\" if has_escapes else None)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def separated(text: str, delimiter: str, *, has_quotes: bool) -> str:
    """Return whole lines with `SEPARATOR` in the place of a delimiter of several signs.

    In quotation marks, where they mean something, the delimiter stays.
    """
    text = text.replace(SEPARATOR, _UNREADABLE)
    if delimiter == WHITE_SPACE:
        sign, before = r"[ \t]+", r"(?<![^ \t\r\n])"
    else:
        sign = re.escape(delimiter)
        before = rf"(?:(?<![^\r\n])|(?<={sign}))"
    if has_quotes and '"' in text:
        text = re.sub(
            rf'(?P<quoted>{before}"[^"]*(?:""[^"]*)*")|{sign}',
            lambda found: found["quoted"] or SEPARATOR,
            text,
        )
    elif delimiter == WHITE_SPACE:
        text = re.sub(sign, SEPARATOR, text)
    else:
        return text.replace(delimiter, SEPARATOR)
    return _trimmed(text) if delimiter == WHITE_SPACE else text


def _trimmed(text: str) -> str:
    """Return lines without separators at their ends; within a value there are none."""
    for end in "\r\n":
        text = text.replace(end + SEPARATOR, end).replace(SEPARATOR + end, end)
    return text.strip(SEPARATOR)


class Translated:
    """Text as `separated` gives it, in UTF-8, from the line behind those to be left out.

    Parameters
    ----------
    content : Stream
    form : Form
    """

    def __init__(self, content: Stream, form: Form) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder(form.encoding or "")(_REFUSING)
        self._delimiter = form.delimiter or ""
        self._has_quotes = bool(form.has_quotes)
        self._skip_lines = form.skip_lines or 0
        self._held = ""
        self._is_first = True
        self._ready = memoryview(b"")
        self._is_over = False
        self.is_restored_by_hand = form.kind is Kind.TEXT

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        while not self._ready and not self._is_over:
            text = self._next()
            if not self.is_restored_by_hand:
                text = text.replace(_UNREADABLE, _NO_TEXT)
            self._ready = memoryview(text.encode("utf-8", "surrogatepass"))
        piece, self._ready = self._ready[:size], self._ready[size:]
        return bytes(piece)

    def _next(self) -> str:
        piece = self._content.read(_PIECE_BYTES)
        self._is_over = not piece
        text = self._held + self._decoder.decode(piece, final=self._is_over)
        if self._is_first:
            text = text.removeprefix("\ufeff")
            self._is_first = not text
        end = len(text) if self._is_over else _end_of_lines(text)
        lines, self._held = text[:end], text[end:]
        if self._skip_lines:
            lines, self._skip_lines = without_lines(lines, self._skip_lines)
        if is_one_sign(self._delimiter):
            return lines
        is_within = self._has_quotes and lines.count('"') % 2
        if is_within and not self._is_over and len(lines) < _LONGEST_ROW:
            self._held = lines + self._held
            return ""
        return separated(lines, self._delimiter, has_quotes=self._has_quotes)


def _end_of_lines(text: str) -> int:
    """Return where the last whole line ends, if it is not too long to wait for."""
    # A carriage return at the very end may be half of a line end.
    end = 1 + max(text.rfind("\n"), text.rfind("\r", 0, -1))
    return len(text) if not end and len(text) > _LONGEST_ROW else end


def without_lines(text: str, n_lines: int) -> tuple[str, int]:
    """Return a text from the line behind so many, and how many more it would have to have."""
    end = 0
    for found in itertools.islice(_LINE_END.finditer(text), n_lines):
        end, n_lines = found.end(), n_lines - 1
    return ("", n_lines) if n_lines else (text[end:], 0)

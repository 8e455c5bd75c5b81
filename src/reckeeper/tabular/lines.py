"""Lines of a text, read in bounded memory however long they are."""

import re
from collections.abc import Iterator

from reckeeper.tabular.streams import Stream

_PIECE_BYTES = 1024 * 1024
_LINE_END = re.compile(rb"\r?\n|\r(?!\Z)")


def lines_of(stream: Stream, *, at_most: int) -> Iterator[list[bytes]]:
    """Give whole lines without their ends, some at a time.

    Parameters
    ----------
    stream : Stream
        Of text in an encoding that has line ends as ASCII has.
    at_most : int
        Bytes of a line: of a longer one, what is given is longer too, and not all.
    """
    rest, is_passing_over = b"", False
    while piece := stream.read(_PIECE_BYTES):
        text = rest + piece
        if is_passing_over:
            line_end = _LINE_END.search(text)
            if line_end is None:
                rest = text[-1:]  # perhaps half of a line end
                continue
            text, is_passing_over = text[line_end.end() :], False
        end = text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, len(text) - 1) + 1
        rest = text[end:]
        if end:
            yield text[:end].splitlines()
        if len(rest) > at_most:
            yield [rest]
            rest, is_passing_over = b"", True
    if rest and not is_passing_over:
        yield rest.splitlines()

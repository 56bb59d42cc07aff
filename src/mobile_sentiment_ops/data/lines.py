"""A stream of bytes in, the lines of its text out: which encoding it is in, and which line is which.

Bytes that the encoding cannot read come out as halves of surrogate pairs, so that the one line that
holds them can be found (`encodable`) and left out without losing its neighbours.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mobile_sentiment_ops.errors import UnreadableFile

MAX_LINE_CHARS = 16 * 2**20


def find_encoding(stream: BinaryIO, name: str) -> str:
    """The encoding of a text: from its byte order mark, else from all of its bytes.

    A text with at least as much UTF-8 as other bytes above 127 is UTF-8 (its broken lines are
    rejected one by one); else it is cp1252, which holds latin-1, unless it has more such bytes than
    any Western European language.

    >>> find_encoding(io.BytesIO("text\\nça marche très bien".encode("latin-1")), "reviews.csv")
    'cp1252'
    """
    head = stream.read(4096)
    stream.seek(0)
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_LE, "utf-16"), (codecs.BOM_BE, "utf-16")):
        if head.startswith(mark):
            return encoding
    header = head.partition(b"\n")[0][:32]  # ASCII in every file we can use: in UTF-16 every other byte is zero
    for low, encoding in ((0, "utf-16-le"), (1, "utf-16-be")):
        if len(header) >= 4 and all(header[low::2]) and not any(header[1 - low :: 2]):
            return encoding
    if len(head) - len(head.translate(None, _CONTROL)) > len(head) / 10:
        raise _no_text(name)

    utf8 = other = letters = 0
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    while chunk := stream.read(2**20):
        broken = len(_ESCAPED.findall(text)) if not encodable(text := decoder.decode(chunk)) else 0
        other += broken
        utf8 += len(chunk) - len(chunk.translate(None, _ABOVE_ASCII)) - broken
        letters += len(chunk) - len(chunk.translate(None, _ASCII_LETTERS))
    stream.seek(0)
    if utf8 >= other:
        return "utf-8"
    if other > letters / 2:
        raise _no_text(name)
    return "cp1252"


def _no_text(name: str) -> UnreadableFile:
    return UnreadableFile(
        f"{name} is no text in UTF-8, UTF-16 or a Western European encoding; unpack an archive, save the sheet "
        f"of a workbook as CSV, and save text as UTF-8"
    )


_CONTROL = bytes(set(range(32)) - set(b"\t\n\f\r"))
_ABOVE_ASCII = bytes(range(128, 256))
_ASCII_LETTERS = string.ascii_letters.encode()
_ESCAPED = re.compile("[\udc80-\udcff]")


def encodable(text: str) -> bool:
    """False for text with halves of surrogate pairs, as unreadable bytes become.

    >>> encodable("très bien 👍"), encodable(b"tr\\xe8s bien".decode("utf-8", "surrogateescape"))
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def undecodable(encoding: str) -> str:
    """What is said of a row that is not."""
    return f"undecodable: a part of it is no {encoding.upper()} text"


@contextmanager
def open_lines(stream: BinaryIO, name: str) -> Iterator[Lines]:
    """The lines of a text from its start; the stream stays open for its owner."""
    stream.seek(0)
    lines = Lines(stream, find_encoding(stream, name), name)
    try:
        yield lines
    finally:
        lines.text.detach()


class Lines:
    """Physical lines with their ends, counted; those in hand can be given back."""

    def __init__(self, stream: BinaryIO, encoding: str, name: str) -> None:
        errors = "surrogatepass" if encoding.startswith("utf-16") else "surrogateescape"
        self.text = io.TextIOWrapper(stream, encoding, errors=errors, newline="")
        self.name = name
        self._back: list[str] = []
        self.encoding = encoding
        self.number = 0
        self.held: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else self._read()
        self.number += 1
        self.held.append(line)
        return line

    @property
    def start(self) -> int:
        """The number of the first line in hand."""
        return self.number - len(self.held) + 1

    def give_back(self, keep: int = 0) -> None:
        """All lines in hand, but the first `keep`, come again."""
        self._back.extend(reversed(self.held[keep:]))
        self.number -= len(self.held) - keep
        del self.held[keep:]

    def peek(self, count: int) -> list[str]:
        """The next lines that are not blank, which will still come."""
        found = list(itertools.islice((line for line in self if not line.isspace()), count))
        self.give_back()
        return found

    def _read(self) -> str:
        try:
            line = self.text.readline(MAX_LINE_CHARS)
        except UnicodeDecodeError as err:
            raise UnreadableFile(
                f"{self.name}: damaged {self.encoding} text after line {self.number} ({err.reason}); fetch it again"
            ) from err
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE_CHARS:
            raise UnreadableFile(
                f"{self.name} line {self.number + 1} is longer than {MAX_LINE_CHARS:,} characters; "
                f"expected one review a line"
            )
        return line

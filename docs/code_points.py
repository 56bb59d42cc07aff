"""Write the table by which texts are folded: `python docs/code_points.py`, with a Python of the wanted Unicode.

The file holds little-endian numbers behind a head of 32 bytes that names the version of Unicode:

    uint16 blocks[0x110000 / BLOCK]   which block has the entries of code points BLOCK * i and on
    uint32 how many blocks, uint32 how many folded code points
    uint16 entries[][BLOCK]           a class, or CLASSES + where the folded code points of this one begin
    uint32 folded[]                   a code point, its class << 24, and 1 << 31 on the last of a sequence
"""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

FILE = Path(__file__).parents[1] / "src" / "mobile_sentiment_ops" / "models" / "code_points.bin"
BLOCK = 64
SEPARATOR, DROPPED, WORD, UNSPACED, EMOJI, CLASSES = range(6)


def _in(*ranges: tuple[int, int]) -> frozenset[int]:
    return frozenset(point for first, last in ranges for point in range(first, last + 1))


DIACRITICS = _in((0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
HAMZA_AND_MADDA = _in((0x653, 0x655))
"""They are written or left out like accents are, and the only other marks that compose across a mark between."""
INVISIBLE = _in(
    (0xAD, 0xAD), (0x180B, 0x180D), (0x200B, 0x200D), (0x2060, 0x2060), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF)
)
SKIN_TONES = _in((0x1F3FB, 0x1F3FF))
NOTHING = DIACRITICS | HAMZA_AND_MADDA | INVISIBLE | SKIN_TONES | {ord("'"), 0x2019}
WITHOUT_BLANKS = _in(
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF)
)  # Thai and Lao, Burmese, Khmer, Kana, Han
PICTURES = _in((0x2190, 0x2BFF), (0x1F000, 0x1FAFF))
HANGUL, SURROGATES = _in((0xAC00, 0xD7A3)), _in((0xD800, 0xDFFF))
FINAL_SIGMA = 0x3C2


def folded(point: int) -> list[int]:
    """The code points that a text shows in the place of this one, whatever stands beside it.

    >>> "".join(map(chr, folded(ord("É")))), "".join(map(chr, folded(0x130)))
    ('e', 'i')
    """
    if point in HANGUL or point in SURROGATES:
        return [point]
    lower = "".join(char.lower() for char in unicodedata.normalize("NFKD", chr(point)))
    found = map(ord, unicodedata.normalize("NFKD", lower))
    return [0x3C3 if kept == FINAL_SIGMA else kept for kept in found if kept not in NOTHING]


def class_of(point: int) -> int:
    """What a folded code point is to a token."""
    char = chr(point)
    if point in WITHOUT_BLANKS:
        return UNSPACED
    if char.isalnum() or unicodedata.category(char).startswith("M"):
        return WORD
    return EMOJI if point in PICTURES else SEPARATOR


def table() -> bytes:
    """The content of the file."""
    sequences: dict[tuple[int, ...], int] = {}
    words: list[int] = []

    def entry(point: int) -> int:
        found = folded(point)
        classes = [class_of(part) for part in found]
        if not found or not any(classes):
            return SEPARATOR if found else DROPPED
        if found == [point]:
            return classes[0]
        if (key := tuple(found)) not in sequences:
            sequences[key] = len(words)
            words.extend(kind << 24 | part for kind, part in zip(classes, found, strict=True))
            words[-1] |= 1 << 31
        return CLASSES + sequences[key]

    blocks: dict[tuple[int, ...], int] = {}
    first = [
        blocks.setdefault(tuple(map(entry, range(at, at + BLOCK))), len(blocks)) for at in range(0, 0x110000, BLOCK)
    ]
    entries = [value for block in blocks for value in block]
    return b"".join(
        (
            f"Unicode {unicodedata.unidata_version}".encode().ljust(32, b"\0"),
            struct.pack(f"<{len(first)}H", *first),
            struct.pack("<II", len(blocks), len(words)),
            struct.pack(f"<{len(entries)}H", *entries),
            struct.pack(f"<{len(words)}I", *words),
        )
    )


if __name__ == "__main__":
    FILE.write_bytes(table())
    print(f"{FILE.name}: Unicode {unicodedata.unidata_version}, {FILE.stat().st_size:,} bytes")

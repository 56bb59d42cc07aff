"""What `_kernel.c` computes, in Python: it says what is right, and serves where no kernel was built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import DataError
from mobile_sentiment_ops.models.kernel import TABLE, Counted, Grams

SEPARATOR, DROPPED, WORD, UNSPACED, EMOJI, CLASSES = range(6)
_BLOCK = 64
_BLOCK_OF, _ENTRIES, _FOLDED = (part.tolist() for part in TABLE)

_START, _END = "\x02", "\x03"
_WORDS_SEED, _CHARACTERS_SEED = 0x243F6A8885A308D3, 0x13198A2E03707344
_ALL = 2**64 - 1


def folded(point: int) -> Iterator[tuple[int, int]]:
    """The code points that this one becomes, each with its class.

    >>> [chr(part) for part, _ in folded(0x130)]
    ['i']
    """
    entry = _ENTRIES[_BLOCK_OF[point // _BLOCK] * _BLOCK + point % _BLOCK]
    if entry < CLASSES:
        yield point, entry
        return
    for at in range(entry - CLASSES, len(_FOLDED)):
        yield _FOLDED[at] & 0xFFFFFF, _FOLDED[at] >> 24 & 0x7F
        if _FOLDED[at] >> 31:
            return


def tokens(text: str) -> list[str]:
    """The tokens of a text, folded and in order.

    >>> tokens("Café, don't!"), tokens("ดีมาก")
    (['cafe', 'dont'], ['ดีม', 'ีมา', 'มาก'])
    """
    runs: list[tuple[int, str]] = [(SEPARATOR, "")]
    for part, kind in (found for char in text for found in folded(ord(char))):
        if kind == runs[-1][0] and kind != EMOJI:
            runs[-1] = kind, runs[-1][1] + chr(part)
        elif kind != DROPPED:
            runs.append((kind, chr(part)))
    found: list[str] = []
    for kind, run in runs:
        if kind == UNSPACED:
            found += [run[at : at + 3] for at in range(max(1, len(run) - 2))]
        elif kind != SEPARATOR:
            found.append(run)
    return found


def hashes(text: str, grams: Grams) -> list[int]:
    """The 32 bits of each feature of a text, in no order that matters.

    >>> len(hashes("so so good", Grams(words=2))), len(hashes("so", Grams(words=1, characters=(3, 4))))
    (5, 4)
    """
    words, (shortest, longest) = tokens(text), grams.characters
    family = 1 << 32 - grams.bits if longest else 0
    found: list[int] = []
    runs = single = [_finish(_run(_WORDS_SEED, word)) & ~family for word in words]
    for size in range(1, grams.words + 1):
        found += runs
        runs = [_finish(_step(run, last)) & ~family for run, last in zip(runs, single[size:], strict=False)]
    for marked in (f"{_START}{word}{_END}" for word in words if longest):
        for size in range(shortest, longest + 1):
            places = range(len(marked) - size + 1)
            found += [_finish(_run(_CHARACTERS_SEED, marked[at : at + size])) | family for at in places]
    return found


def counted(texts: Sequence[str], grams: Grams) -> Counted:
    """How often each bucket occurs in each text; DataError names one with a lone surrogate."""
    rows = []
    for row, text in enumerate(texts):
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise DataError(
                f"text {row} holds a lone surrogate, half of a character; leave it out or mend its encoding"
            )
        rows.append(sorted(Counter(found >> 32 - grams.bits for found in hashes(text, grams)).items()))
    pairs = np.array([pair for row in rows for pair in row], np.int64).reshape(-1, 2)
    starts = np.array([0, *accumulate(map(len, rows))], np.int64)
    return Counted(starts, pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.float32))


def weighed(found: Counted, columns: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> Counted:
    """The columns of the buckets that have one, with weights in rows of length 1."""
    known = found.buckets < columns.size
    column = np.where(known, columns[np.where(known, found.buckets, 0)], -1)
    kept = column >= 0
    starts = np.concatenate([[0], np.cumsum(kept)])[found.starts]
    logs = (1 + np.log(found.counts[kept].astype(float)).astype(np.float32)).astype(np.float32)
    values, rows = logs * weights[column[kept]], found.rows[kept]
    lengths = np.sqrt(np.bincount(rows, values.astype(float) ** 2, found.starts.size - 1))
    parts = np.divide(1, lengths, where=lengths > 0, out=lengths).astype(np.float32)
    return Counted(starts, column[kept].astype(np.int32), values * parts[rows])


def _step(state: int, value: int) -> int:
    return (state * 0x9E3779B97F4A7C15 + value) & _ALL


def _finish(state: int) -> int:
    return ((state ^ state >> 32) * 0xD1342543DE82EF95 & _ALL) >> 32


def _run(state: int, text: str) -> int:
    for char in text:
        state = _step(state, ord(char))
    return state

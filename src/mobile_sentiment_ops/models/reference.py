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
    return [token for token, _, _ in placed_tokens(text)]


def placed_tokens(text: str) -> list[tuple[str, int, int]]:
    """The tokens of a text, each with where it begins and ends there.

    >>> placed_tokens("I DON'T")
    [('i', 0, 1), ('dont', 2, 7)]
    """
    runs: list[tuple[int, list[tuple[str, int]]]] = [(SEPARATOR, [])]
    for at, char in enumerate(text):
        for part, kind in folded(ord(char)):
            if kind == DROPPED:
                continue
            if kind != runs[-1][0] or kind == EMOJI:
                runs.append((kind, []))
            runs[-1][1].append((chr(part), at))
    found: list[tuple[str, int, int]] = []
    for kind, run in runs:
        size = 3 if kind == UNSPACED else len(run)
        if kind != SEPARATOR:
            parts = [run[first : first + size] for first in range(max(1, len(run) - size + 1))]
            found += [("".join(char for char, _ in part), part[0][1], part[-1][1] + 1) for part in parts]
    return found


def hashes(text: str, grams: Grams) -> list[int]:
    """The 32 bits of each feature of a text, in no order that matters.

    >>> len(hashes("so so good", Grams(words=2))), len(hashes("so", Grams(words=1, characters=(3, 4))))
    (5, 4)
    """
    return [found for found, _, _ in placed_hashes(tokens(text), grams)]


def placed_hashes(words: Sequence[str], grams: Grams) -> Iterator[tuple[int, int, int]]:
    """The 32 bits of each feature of these tokens, with its first token and of how many it is; a run of
    characters is of one.

    >>> [place for _, *place in placed_hashes(["so", "good"], Grams(words=2))]
    [[0, 1], [1, 1], [0, 2]]
    """
    shortest, longest = grams.characters
    family = 1 << 32 - grams.bits if longest else 0
    runs = single = [_finish(_run(_WORDS_SEED, word)) & ~family for word in words]
    for size in range(1, grams.words + 1):
        yield from ((run, at, size) for at, run in enumerate(runs))
        runs = [_finish(_step(run, last)) & ~family for run, last in zip(runs, single[size:], strict=False)]
    for at, marked in enumerate(f"{_START}{word}{_END}" for word in words if longest):
        for size in range(shortest, longest + 1):
            for place in range(len(marked) - size + 1):
                yield _finish(_run(_CHARACTERS_SEED, marked[place : place + size])) | family, at, 1


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

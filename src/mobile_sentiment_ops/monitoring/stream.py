"""The alarm that does not wait for a window to end: Page's test on every review as it comes (Page 1954; Hinkley 1971).

Three signals of a review are followed: p(negative), the share of its words that are unknown, and whether its text came
before among the last RECENT reviews. Of each, what is above the reference's mean and an allowance is added up, and the
sum never falls below zero; an alarm is a sum above its limit, after which it begins anew. Limits come from streams of
reference rows in chance order. All is integers, so the state does not depend on how the stream was cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.monitoring.reference import Reference
from mobile_sentiment_ops.monitoring.rows import MOMENTS, SHARE, UNIT, Ints, Rows

SIGNALS = ("negative share", "unknown words", "repeated texts")
ALLOWANCE = 0.25
"""In standard deviations: half of the smallest move that is to be found fast."""
RECENT = 1_000
ALARMS_PER_10K = 0.2
"""False alarms of all three signals together, for 10,000 reviews in which nothing moved."""
STREAMS, STREAM_ROWS = 400, 10_000
_SCALE = 1 << 10

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class StreamLimits:
    """Means (3,) and deviations (3,) of the signals in the reference, and the limits (3,) of their sums."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    limits: tuple[int, ...]


@dataclass(frozen=True)
class Stream:
    """Where the sums (3,) are after `seen` reviews, and the keys of the last RECENT texts."""

    sums: tuple[int, ...] = (0, 0, 0)
    seen: int = 0
    recent: Keys = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True, slots=True)
class Alarm:
    """A sum went above its limit at that review of the rows given."""

    signal: str
    row: int


def stream_limits(reference: Reference, *, seed: int = 0, streams: int = STREAMS) -> StreamLimits:
    """Limits that streams of reference rows in chance order exceed ALARMS_PER_10K times in 10,000 reviews."""
    rows, chance = reference.rows, np.random.default_rng(seed)
    size = min(len(rows), STREAM_ROWS)
    signals = _signals(rows, np.empty(0, np.uint64))[0]
    orders = [chance.permutation(len(rows))[:size] for _ in range(streams)]
    repeated = np.stack([_repeated(rows.keys[order]) for order in orders[:40]])
    means = [*signals[:, :2].mean(axis=0), repeated.mean()]
    deviations = [*np.maximum(signals[:, :2].std(axis=0), 1e-3), max(repeated.std(), 1e-3)]
    found = StreamLimits(tuple(map(float, means)), tuple(map(float, deviations)), (0, 0, 0))
    highest = np.zeros((streams, len(SIGNALS)))
    for at, order in enumerate(orders):
        steps = _steps(np.column_stack([signals[order, :2], _repeated(rows.keys[order])]), found)
        sums = steps.cumsum(axis=0)
        highest[at] = (sums - np.minimum(np.minimum.accumulate(sums, axis=0), 0)).max(axis=0)
    share = min(ALARMS_PER_10K * size / 10_000 / len(SIGNALS), 0.5)
    edge = np.quantile(highest, 0.8, axis=0)  # beyond it, excesses are about exponential
    above = np.maximum(highest - edge, 0)
    excess = above.sum(axis=0) / np.maximum((above > 0).sum(axis=0), 1)
    limits = edge + excess * np.log(0.2 / share)
    return replace(found, limits=tuple(int(limit) for limit in np.ceil(limits)))


def follow(state: Stream, rows: Rows, limits: StreamLimits) -> tuple[Stream, list[Alarm]]:
    """The state after these reviews, in their order, and the alarms among them.

    >>> from types import SimpleNamespace
    >>> angry = {"scores": np.full((12, 3), UNIT), "moments": np.zeros((12, 6), int), "keys": np.zeros(12, np.uint64)}
    >>> follow(Stream(), SimpleNamespace(**angry), StreamLimits((0.3, 0, 0), (0.3, 1, 1), (20_000,) * 3))[1]
    [Alarm(signal='negative share', row=9)]
    """
    signals, recent = _signals(rows, state.recent)
    steps, sums, alarms = _steps(signals, limits), list(state.sums), []
    for at, name in enumerate(SIGNALS):
        first = 0
        while first < len(steps):
            course = np.concatenate([[sums[at]], steps[first:, at]]).cumsum()
            course = (course - np.minimum(np.minimum.accumulate(course), 0))[1:]
            above = np.flatnonzero(course > limits.limits[at])
            if not above.size:
                sums[at] = int(course[-1])
                break
            alarms.append(Alarm(name, first + int(above[0])))
            first, sums[at] = first + int(above[0]) + 1, 0
    return Stream(tuple(sums), state.seen + len(steps), recent), sorted(alarms, key=lambda alarm: alarm.row)


def _signals(rows: Rows, recent: Keys) -> tuple[npt.NDArray[np.float64], Keys]:
    """(n, 3) of the reviews, and the keys of the last RECENT texts."""
    keys = np.concatenate([recent, rows.keys])
    unknown = rows.moments[:, MOMENTS.index("unknown")] / SHARE
    repeated = _repeated(keys)[len(recent) :]
    return np.column_stack([rows.scores[:, 0] / UNIT, unknown, repeated]), keys[-RECENT:]


def _repeated(keys: Keys) -> npt.NDArray[np.bool_]:
    """Which texts came before among the RECENT ones before them; a key of 0 is of no such text."""
    order = np.argsort(keys, kind="stable")
    again = np.zeros(keys.size, bool)
    if keys.size:
        near = (keys[order][1:] == keys[order][:-1]) & (np.diff(order) <= RECENT) & (keys[order][1:] != 0)
        again[order[1:]] = near
    return again


def _steps(signals: npt.NDArray[np.float64], limits: StreamLimits) -> Ints:
    """What each review adds to the sums, in deviations of 1/1024."""
    standard = (signals - np.array(limits.means)) / np.array(limits.deviations) - ALLOWANCE
    steps: Ints = np.rint(standard * _SCALE).astype(np.int64)
    return steps

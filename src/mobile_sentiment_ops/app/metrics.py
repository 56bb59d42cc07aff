"""What GET /metrics tells, in the field's names, summed over all processes that answer.

Each process counts in cells of its own, in memory that all of them see, so that an answer costs some
additions and any of them can tell the whole. A process that takes the place of another goes on with
its cells: counters never fall. (prometheus_client's own way for several processes writes five values a
request through a lock and a file map, which costs 3 to 4 us.)
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mobile_sentiment_ops.app.prediction import Answer, PredictionHandler
from mobile_sentiment_ops.errors import NoModel
from mobile_sentiment_ops.ports import Live
from mobile_sentiment_ops.types import LABELS, Severity

CONTENT_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LABELLED = (*(label.value for label in LABELS), "none")
"""What an answered review counts as; a faulty row is `none`."""

STATUSES = (
    *(200, 202, 204, 304, 307, 400, 401, 403, 404, 405, 409, 413, 415, 421, 422, 429, 499, 500, 503),
    0,  # any other
)
ROUTES, VERSIONS, NAME_BYTES = 96, 128, 32
UNMATCHED = "unmatched"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other")

KINDS_OF_STATUS, BUCKETS = len(STATUSES), len(SECONDS) + 1
SECONDS_FROM = ROUTES * KINDS_OF_STATUS
SUMS_FROM = SECONDS_FROM + ROUTES * (len(SECONDS) + 1)
LABELS_FROM = SUMS_FROM + ROUTES
TOLD_FROM = LABELS_FROM + VERSIONS * len(LABELLED)
NAMES_FROM = 8 * (TOLD_FROM + 2)
SLOT_BYTES = NAMES_FROM + VERSIONS * NAME_BYTES

Route = tuple[str, str]
"""A method and the template of a path: a path itself would have no bound."""


class Metrics:
    """The figures of the process in one slot of `cells`, and the sums over all slots.

    `routes` are all that are counted by name, the same in every process.
    """

    def __init__(
        self,
        predictions: PredictionHandler,
        live: Live,
        routes: Sequence[Route],
        *,
        cells: memoryview | None = None,
        slot: int = 0,
        spool_limit_bytes: int = 0,
    ) -> None:
        self._predictions = predictions
        self._live = live
        self._spool_limit_bytes = spool_limit_bytes
        self._routes = sorted({*routes, *((method, UNMATCHED) for method in METHODS)})
        assert len(self._routes) <= ROUTES  # noqa: S101
        self._route_at = {route: at for at, route in enumerate(self._routes)}
        every = cells if cells is not None else shared_cells(1)
        self._slots = [every[at : at + SLOT_BYTES] for at in range(0, len(every), SLOT_BYTES)]
        self._mine = self._slots[slot]
        self._cells = self._mine[:NAMES_FROM].cast("d")
        self._version_at = {name: at for at, name in enumerate(self._names(self._mine))}
        self._told = (0, 0)
        self._registry = prometheus.CollectorRegistry()
        self._registry.register(_Sums(self))

    def at(self, method: str, route: str) -> int:
        """The place of a route, for `answered`; what is at no route is counted by its method."""
        found = self._route_at.get((method, route))
        return self._route_at[method if method in METHODS else "other", UNMATCHED] if found is None else found

    def answered(self, at: int, status: int, seconds: float) -> None:
        """One request to the route at this place was answered."""
        cells = self._cells
        cells[at * KINDS_OF_STATUS + _STATUS_AT.get(status, KINDS_OF_STATUS - 1)] += 1.0
        cells[SECONDS_FROM + at * BUCKETS + bisect_left(SECONDS, seconds)] += 1.0
        cells[SUMS_FROM + at] += seconds

    def predicted(self, version: str, label: int, count: int = 1) -> None:
        """So many answers of that model were the label at this place of LABELLED."""
        at = self._version_at.get(version)
        self._cells[LABELS_FROM + (self._new(version) if at is None else at) * len(LABELLED) + label] += count

    def predictions(self, version: str, answers: Sequence[Answer]) -> None:
        """These answers were given."""
        for answer in answers:
            self.predicted(version, LABELS.index(answer.prediction.label) if answer.prediction else 3)

    def tell(self) -> None:
        """Bring what the prediction handler counts into the cells."""
        now = (self._predictions.swaps, self._predictions.shed)
        for at, (value, told) in enumerate(zip(now, self._told, strict=True)):
            self._cells[TOLD_FROM + at] += value - told
        self._told = now

    def shed(self) -> int:
        """How many predictions all processes answered and did not keep."""
        self.tell()
        return int(sum(slot[:NAMES_FROM].cast("d")[TOLD_FROM + 1] for slot in self._slots))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        self.tell()
        return prometheus.generate_latest(self._registry)

    def _new(self, version: str) -> int:
        """A place for a version that has not answered in this slot; the last one is for all that find none."""
        at = min(len(self._version_at), VERSIONS - 1)
        name = version.encode()[:NAME_BYTES] if at < VERSIONS - 1 else b"other"
        from_ = NAMES_FROM + at * NAME_BYTES
        self._mine[from_ : from_ + NAME_BYTES] = name.ljust(NAME_BYTES, b"\0")
        self._version_at[version] = at
        return at

    def _names(self, slot: memoryview) -> Iterator[str]:
        for at in range(NAMES_FROM, NAMES_FROM + VERSIONS * NAME_BYTES, NAME_BYTES):
            name = bytes(slot[at : at + NAME_BYTES]).rstrip(b"\0").decode("utf-8", "replace")
            if not name:
                return
            yield name

    # --- the sums

    def collect(self) -> Iterator[Metric]:
        slots = [slot[:NAMES_FROM].cast("d") for slot in self._slots]
        sums = [sum(values) for values in zip(*slots, strict=True)]
        yield from self._of_requests(sums)
        yield self._of_predictions(slots)
        # each process swaps for itself: the server did so as often as the one that did it most
        yield from self._of_the_model(max(cells[TOLD_FROM] for cells in slots), sums[TOLD_FROM + 1])

    def _of_requests(self, sums: Sequence[float]) -> Iterator[Metric]:
        requests = CounterMetricFamily("http_requests", "Answered requests", labels=["method", "route", "status"])
        seconds = HistogramMetricFamily(
            "http_request_duration_seconds",
            "From the request's first byte to the answer's last",
            labels=["method", "route"],
        )
        for at, (method, route) in enumerate(self._routes):
            for status, count in zip(STATUSES, sums[at * len(STATUSES) :], strict=False):
                if count:
                    requests.add_metric([method, route, str(status) if status else "other"], count)
            start = SECONDS_FROM + at * (len(SECONDS) + 1)
            buckets = list(accumulate(sums[start : start + len(SECONDS) + 1]))
            if buckets[-1]:
                bounds = [*map(str, SECONDS), "+Inf"]
                seconds.add_metric([method, route], list(zip(bounds, buckets, strict=True)), sums[SUMS_FROM + at])
        yield requests
        yield seconds

    def _of_predictions(self, slots: Sequence[Sequence[float]]) -> Metric:
        counts: dict[tuple[str, str], float] = defaultdict(float)
        for memory, cells in zip(self._slots, slots, strict=True):
            for at, version in enumerate(self._names(memory)):
                for label, name in enumerate(LABELLED):
                    counts[version, name] += cells[LABELS_FROM + at * len(LABELLED) + label]
        found = CounterMetricFamily("mso_predictions", "Answered predictions", labels=["model_version", "label"])
        for (version, name), count in counts.items():
            if count:
                found.add_metric([version, name], count)
        return found

    def _of_the_model(self, swaps: float, shed: float) -> Iterator[Metric]:
        info = GaugeMetricFamily("mso_model_info", "The model that answers", labels=["version", "kind"])
        try:
            champion = self._predictions.live().champion
            info.add_metric([champion.version, champion.kind], 1)
        except NoModel:
            pass
        yield info
        yield CounterMetricFamily("mso_model_swaps", "How often another model began to answer", value=swaps)
        yield CounterMetricFamily("mso_predictions_shed", "Predictions that were answered and not kept", value=shed)
        waits = self._predictions.spool_depth(), self._predictions.spool_bytes()
        yield GaugeMetricFamily("mso_spool_depth", "Predictions that wait for their table", value=waits[0])
        yield GaugeMetricFamily("mso_spool_bytes", "Disk that they take", value=waits[1])
        yield GaugeMetricFamily("mso_spool_limit_bytes", "Disk that they may take", value=self._spool_limit_bytes)
        if (report := self._live.reported()) is not None:
            at = report.at.timestamp()
            yield GaugeMetricFamily("mso_keeper_report_timestamp_seconds", "When the keeper last told how it is", at)
            well = float(report.predictions_table == report.bucket == "ok")
            yield GaugeMetricFamily("mso_keeper_well", "1 while the keeper reaches table and bucket", well)
            for name, told in (("success", "succeeded_at"), ("failure", "failed_at")):
                last = GaugeMetricFamily(
                    f"mso_last_{name}_timestamp_seconds", f"Last {name} of a part of the pipeline", labels=["part"]
                )
                for beat in report.beats:
                    if (when := getattr(beat, told)) is not None:
                        last.add_metric([beat.name], when.timestamp())
                yield last
            incidents = GaugeMetricFamily("mso_incidents_open", "Open incidents", labels=["severity"])
            for severity in Severity:
                incidents.add_metric([severity.value], report.incidents.get(severity, 0))
            yield incidents


_STATUS_AT = {status: at for at, status in enumerate(STATUSES)}


class _Sums(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def shared_cells(slots: int) -> memoryview:
    """Memory for so many processes, seen by all that are forked after it is made."""
    return memoryview(mmap.mmap(-1, slots * SLOT_BYTES))

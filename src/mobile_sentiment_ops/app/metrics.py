"""What GET /metrics tells, in the field's names, from a registry of its own."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mobile_sentiment_ops.app.prediction import Answer, PredictionHandler
from mobile_sentiment_ops.errors import NoModel

CONTENT_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one server process."""

    def __init__(self, predictions: PredictionHandler) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._registry.register(_Live(predictions))
        self._requests = prometheus.Counter(
            "http_requests_total", "Answered requests", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            "http_request_duration_seconds",
            "From the request's first byte to the answer's last",
            ["method", "route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._predictions = prometheus.Counter(
            "mso_predictions_total", "Answered predictions", ["model_version", "label"], registry=self._registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered; `route` is its template, as a path would have no bound."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def predictions(self, model_version: str, answers: Sequence[Answer]) -> None:
        """These answers were given; faulty rows count as label `none`."""
        labels = Tally(answer.prediction.label.value if answer.prediction else "none" for answer in answers)
        for label, count in labels.items():
            self._predictions.labels(model_version, label).inc(count)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)


class _Live(Collector):
    """What the prediction handler knows at the time it is asked."""

    def __init__(self, predictions: PredictionHandler) -> None:
        self._predictions = predictions

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("mso_model_info", "The model that answers", labels=["version", "kind"])
        try:
            champion = self._predictions.live().champion
            info.add_metric([champion.version, champion.kind], 1)
        except NoModel:
            pass
        yield info
        yield GaugeMetricFamily(
            "mso_spool_depth", "Predictions that wait for their table", value=self._predictions.spool_depth()
        )
        yield CounterMetricFamily(
            "mso_model_swaps", "How often another model began to answer", value=self._predictions.swaps
        )

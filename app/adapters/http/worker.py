"""The worker's HTTP side: is it alive, is it ready, and its numbers for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from aiohttp import web

from app.adapters.http.scoring import Scoring, ScoringRoutes
from app.adapters.http.server import HttpServer, respond


@dataclass(frozen=True)
class Metric:
    """One Prometheus metric of the worker."""

    name: str
    kind: str
    help: str


METRICS = (
    Metric("streamgauge_events_total", "counter", "Events committed: scored, left unscored, or dead letters."),
    Metric("streamgauge_scored_total", "counter", "Scores committed."),
    Metric(
        "streamgauge_unscored_total",
        "counter",
        "Events left unscored, older than what any version is to score, and committed; windows have seen them.",
    ),
    Metric("streamgauge_dead_letters_total", "counter", "Dead letters of events committed."),
    Metric(
        "streamgauge_stale_total",
        "counter",
        "Scores committed that say stale: without labels that could not be read, or without what other partitions add.",
    ),
    Metric(
        "streamgauge_shared_late_total",
        "counter",
        "Events and labels that came too late for shared windows: others may have been scored without them.",
    ),
    Metric(
        "streamgauge_wrong_partition_total",
        "counter",
        "Events refused because their entity belongs to another partition; with `wrong_partition` `refuse` alone.",
    ),
    Metric("streamgauge_labels_total", "counter", "Labels applied."),
    Metric("streamgauge_labels_without_event_total", "counter", "Labels that found no event; the monitor says why."),
    Metric(
        "streamgauge_routed_total",
        "counter",
        "Events and labels copied to the partitions of their entities and committed; with `repartition` alone.",
    ),
    Metric(
        "streamgauge_router_lag",
        "gauge",
        "Events and labels that are still to be copied; 0 in workers whose router stands by.",
    ),
    Metric("streamgauge_commits_total", "counter", "Transactions committed."),
    Metric("streamgauge_refused_total", "counter", "Records that were none of ours, by topic and reason."),
    Metric("streamgauge_hook_sent_total", "counter", "Events that the scoring hook has sent."),
    Metric(
        "streamgauge_hook_differing_total",
        "counter",
        "Those whose published score is not that of their preview: others of their entity came between.",
    ),
    Metric("streamgauge_partitions", "gauge", "Input partitions that this worker works on; not those being restored."),
    Metric("streamgauge_last_commit_timestamp_seconds", "gauge", "When the last transaction was committed."),
)


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Health:
    """``live``: doing its job; ``ready``: owns partitions and has a model. ``why`` says what is missing."""

    live: bool
    ready: bool
    why: str


class Vitals:
    """Is the process alive, is it ready, and its numbers: what a worker and a monitor serve alike."""

    def __init__(
        self, metrics: Iterable[Metric], health: Callable[[], Health], samples: Callable[[], Iterable[Sample]]
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._samples = samples

    def routes(self) -> list[web.RouteDef]:
        """``/healthz``, ``/readyz`` and ``/metrics``."""
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._numbers),
        ]

    async def _healthz(self, _: web.Request) -> web.Response:
        health = self._health()
        return respond({"ok": health.live, "why": health.why}, 200 if health.live else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        health = self._health()
        return respond({"ok": health.ready, "why": health.why}, 200 if health.ready else 503)

    async def _numbers(self, _: web.Request) -> web.Response:
        return web.Response(text=expose(self._metrics, self._samples()), content_type="text/plain")


class WorkerHttp:
    """Serves `Vitals` and the scoring hook; ``allowed_hosts`` as in `HttpServer`."""

    def __init__(
        self,
        health: Callable[[], Health],
        samples: Callable[[], Iterable[Sample]],
        scoring: Scoring,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        routes = [*Vitals(METRICS, health, samples).routes(), *ScoringRoutes(scoring).routes()]
        self._server = HttpServer(routes, allowed_hosts)

    async def start(self, host: str, port: int, *, or_free: bool = False) -> str:
        """See `HttpServer.start`."""
        return await self._server.start(host, port, or_free=or_free)

    async def stop(self) -> None:
        await self._server.stop()


def refusal_samples(name: str, refused: Mapping[str, Mapping[str, int]]) -> Iterator[Sample]:
    """Records that were none of ours, by topic and reason."""
    for topic, reasons in refused.items():
        yield from (Sample(name, n, {"topic": topic, "reason": reason}) for reason, n in reasons.items())


def expose(metrics: Iterable[Metric], samples: Iterable[Sample]) -> str:
    """Samples of these metrics in Prometheus' text format, in the order of the metrics."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for sample in by_name.get(metric.name, []):
            labels = ",".join(
                f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sample.labels.items()
            )
            lines.append(
                f"{metric.name}{{{labels}}} {sample.value:.12g}" if labels else f"{metric.name} {sample.value:.12g}"
            )
    return "\n".join(lines) + "\n"

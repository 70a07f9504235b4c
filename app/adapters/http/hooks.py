"""The HTTP side of a sender of hooks: is it alive, is it ready, and its numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from app.adapters.http.server import HttpServer
from app.adapters.http.worker import Health, Metric, Sample, Vitals

METRICS = (
    Metric("streamgauge_hooks_told_total", "counter", "Deliveries that have arrived, by hook."),
    Metric(
        "streamgauge_hooks_tries_total",
        "counter",
        "Requests by hook and outcome: told, gone, refused, timeout, certificate, address, connection.",
    ),
    Metric("streamgauge_hooks_dead_total", "counter", "Deliveries given up and kept in `<p>.hooks-dead`, by hook."),
    Metric("streamgauge_hooks_waiting", "gauge", "Deliveries that wait or are under way, parked ones too, by hook."),
    Metric("streamgauge_hooks_parked", "gauge", "Deliveries that are retried, kept in `<p>.hooks-retry`, by hook."),
    Metric("streamgauge_hooks_oldest_parked_seconds", "gauge", "For how long the oldest of those is retried, by hook."),
    Metric("streamgauge_hooks_under_way", "gauge", "Requests that are being made, by hook."),
    Metric("streamgauge_hooks_disabled", "gauge", "1 when a hook is disabled: its destination answered 410."),
    Metric("streamgauge_hooks_held_bytes", "gauge", "What waits in memory; bounded by reading no more."),
    Metric("streamgauge_hooks_partitions", "gauge", "Partitions that this sender works on."),
    Metric("streamgauge_hooks_commits_total", "counter", "Transactions committed."),
    Metric("streamgauge_hooks_refused_total", "counter", "Records that were none of ours, by topic and reason."),
)


def hook_samples(name: str, values: Mapping[str, float]) -> Iterator[Sample]:
    """A value of a metric for each hook."""
    return (Sample(name, value, {"hook": hook}) for hook, value in sorted(values.items()))


class HooksHttp:
    """Serves `Vitals`; ``allowed_hosts`` as in `HttpServer`."""

    def __init__(
        self,
        health: Callable[[], Health],
        samples: Callable[[], Iterable[Sample]],
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        self._server = HttpServer(Vitals(METRICS, health, samples).routes(), allowed_hosts)

    async def start(self, host: str, port: int, *, or_free: bool = False) -> str:
        """See `HttpServer.start`."""
        return await self._server.start(host, port, or_free=or_free)

    async def stop(self) -> None:
        await self._server.stop()

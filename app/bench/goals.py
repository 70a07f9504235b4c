"""What is to be reached, as ratios of figures of one run where that is possible. A goal missed fails nothing."""

from __future__ import annotations

from app.figures import Goal


def _ratio(of: str, to: str, limit: float, title: str, *, at_least: bool = True) -> Goal:
    return Goal(f"goal.{of}.to.{to}", title, of, limit, to=to, at_least=at_least)


GOALS = (
    _ratio("stateless.streamgauge.rate", "stateless.faust.rate", 30, "stateless: against plain Faust `take`"),
    _ratio("stateless.streamgauge.rate", "stateless.quix.rate", 20, "stateless: against Quix Streams with the model"),
    _ratio("stateless.streamgauge.rate", "stateless.bytewax.rate", 1.5, "stateless: against Bytewax, batches"),
    _ratio("stateless.streamgauge.rate", "stateless.aiokafka.rate", 0.8, "stateless: against the bare aiokafka loop"),
    Goal(
        "goal.stateless.streamgauge.cpu", "stateless, exactly once: CPU per event", "stateless.streamgauge.cpu",
        5.5, "µs", at_least=False,
    ),
    _ratio(
        "scaling.best", "scaling.kafka-streams", 1.0,
        "as many workers as cores against Kafka Streams exactly_once_v2, warm (its best)",
    ),
    _ratio("windows.streamgauge.rate", "stateless.streamgauge.rate", 0.6, "3 windows against stateless"),
    _ratio(
        "windows.streamgauge.cpu", "peer-windows.kafka-streams-x1.cpu", 1.0,
        "CPU per event with windows against Kafka Streams'", at_least=False,
    ),
    *(
        _ratio(
            f"latency-{rate}.streamgauge-alo.p99", f"latency-{rate}.aiokafka.p99", 1.5,
            f"p99 at {rate} events/s, at least once, against the bare aiokafka loop", at_least=False,
        )
        for rate in (2_000, 10_000)
    ),
    Goal(
        "goal.latency-2000.streamgauge.p50", "p50 at 2000 events/s, exactly once", "latency-2000.streamgauge.p50",
        60, "ms", at_least=False,
    ),
    Goal(
        "goal.latency-2000.streamgauge.p99", "p99 at 2000 events/s, exactly once", "latency-2000.streamgauge.p99",
        120, "ms", at_least=False,
    ),
    Goal(
        "goal.tail.growth", "p99 of the second half against the first, longest run", "tail.growth", 1.25, at_least=False
    ),
    *(
        Goal(f"goal.hook.{model}.p99", f"hook: p99 at 500 requests/s beside the stream, {words}",
             f"hook.{model}.500-requests-s.p99", 10, "ms", at_least=False)
        for model, words in (("windows", "logistic regression"), ("windows-trees", "100 trees"))
    ),
    Goal("goal.hook.rate", "hook: requests a worker gives beside the stream", "hook.windows.as-many-as-it-gives.rate",
         1_500, "/s"),
    Goal("goal.hook.lists", "hook: events a second in lists of 100", "hook.windows.lists-of-100.rate", 30_000, "/s"),
    Goal("goal.hook.catching-up", "hook: p99 while the worker catches up", "hook.windows.catching-up.p99", 25, "ms",
         at_least=False),
    _ratio("hook.streamgauge.cpu", "hook.aiohttp.cpu", 1.5, "hook: CPU of a request against the bare aiohttp handler",
           at_least=False),
    Goal("goal.restore.rate", "state restored through Kafka", "restore.rate_keys", 200_000, "keys/s"),
    Goal(
        "goal.memory.worker", "a worker with 1 000 000 entities × 3 windows", "restore.worker_rss", 1_500, "MB",
        at_least=False,
    ),
    Goal(
        "goal.soak.rss", "memory over the soak, largest change after warm-up", "soak.rss_change", 5, "%", at_least=False
    ),
)  # fmt: skip

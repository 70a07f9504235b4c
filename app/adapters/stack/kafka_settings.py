"""Settings of a Kafka on a single machine: the same for the embedded server and for docker-compose.yml."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Broker settings that do not depend on where the server runs; docker-compose.yml sets exactly these too.
BROKER_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    # Topics are made by streamgauge with the settings they need; a misspelt name is an error, not a new topic.
    "auto.create.topics.enable": "false",
    # One broker holds everything.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions (50 each by default): the first group and the first transaction start sooner.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    # A group starts with its first member instead of waiting 3 s for others.
    "group.initial.rebalance.delay.ms": "0",
    # Lets a worker choose a short session timeout, so that its partitions move on soon after it was killed.
    "group.min.session.timeout.ms": "1000",
    # The open transaction of a dead worker blocks readers until it is aborted: look every second, not every ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # After a kill, the server waits until its own earlier registration has expired (9 s by default).
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "1000",
    # A stack that was down for months goes on where it was (by default offsets are kept for 7 days).
    "offsets.retention.minutes": "5256000",
    # Room for the largest event (1 MiB) as a dead letter, which adds headers.
    "message.max.bytes": "2097152",
}


def render_properties(*, port: int, controller_port: int, data_folder: str) -> str:
    """Render the server.properties of an embedded server that listens on this machine alone.

    ``data_folder`` is relative to the server's working folder: Kafka would split an absolute path at its commas.
    """
    settings = {
        **BROKER_SETTINGS,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "log.dirs": data_folder,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def render_logging(log_path: str) -> str:
    """Render the log4j2.xml that writes one rolling file."""
    log_path = quoteattr(log_path)[1:-1]
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR" shutdownHook="disable">
  <Appenders>
    <RollingFile name="file" fileName="{log_path}" filePattern="{log_path}.%i">
      <PatternLayout pattern="%d{{ISO8601}} %p %c{{1}} %m%n"/>
      <Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
    <Logger name="org.apache.kafka.common.config" level="WARN"/>
  </Loggers>
</Configuration>
"""

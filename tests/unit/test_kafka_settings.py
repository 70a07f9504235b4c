"""What the embedded Kafka is started with."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from app.adapters.stack.embedded_kafka import EmbeddedKafka, new_cluster_id
from app.adapters.stack.kafka_settings import BROKER_SETTINGS, render_logging, render_properties
from app.exits import StackError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cluster_id_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0xf8 = 111110 00…: the first base64 digit is 62, which is "-" in the URL-safe alphabet; 0x00 gives "A".
    drawn = iter([uuid.UUID(bytes=b"\xf8" + bytes(15)), uuid.UUID(bytes=bytes(16))])
    monkeypatch.setattr(uuid, "uuid4", lambda: next(drawn))
    assert new_cluster_id() == "A" * 22


def test_clients_are_told_the_port_that_the_server_listens_on_this_machine_alone() -> None:
    lines = render_properties(port=9092, controller_port=9093, data_folder="data").splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
    assert properties["log.dirs"] == "data"
    assert BROKER_SETTINGS.items() <= properties.items()


def test_one_broker_holds_every_copy() -> None:
    copies = {
        name: value
        for name, value in BROKER_SETTINGS.items()
        if any(word in name for word in ("replication", "isr", "insync"))
    }
    assert len(copies) == 7
    assert set(copies.values()) == {"1"}


@pytest.mark.parametrize("path", ["/plain/kafka.log", "/with <odd> & \"quoted\" 'names'/kafka.log"])
def test_any_path_may_be_logged_to(path: str) -> None:
    document = ET.fromstring(render_logging(path))  # noqa: S314  # our own text
    [appender] = document.iter("RollingFile")
    assert (appender.get("fileName"), appender.get("filePattern")) == (path, path + ".%i")


def test_a_server_that_was_not_started_has_no_address(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path, tmp_path)
    assert kafka.pid is None
    kafka.stop()
    with pytest.raises(StackError, match="has not been started"):
        _ = kafka.access

"""docker-compose.yml runs what the embedded stack runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.adapters.stack.kafka_jars import kafka_version
from app.adapters.stack.kafka_settings import BROKER_SETTINGS
from app.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[2]

#: What only a container has: where it listens and stores, and the heap.
OF_THE_CONTAINER = {
    "KAFKA_ADVERTISED_LISTENERS",
    "KAFKA_CONTROLLER_LISTENER_NAMES",
    "KAFKA_CONTROLLER_QUORUM_VOTERS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_INTER_BROKER_LISTENER_NAME",
    "KAFKA_LISTENERS",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
    "KAFKA_LOG_DIRS",
}


def read_simple_yaml(text: str) -> dict[str, Any]:
    """Read block mappings whose values are JSON or plain words, all that our file uses; anything else fails."""
    root: dict[str, Any] = {}
    open_mappings = [(-1, root)]
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"( *)([A-Za-z_]+):(?: (\S.*))?", line)
        assert found, f"line {number} is not one of ours: {line}"
        indent, key, value = len(found[1]), found[2], found[3]
        while open_mappings[-1][0] >= indent:
            open_mappings.pop()
        mapping = open_mappings[-1][1]
        assert key not in mapping, f"line {number}: {key} twice"
        if value is None:
            mapping[key] = {}
            open_mappings.append((indent, mapping[key]))
        else:
            mapping[key] = json.loads(value) if value[0] in '"[{' else value
    return root


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = read_simple_yaml((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.mark.parametrize("service", ["migrate", "monitor", "worker"])
def test_our_services_are_given_exactly_the_settings_there_are(services: dict[str, Any], service: str) -> None:
    assert set(services[service]["environment"]) == {setting.name for setting in SETTINGS}


def test_our_services_share_one_environment(services: dict[str, Any]) -> None:
    assert services["migrate"]["environment"] == services["monitor"]["environment"] == services["worker"]["environment"]


def test_what_compose_sets_is_what_the_settings_read(services: dict[str, Any]) -> None:
    environment = services["worker"]["environment"]
    assert Settings.read(environment).to_environment() == environment


def test_kafka_has_the_settings_of_the_embedded_one_and_no_other(services: dict[str, Any]) -> None:
    environment = dict(services["kafka"]["environment"])
    environment.pop("CLUSTER_ID")
    # The image's rule for names without dash and underscore: KAFKA_, upper case, _ for the dot.
    wanted = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in BROKER_SETTINGS.items()}
    assert {name: value for name, value in environment.items() if name not in OF_THE_CONTAINER} == wanted


def test_kafka_is_the_version_of_the_lock(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_every_image_has_a_full_version(services: dict[str, Any]) -> None:
    foreign = [service["image"] for service in services.values() if not service["image"].startswith("streamgauge:")]
    foreign += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert foreign
    assert [image for image in foreign if not re.search(r":\d+\.\d+\.\d+", image)] == []


def test_whatever_stays_up_has_a_health_check(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "healthcheck" in service} == set(services) - {"migrate"}


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_reader_refuses_what_it_does_not_know() -> None:
    with pytest.raises(AssertionError, match="line 2"):
        read_simple_yaml("a:\n  - b\n")

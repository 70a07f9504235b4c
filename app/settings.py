"""The one reader of the environment. The README's table of settings is made from `SETTINGS`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.kafka_access import KafkaAccess
from app.secret import Secret


@dataclass(frozen=True)
class Setting:
    """One environment variable."""

    name: str
    default: str
    help: str


SETTINGS = (
    Setting("STREAMGAUGE_KAFKA", "", "Bootstrap servers (host:port,…); empty: the embedded Kafka of STREAMGAUGE_HOME."),
    Setting(
        "STREAMGAUGE_CLICKHOUSE",
        "",
        "ClickHouse URL (http[s]://user:password@host:port, a % in it as %25); empty: embedded.",
    ),
    Setting("STREAMGAUGE_HOME", ".streamgauge", "Where the embedded stack and the model registry keep their files."),
    Setting("STREAMGAUGE_REGISTRY", "", "Folder of the model registry; empty: <home>/registry."),
    Setting("STREAMGAUGE_CACHE", "", "Where downloads are kept; empty: the user's cache directory."),
    Setting("STREAMGAUGE_LOG_LEVEL", "INFO", "Log level of worker and monitor."),
)


@dataclass(frozen=True)
class Settings:
    """The environment, read once at the edge and passed on."""

    kafka: str
    #: Its password makes all of it a secret; `app.adapters.clickhouse.url` takes it apart.
    clickhouse: Secret
    home: Path
    registry: Path
    cache: Path
    log_level: str

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read ``environment`` (default: the process's). Missing and empty mean the default."""
        source = os.environ if environment is None else environment
        value = {setting.name: source.get(setting.name) or setting.default for setting in SETTINGS}
        home = Path(value["STREAMGAUGE_HOME"]).expanduser().absolute()
        cache_root = Path(source.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return cls(
            kafka=value["STREAMGAUGE_KAFKA"],
            clickhouse=Secret(value["STREAMGAUGE_CLICKHOUSE"]),
            home=home,
            registry=Path(value["STREAMGAUGE_REGISTRY"] or home / "registry").expanduser().absolute(),
            cache=Path(value["STREAMGAUGE_CACHE"] or cache_root / "streamgauge").expanduser().absolute(),
            log_level=value["STREAMGAUGE_LOG_LEVEL"].upper(),
        )

    @property
    def kafka_access(self) -> KafkaAccess:
        """How the Kafka that is named is reached."""
        return KafkaAccess(self.kafka)

    def to_environment(self) -> dict[str, str]:
        """The variables that make a child process read these same settings."""
        return {
            "STREAMGAUGE_KAFKA": self.kafka,
            "STREAMGAUGE_CLICKHOUSE": self.clickhouse.reveal(),
            "STREAMGAUGE_HOME": str(self.home),
            "STREAMGAUGE_REGISTRY": str(self.registry),
            "STREAMGAUGE_CACHE": str(self.cache),
            "STREAMGAUGE_LOG_LEVEL": self.log_level,
        }


def read_named(names: Iterable[str], environment: Mapping[str, str] | None = None) -> dict[str, Secret]:
    """The variables that a pipeline file names, which may hold secrets; those that are missing or empty are left out.

    ``environment``: the process's unless it is given.
    """
    source = os.environ if environment is None else environment
    return {name: Secret(source[name]) for name in names if source.get(name)}

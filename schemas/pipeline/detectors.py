"""Reads the detectors of wrong decisions in a pipeline file."""

from __future__ import annotations

from typing import Any

from schemas.pipeline.spec import ErrorDetector
from schemas.pipeline.toml_table import TomlTable

#: Settings of each detector of the error stream, river's by river's names: name -> default, and its range or choices.
DETECTORS: dict[str, dict[str, tuple[Any, ...]]] = {
    "cusum": {"learn": (2_000, 100, 1_000_000)},
    "adwin": {
        "delta": (0.002, 1e-12, 1),
        "clock": (32, 1, 1_000_000),
        "max_buckets": (5, 1, 1_000),
        "min_window_length": (5, 1, 1_000_000),
        "grace_period": (10, 1, 1_000_000),
    },
    "kswin": {
        "alpha": (0.005, 1e-12, 1),
        "window_size": (100, 4, 10_000),
        "stat_size": (30, 2, 5_000),
        "seed": (1, 0, 2**31),
    },
    "page_hinkley": {
        "min_instances": (30, 1, 1_000_000),
        "delta": (0.005, 0, 1),
        "threshold": (50.0, 0, 1e9),
        "alpha": (1 - 0.0001, 0, 1),
        "mode": ("both", "up", "down"),
    },
    "ddm": {"warm_start": (30, 1, 1_000_000), "warning_threshold": (2.0, 0, 100), "drift_threshold": (3.0, 0, 100)},
    "eddm": {"warm_start": (30, 1, 1_000_000), "alpha": (0.95, 0, 1), "beta": (0.9, 0, 1)},
    "hddm_a": {
        "drift_confidence": (0.001, 1e-12, 1),
        "warning_confidence": (0.005, 1e-12, 1),
        "two_sided_test": (False,),
    },
    "hddm_w": {
        "drift_confidence": (0.001, 1e-12, 1),
        "warning_confidence": (0.005, 1e-12, 1),
        "lambda_val": (0.05, 1e-6, 1),
        "two_sided_test": (False,),
    },
}


def default_detector(name: str) -> ErrorDetector:
    """The detector of a name with the settings that it has where the file gives none."""
    settings = {key: choices[0] for key, choices in DETECTORS[name].items()}
    return ErrorDetector(name, settings)  # type: ignore[arg-type]  # a name of a detector


def read_detectors(drift: TomlTable, *, with_labels: bool) -> tuple[ErrorDetector, ...]:
    """The detectors of the table [drift]; without labels there are none."""
    if "detectors" not in drift:
        return (default_detector("cusum"),) if with_labels else ()
    if not with_labels:
        drift.fail("detectors", "need labels, which say what decisions were wrong; add [labels] or remove them")
    detectors: list[ErrorDetector] = []
    for table in drift.tables("detectors", "detector"):
        name = table.word("detector", tuple(DETECTORS))
        if any(known.detector == name for known in detectors):
            table.fail("detector", f'"{name}" is named twice; name it once')
        table.allow("detector", *DETECTORS[name])
        settings = {key: _read_setting(table, key, *choices) for key, choices in DETECTORS[name].items()}
        _check_settings(table, settings)
        detectors.append(ErrorDetector(name, settings))
    return tuple(detectors)


def _read_setting(table: TomlTable, key: str, default: Any, *choices: Any) -> float | int | bool | str:
    if isinstance(default, bool):
        return table.flag(key, default)
    if isinstance(default, int):
        return table.integer(key, default, low=choices[0], high=choices[1])
    if isinstance(default, float):
        return table.number(key, default, low=choices[0], high=choices[1])
    return str(table.word(key, (default, *choices), default))


def _check_settings(table: TomlTable, settings: dict[str, Any]) -> None:
    if "stat_size" in settings and 2 * settings["stat_size"] > settings["window_size"]:
        table.fail("stat_size", "is more than half of window_size; make it smaller")
    if "beta" in settings and settings["alpha"] < settings["beta"]:
        table.fail("alpha", "is below beta; raise it or lower beta")

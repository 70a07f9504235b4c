"""A reference as JSON, as the manifest of a version and the checkpoint of a monitor keep it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from models.reference.error_hours import ErrorHours
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.soundness import find_fault_of_metrics, find_fault_of_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.reference.reference import Ints


def to_json(reference: Reference) -> str:
    """All of it as JSON, from which `from_json` makes the same bits again."""
    return json.dumps(
        {
            "format": 4,
            "threshold": reference.threshold,
            "n": reference.training.n,
            "log_loss_sum": reference.training.log_loss_sum,
            "n_correct": reference.training.n_correct,
            "outcomes": reference.training.outcomes.tolist(),
            "label_effect": reference.label_effect,
            "outcome_blocks": [_to_sparse(block.ravel()) for block in reference.outcome_blocks],
            "metrics": [
                {
                    "name": metric.name,
                    "kind": metric.kind,
                    "edges": metric.edges.tolist(),
                    "codes": metric.codes,
                    "scale": metric.scale,
                    "values": metric.values,
                    "counts": reference.counts[row, : metric.size + 1].tolist(),
                    "sum": int(reference.sums[row]),
                    "minimum": _float_to_json(float(reference.minima[row])),
                    "maximum": _float_to_json(float(reference.maxima[row])),
                    "design_effect": float(reference.design_effects[row]),
                    **({} if reference.tail_effects is None else {"tail_effect": float(reference.tail_effects[row])}),
                    "profile": list(map(_float_to_json, reference.profiles[row, : metric.size + 1].tolist())),
                }
                for row, metric in enumerate(reference.metrics)
            ],
            "segments": {name: _to_lists(reference.metrics, counts) for name, counts in reference.segments.items()},
            "errors": {
                "events": reference.errors.events.tolist(),
                "wrong": reference.errors.wrong.tolist(),
                "log_odds": reference.errors.log_odds.tolist(),
                "effect": reference.errors.effect,
            },
        },
        allow_nan=False,
    )


def from_json(text: str | bytes) -> Reference:
    """Read what `to_json` wrote; ValueError when it is something else or unsound (`models.reference.soundness`)."""
    try:
        body = json.loads(text)
        written = body["format"]
        whole = _read(body) if written == 4 else None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a reference as to_json writes it: {type(error).__name__}: {error!s:.200}") from error
    if whole is None:
        raise ValueError(f"reference format {written!r:.40} is not 4; train again, or use the release that wrote it")
    if fault := find_fault_of_reference(whole):
        raise ValueError(f"not a sound reference: {fault}")
    return whole


def _read(body: dict[str, Any]) -> Reference:
    rows: list[dict[str, Any]] = body["metrics"]
    metrics = tuple(
        MetricCells(
            name=row["name"],
            kind=row["kind"],
            edges=np.array(row["edges"], np.float64),
            codes=row["codes"],
            scale=float(row["scale"]),
            values=tuple(row["values"]),
        )
        for row in rows
    )
    if fault := find_fault_of_metrics(metrics, len(body["segments"]), len(body["outcome_blocks"])):
        raise ValueError(fault)
    width = max(metric.size for metric in metrics) + 1
    training = Counts.zeros(len(metrics), width, metrics[-2].size)
    profiles = np.full((len(metrics), width), np.nan)
    for number, row in enumerate(rows):
        _fill(training.counts[number, : metrics[number].size + 1], row["counts"])
        training.sums[number] = row["sum"]
        training.minima[number] = _float_from_json(row["minimum"])
        training.maxima[number] = _float_from_json(row["maximum"])
        _fill(profiles[number, : metrics[number].size + 1], list(map(_float_from_json, row["profile"])))
    _fill(training.outcomes, body["outcomes"])
    training.n = _whole(body["n"])
    training.log_loss_sum = _whole(body["log_loss_sum"])
    training.n_correct = _whole(body["n_correct"])
    design_effects = np.array([row["design_effect"] for row in rows], np.float64)
    blocks = np.zeros((len(body["outcome_blocks"]), *training.outcomes.shape), np.int64)
    for block, (cells, counts) in zip(blocks, body["outcome_blocks"], strict=True):
        block.reshape(-1)[cells] = counts
    whole = Reference(metrics, training, float(body["threshold"]), design_effects, profiles, blocks)
    segments = {name: _from_lists(whole, lists) for name, lists in body["segments"].items()}
    errors = ErrorHours.none()
    _fill(errors.events, body["errors"]["events"])
    _fill(errors.wrong, body["errors"]["wrong"])
    _fill(errors.log_odds, body["errors"]["log_odds"])
    errors = replace(errors, effect=float(body["errors"]["effect"]))
    tails = [float(row["tail_effect"]) for row in rows if "tail_effect" in row]
    return replace(
        whole,
        segments=segments,
        errors=errors,
        label_effect=float(body["label_effect"]),
        tail_effects=np.array(tails) if len(tails) == len(rows) else None,
    )


def _to_lists(metrics: Sequence[MetricCells], counts: Counts) -> dict[str, Any]:
    return {
        "n": counts.n,
        "log_loss_sum": counts.log_loss_sum,
        "n_correct": counts.n_correct,
        "outcomes": counts.outcomes.tolist(),
        "counts": [counts.counts[row, : metric.size + 1].tolist() for row, metric in enumerate(metrics)],
        "sums": counts.sums.tolist(),
        "minima": list(map(_float_to_json, counts.minima.tolist())),
        "maxima": list(map(_float_to_json, counts.maxima.tolist())),
    }


def _from_lists(reference: Reference, body: dict[str, Any]) -> Counts:
    counts = reference.zeros()
    for row, (metric, cells) in enumerate(zip(reference.metrics, body["counts"], strict=True)):
        _fill(counts.counts[row, : metric.size + 1], cells)
    _fill(counts.outcomes, body["outcomes"])
    _fill(counts.sums, body["sums"])
    _fill(counts.minima, list(map(_float_from_json, body["minima"])))
    _fill(counts.maxima, list(map(_float_from_json, body["maxima"])))
    counts.n, counts.log_loss_sum, counts.n_correct = (
        _whole(body[name]) for name in ("n", "log_loss_sum", "n_correct")
    )
    return counts


def _to_sparse(counts: Ints) -> tuple[list[int], list[int]]:
    cells = np.flatnonzero(counts)
    return cells.tolist(), counts[cells].tolist()


def _float_to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _float_from_json(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _fill(target: NDArray[Any], values: Any) -> None:
    """Fill an array with values, which must have its shape, so that a short text cannot make a large array."""
    if np.shape(values) != target.shape:
        raise ValueError(f"{np.shape(values)} values are given for {target.shape}")
    target[...] = values


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no whole number")
    return value

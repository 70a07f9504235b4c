"""The filter of a hook on scores: which names it may use."""

from __future__ import annotations

from schemas.pipeline.expression import EVENT_TIME, Expression, ExpressionError, Kind, parse
from schemas.pipeline.spec import Pipeline

#: What ``where`` may read of each score; the features that are served with it come beside.
SCORE_NAMES: dict[str, Kind] = {
    "score": "number",
    "decision": "number",
    "version": "text",
    "entity": "text",
    EVENT_TIME: "number",
}


def parse_where(where: str, pipeline: Pipeline) -> Expression:
    """Check the filter of a hook; `ExpressionError` says what is wrong. What a score says itself hides a feature."""
    features: dict[str, Kind] = dict.fromkeys(pipeline.feature_names, "number") if pipeline.publish_features else {}
    expression = parse(where, {**features, **SCORE_NAMES})
    if expression.kind == "text":
        raise ExpressionError(f'"{where}" is a text, not a condition; write for example score >= 0.9')
    return expression

"""The OpenAPI 3.1 document of a worker, made of the structs of `schemas.serving` and of the pipeline's own fields."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.pipeline.spec import EventField, Pipeline
from schemas.serving import (
    FORWARDED_HEADER,
    MOST_EVENTS,
    PARTITIONS_HEADER,
    PROBLEMS,
    Problem,
    RankAnswer,
    RankRequest,
    ScoreAnswer,
    ScoreResults,
)

_TYPES = {"string": "string", "float": "number", "int": "integer", "bool": "boolean"}
_REF = "#/components/schemas/"


def describe(pipeline: Pipeline, version: str) -> dict[str, Any]:
    """The document; ``version``: of this program."""
    _, components = msgspec.json.schema_components(
        [ScoreAnswer, ScoreResults, RankRequest, RankAnswer, Problem], ref_template=_REF + "{name}"
    )
    components["Event"] = _describe_event(pipeline)
    components["Problem"]["properties"]["code"]["enum"] = list(PROBLEMS)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Scores of {pipeline.name}", "version": version},
        "paths": {"/v1/score": {"post": _describe_score()}, "/v1/rank": {"post": _describe_rank()}},
        "components": {"schemas": components},
        # What a client needs to ask the owner of a partition: Kafka's default partitioner on the entity says which.
        "x-streamgauge": {
            "entity": pipeline.events.entity,
            "event_id": pipeline.events.event_id,
            "partitions": pipeline.partitions,
        },
    }


def _describe_event(pipeline: Pipeline) -> dict[str, Any]:
    fields = pipeline.events.fields
    return {
        "type": "object",
        "title": f"An event of {pipeline.name}",
        "properties": {field.name: _describe_field(field) for field in fields},
        "required": [field.name for field in fields if not field.nullable],
    }


def _describe_field(field: EventField) -> dict[str, Any]:
    kind = _TYPES[field.type]
    return {"type": [kind, "null"]} if field.nullable else {"type": kind}


def _describe_score() -> dict[str, Any]:
    events = {"type": "array", "items": {"$ref": f"{_REF}Event"}, "minItems": 1, "maxItems": MOST_EVENTS}
    return {
        "operationId": "score",
        "summary": "Score an event, or a list of events, as if each came next.",
        "parameters": [
            _parameter("commit", ["no", "async", "wait"], "no", "Whether the event is sent, too, and waited for."),
            _parameter("features", ["false", "true"], "false", "Whether the answer has what was scored."),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"oneOf": [{"$ref": f"{_REF}Event"}, events]}}},
        },
        "responses": {
            "200": {
                "description": f"The score, or for a list the results in its order. {PARTITIONS_HEADER} says where"
                f" each partition is served. A worker that asks another sends {FORWARDED_HEADER}.",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [{"$ref": f"{_REF}ScoreAnswer"}, {"$ref": f"{_REF}ScoreResults"}]}
                    }
                },
            },
            **_describe_problems(),
        },
    }


def _describe_rank() -> dict[str, Any]:
    return {
        "operationId": "rank",
        "summary": "The best of some candidates for one entity.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"{_REF}RankRequest"}}},
        },
        "responses": {
            "200": {
                "description": "The candidates with the highest scores, the best one first.",
                "content": {"application/json": {"schema": {"$ref": f"{_REF}RankAnswer"}}},
            },
            **_describe_problems(),
        },
    }


def _describe_problems() -> dict[str, Any]:
    statuses = sorted({kind.status for kind in PROBLEMS.values()})
    codes = {status: ", ".join(code for code, kind in PROBLEMS.items() if kind.status == status) for status in statuses}
    return {str(status): _describe_problem(codes[status]) for status in statuses}


def _parameter(name: str, words: list[str], default: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": words, "default": default}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _describe_problem(codes: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}}}
    return {"description": f"No score: {codes}.", "content": content}

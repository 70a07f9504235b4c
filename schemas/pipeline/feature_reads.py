"""What features read: event fields, columns of lookups, and other features."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from schemas.pipeline.expression import EVENT_TIME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.pipeline.spec import Feature, Pipeline


def names_read(feature: Feature) -> tuple[str, ...]:
    """The fields, lookup columns and features that a feature reads, in the order of their first mention."""
    if feature.window is not None:
        window = feature.window
        return tuple(dict.fromkeys((window.field, *window.key) if window.field is not None else window.key))
    if feature.expression is None:
        return tuple(dict.fromkeys(feature.arguments))
    tree = ast.parse(feature.expression.strip(), mode="eval").body
    return tuple(dict.fromkeys(_names(tree)))


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=ast.Name(id=lookup), attr=column):
            return [f"{lookup}.{column}"]
        case ast.Call(args=arguments):
            return [name for argument in arguments for name in _names(argument)]
    return [name for child in ast.iter_child_nodes(node) for name in _names(child)]


def features_read(pipeline: Pipeline) -> Mapping[str, tuple[str, ...]]:
    """The other features that each feature reads; a field goes before a feature of its name."""
    fields = {field.name for field in pipeline.events.fields} | {EVENT_TIME, "label"}
    features = {feature.name for feature in pipeline.features} - fields
    return {
        feature.name: tuple(name for name in names_read(feature) if name in features) for feature in pipeline.features
    }

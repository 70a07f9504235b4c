"""The features of a pipeline, with the batch data and the Python functions that its file names."""

from __future__ import annotations

from app.adapters.sources.lookup_files import load_lookups
from app.adapters.sources.python_features import load_functions
from app.core.features.plan import FeaturePlan
from schemas.pipeline.spec import Pipeline


def compile_features(pipeline: Pipeline) -> FeaturePlan:
    """Read a pipeline's batch data and custom functions, and compile its features."""
    return FeaturePlan.compile(pipeline, load_lookups(pipeline), load_functions(pipeline))

"""The composition root: which adapters a worker is made of."""

from __future__ import annotations

import os
import socket

from app.adapters.lookup_files import load_lookups
from app.adapters.python_features import load_functions
from app.core.features import FeaturePlan
from schemas.pipeline import Pipeline


def compile_features(pipeline: Pipeline) -> FeaturePlan:
    """Read a pipeline's batch data and custom functions, and compile its features."""
    return FeaturePlan.compile(pipeline, load_lookups(pipeline), load_functions(pipeline))


def process_name(role: str) -> str:
    """What this process calls itself on status topics."""
    return f"{role}@{socket.gethostname()}-{os.getpid()}"

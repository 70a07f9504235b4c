"""Loads the Python functions that a pipeline file names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.pipeline.spec import Pipeline, PipelineError


def load_functions(pipeline: Pipeline) -> dict[str, Callable[..., Any]]:
    """The functions of all Python features, by their reference.

    Raises
    ------
    PipelineError
        When a file cannot be run or has no such function.
    """
    references = dict.fromkeys(feature.python for feature in pipeline.features if feature.python is not None)
    return {reference: load_function(reference, pipeline) for reference in references}


def load_function(reference: str, pipeline: Pipeline) -> Callable[..., Any]:
    """The function of a reference: "file.py:function", relative to the pipeline file, or "package.module:function"."""
    module_name, _, name = reference.partition(":")
    try:
        if module_name.endswith(".py"):
            module = _run_file(pipeline.path.parent / module_name)
        else:
            module = importlib.import_module(module_name)
        function = getattr(module, name)
    except Exception as error:  # the file is the user's and may raise anything
        what = f"{type(error).__name__}: {error}"
        raise PipelineError(f"{pipeline.path}: {reference} cannot be loaded ({what}); correct the file.") from error
    if not callable(function):
        raise PipelineError(f"{pipeline.path}: {reference} is no function; name one.")
    loaded: Callable[..., Any] = function
    return loaded


def _run_file(path: Path) -> Any:
    name = f"streamgauge_pipeline_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module

"""Reads the files behind lookups: CSV (also zipped or gzipped) and Parquet, through pyarrow."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from app.core.batches import Column, Ints
from app.core.features.lookups import LookupTable
from schemas.pipeline.expression import suggest
from schemas.pipeline.spec import Lookup, Pipeline, PipelineError


def load_lookups(pipeline: Pipeline) -> dict[str, LookupTable]:
    """Read the data of every lookup of a pipeline.

    Raises
    ------
    PipelineError
        One sentence that names the file, the lookup and the fix.
    """
    return {lookup.name: _load(lookup, pipeline) for lookup in pipeline.lookups}


def locate(path: str, folder: Path) -> Path:
    """The file that ``path`` means: relative to ``folder``, or inside an installed package that is not imported.

    Raises
    ------
    FileNotFoundError
        With a sentence that says what to install or create.
    """
    if path.startswith("package:"):
        name, _, inside = path.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f'the package "{name}" is not installed; run pip install {name}')
        file = Path(spec.submodule_search_locations[0]) / inside
    else:
        file = folder / Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; create it or correct the path")
    return file


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """Read a CSV or Parquet file as a pyarrow table, by its name; texts NA, NULL and the empty one are null.

    Raises
    ------
    ValueError
        When the file is not what its name says, or a column is not there.
    """
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path, columns=columns)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=columns, strings_can_be_null=True, null_values=["", "NA", "N/A", "NULL", "null", "NaN", "nan"]
    )
    if path.suffix != ".zip":
        return pyarrow.csv.read_csv(path, convert_options=convert)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise ValueError(f"the archive holds {len(names)} files, not one")
        with archive.open(names[0]) as file:
            return pyarrow.csv.read_csv(file, convert_options=convert)


def to_column(values: Any) -> Column:
    """A pyarrow column as the core has it: float64 with NaN, or an object array of ``str | None``.

    Raises
    ------
    ValueError
        When the column is neither number nor text.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(values.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        values = values.cast(pa.int8())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)):
        raise ValueError(f"holds {kind}, which is neither number nor text")
    numbers: Column = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def to_time_ms(values: Any) -> Ints:
    """A pyarrow column of times as int64 ms: time stamps (without a zone: UTC), ISO 8601 texts, or integers of ms.

    Raises
    ------
    ValueError
        When they are none of these, or one is null.
    """
    if values.null_count:
        raise ValueError(f"has no time in {values.null_count} rows")
    if pa.types.is_string(values.type):
        values = values.cast(pa.timestamp("ms", tz="UTC"))
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        values = pc.cast(values, pa.timestamp("ms", tz=values.type.tz), safe=False).cast(pa.int64())
    if not pa.types.is_integer(values.type):
        raise ValueError(f"holds {values.type}, which is no time; use ISO 8601 with Z, or whole milliseconds")
    times_ms: Ints = values.to_numpy().astype(np.int64)
    return times_ms


def _load(lookup: Lookup, pipeline: Pipeline) -> LookupTable:
    place = f"{pipeline.path}: lookups.{lookup.name}"
    try:
        path = locate(lookup.path, pipeline.path.parent)
        table = read_table(path)
    except FileNotFoundError as error:
        raise PipelineError(f"{place}.path: {error}.") from None
    except (OSError, ValueError, pa.ArrowException, zipfile.BadZipFile) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise PipelineError(
            f"{place}.path: {lookup.path} cannot be read ({what}); give a CSV or Parquet file."
        ) from None
    columns: dict[str, Column] = {}
    needed = [*lookup.keys, *lookup.columns, *([lookup.time] if lookup.time else [])]
    for name in dict.fromkeys(needed):
        if name not in table.column_names:
            raise PipelineError(f'{place}: {path.name} has no column "{name}"; {suggest(name, table.column_names)}.')
        read = to_time_ms if name == lookup.time else to_column
        try:
            columns[name] = read(table[name])
        except (ValueError, pa.ArrowException) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise PipelineError(f'{place}: column "{name}" of {path.name} {what}.') from None
    fields = {field.name: field for field in pipeline.events.fields}
    for column, field in lookup.keys.items():
        is_text = columns[column].dtype == object
        if is_text != (fields[field].type == "string"):
            here, there = ("text", "numbers") if is_text else ("numbers", "text")
            raise PipelineError(
                f'{place}.keys: column "{column}" holds {here}, the field "{field}" {there}; make both alike.'
            )
    try:
        return LookupTable.build(lookup, columns)
    except PipelineError as error:
        raise PipelineError(f"{pipeline.path}: {error}") from None

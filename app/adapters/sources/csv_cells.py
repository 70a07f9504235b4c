"""Cells of a CSV file that no spreadsheet takes for formulas: ``'`` is put before a text that begins like one.

Numbers, negative ones included, and texts that are numbers stay as they are. A program that needs every text unchanged
reads Parquet or JSON.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_FORMULA = r"^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r]"
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"


def plain_cell(text: str) -> str:
    """Text as a cell."""
    return f"'{text}" if re.search(_FORMULA, text) and not re.match(_NUMBER, text, re.ASCII) else text


def plain_cells(table: Any) -> Any:
    """A `pyarrow.Table` or `RecordBatch` whose texts are cells."""
    columns = [
        _plain_column(column) if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else column
        for column in table.columns
    ]
    return type(table).from_arrays(columns, schema=table.schema)


def _plain_column(column: Any) -> Any:
    wide = "\uff1d\uff0b\uff0d\uff20"  # in the syntax of Arrow's regular expressions
    is_formula = pc.match_substring_regex(column, rf"^\s*[=+\-@{wide}]|^[\t\r]")
    if not pc.any(is_formula).as_py():
        return column
    is_number = pc.match_substring_regex(column, _NUMBER)
    quoted = pc.binary_join_element_wise("'", column, "")
    return pc.if_else(pc.and_not(is_formula, is_number), quoted, column).cast(column.type)

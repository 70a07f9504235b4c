"""The request of docs/recommendations.md, on the pipeline that it is about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from app.adapters.sources.features import compile_features
from app.core.batches import Floats
from app.core.scoring import ActiveModel, ChampionTimeline
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from app.serving.commits import CommitCounts, Commits
from app.serving.desk import PreviewDesk
from app.serving.hook import ScoringHook
from app.serving.places import Place
from app.step_size import AskedLately
from schemas.pipeline.file import load
from schemas.serving import RankAnswer, RankRequest, SendFailedError

NOW_MS = 1_514_200_000_000


class ByBuyers:
    """Scores an item by how many households bought it."""

    def score(self, matrix: Floats) -> Floats:
        return np.asarray(1 - 1 / (1 + matrix[:, 1]))


async def test_the_request_of_the_page_is_answered() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recommendations.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"/v1/rank -d '(.*?)'", page, flags=re.DOTALL)
    pipeline = load("groceries")
    flow = PartitionPipeline(pipeline, compile_features(pipeline), 0, outputs=FlowOutput.NONE)
    none: Any = None
    model = ActiveModel("m", "1.0.0", "champion", pipeline.feature_set, 0.5, ByBuyers(), none)

    async def send(*_: object) -> None:
        raise SendFailedError("ranking sends nothing")

    class Here:
        def find(self, _: int) -> Place:
            return desk

        def owners(self) -> dict[int, str]:
            return {}

        def home_of(self, _: str) -> int:
            return 0

    desk = PreviewDesk(
        pipeline,
        flow,
        models=lambda: ChampionTimeline([model]),
        is_behind=lambda: False,
        asked=AskedLately(),
        commits=Commits(pipeline, 0, lambda: flow.sent, send, CommitCounts(), now_ms=lambda: NOW_MS),
        make_room=lambda: None,
        now_ms=lambda: NOW_MS,
    )
    request = RankRequest(**json.loads(body))
    answer = await ScoringHook(pipeline, Here(), none, lambda: NOW_MS).rank(request, is_forwarded=False)
    assert isinstance(answer, RankAnswer)
    assert answer.refused == {}
    scores = [ranked.score for ranked in answer.ranked]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0.9  # items of the page are items of the pipeline

"""A model learns how often something happens, not how fast it is told: training on labels that come late."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_setting import DAY_MS, HOUR_MS, START_MS
from hypothesis import given
from hypothesis import strategies as st
from late_labels import DAYS, LAWS, PER_DAY, SPECIFICATION, Floats, record

from app.adapters.recordings.file import EVENTS, LABELS, Recording, RecordingWriter, describe
from app.core.counts.delay_law import FEWEST_LABELS
from app.core.labels.delays import LabelDelays
from app.core.labels.held import Held, say_share, say_time
from app.core.labels.maturity import (
    FEWEST_IN_TRAINING,
    LabelTimes,
    Maturity,
    MaturityError,
    weigh,
)
from app.core.labels.maturity_setting import maturity_warnings
from app.replay.training_set import TrainingSet, build_training_set
from models.training import TrainedModel, TrainingError, train
from schemas.pipeline.file import load
from schemas.pipeline.spec import Performance, Pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path: Path = tmp_path_factory.mktemp("maturity") / "cards.toml"
    path.write_text(SPECIFICATION)
    return load(path)


def learn(path: Path, pipeline: Pipeline, days: float = DAYS, **options: Any) -> tuple[TrainingSet, TrainedModel]:
    to_ms = START_MS + round(days * DAY_MS)
    training_set = build_training_set(pipeline, path, START_MS, to_ms, **options)
    trained = train(training_set.to_training_range(), pipeline, "logistic", version="1.0.0", created_at_ms=0)
    return training_set, trained


def older(pipeline: Pipeline, days: float) -> Pipeline:
    return dataclasses.replace(pipeline, performance=Performance(round(days * DAY_MS)))


@pytest.mark.slow
@pytest.mark.parametrize("law", sorted(LAWS))
def test_the_rate_of_the_reference_is_that_of_the_events_whatever_the_delays(
    pipeline: Pipeline, tmp_path: Path, law: str
) -> None:
    truth = record(tmp_path / "r.parquet", pipeline, LAWS[law]).mean()
    training_set, trained = learn(tmp_path / "r.parquet", pipeline)
    said = training_set.maturity.warnings()
    assert len(said) == {"exponential": 1, "at once": 1}.get(law, 0), said  # 98.5 % after 21 days; needlessly long
    outcomes = trained.manifest.read_reference().training.outcomes.sum(axis=1)
    assert outcomes[1] / outcomes.sum() == pytest.approx(truth, rel=0.1)
    assert trained.scorer.score(training_set.matrix).mean() == pytest.approx(truth, rel=0.1)
    # All that is left out is counted.
    maturity = training_set.maturity
    assert maturity.n_events == DAYS * PER_DAY == sum(maturity.mature) + sum(maturity.young)
    assert maturity.mature[1:] == tuple(outcomes)
    newest = (training_set.event_time_ms.max() - START_MS) / DAY_MS
    assert 47 < newest <= 49


@pytest.mark.slow
def test_learning_from_all_that_is_here_would_be_far_off(pipeline: Pipeline, tmp_path: Path) -> None:
    """The generator is hard enough: this is what the maturity is for."""
    truth = record(tmp_path / "r.parquet", pipeline, LAWS["positives 1 to 20, negatives at 20"]).mean()
    training_set, trained = learn(tmp_path / "r.parquet", pipeline, maturity_ms=0)
    assert trained.manifest.training.positive_share > 1.15 * truth
    with pytest.raises(MaturityError, match="would be positive in place of"):
        training_set.maturity.warnings()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "days", "needed"),
    [
        ("positives 1 to 20, negatives at 20", 10, "20 days"),
        ("positives early, negatives late", 5, "18 days"),
        ("negatives early, positives late", 5, "18 days"),
    ],
)
def test_a_maturity_that_lets_one_label_in_before_the_other_is_refused_and_the_right_one_named(
    pipeline: Pipeline, tmp_path: Path, law: str, days: float, needed: str
) -> None:
    record(tmp_path / "r.parquet", pipeline, LAWS[law])
    hasty = older(pipeline, days)
    training_set = build_training_set(hasty, tmp_path / "r.parquet", START_MS, START_MS + DAYS * DAY_MS)
    with pytest.raises(MaturityError, match=f"set performance.maturity to {needed}"):
        training_set.maturity.warnings()
    # A range that begins where no such label has come yet has one label alone.
    late = START_MS + (DAYS - 16) * DAY_MS
    training_set = build_training_set(hasty, tmp_path / "r.parquet", late, START_MS + DAYS * DAY_MS)
    with pytest.raises(MaturityError, match=rf"All \S+ labels of events that were {days} days old .* take up to"):
        training_set.maturity.warnings()


@pytest.mark.slow
def test_a_label_too_rare_to_have_a_law_is_taken_as_here_and_the_other_one_still_refuses(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Some forty positives, in time; of the negatives of three weeks none is here."""

    def rare(rng: np.random.Generator, y: Floats) -> Floats:
        return np.where(y == 1, np.where(rng.random(len(y)) < 0.05, 1.0, np.inf), 18.0)

    record(tmp_path / "r.parquet", pipeline, rare)
    training_set = build_training_set(older(pipeline, 2), tmp_path / "r.parquet", START_MS, START_MS + DAYS * DAY_MS)
    assert 20 < training_set.maturity.law.n[1] < FEWEST_LABELS
    with pytest.raises(MaturityError, match=r"set performance.maturity to 18 days"):
        training_set.maturity.warnings()


def test_delays_longer_than_the_data_are_said_to_be(pipeline: Pipeline, tmp_path: Path) -> None:
    """Twelve days: no negative has come, and of the positives nobody has seen the slow ones."""
    record(tmp_path / "r.parquet", pipeline, LAWS["positives 1 to 20, negatives at 20"], days=12)
    to_ms = START_MS + 12 * DAY_MS
    with pytest.raises(MaturityError, match=r"None of the 1,920 events was 21 days old .* have --to end later than 21"):
        build_training_set(pipeline, tmp_path / "r.parquet", START_MS, to_ms).maturity.warnings()
    training_set = build_training_set(older(pipeline, 5), tmp_path / "r.parquet", START_MS, to_ms)
    with pytest.raises(
        MaturityError, match=r"either nobody sends labels 0, .* or they take longer than these events are old"
    ):
        training_set.maturity.warnings()
    record(tmp_path / "s.parquet", pipeline, LAWS["exponential"], days=9)
    training_set = build_training_set(older(pipeline, 4), tmp_path / "s.parquet", START_MS, START_MS + 9 * DAY_MS)
    with pytest.raises(
        MaturityError, match=r"still coming at the greatest age that was seen .* longer than these data"
    ):
        training_set.maturity.warnings()


@pytest.mark.slow
def test_labels_of_one_kind_and_no_labels_at_all_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    to_ms = START_MS + 40 * DAY_MS
    for name, law, words in (
        ("never", lambda _, y: np.full(len(y), np.inf), "The data hold no label at all, for 6,400 events"),
        (
            "one",
            lambda _, y: np.where(y == 1, 1.0, np.inf),
            "All .* labels .* are 1, and .* have none: either nobody sends labels 0, then send one for each event",
        ),
        (
            "zero",
            lambda _, y: np.where(y == 0, 1.0, np.inf),
            "All .* labels .* are 0: labels 1 are rare, .* or nobody sends them .* such events have none",
        ),
        # Beyond the horizon.
        ("late", lambda _, y: np.full(len(y), 35.0), "None of the .* labels is of an event that was read"),
    ):
        record(tmp_path / f"{name}.parquet", pipeline, law, days=40)
        training_set = build_training_set(pipeline, tmp_path / f"{name}.parquet", START_MS, to_ms)
        with pytest.raises(MaturityError, match=words):
            training_set.maturity.warnings()
        with pytest.raises(TrainingError):
            learn(tmp_path / f"{name}.parquet", pipeline, days=40)


@pytest.mark.slow
def test_labels_that_come_for_few_events_are_said_to_be_few(pipeline: Pipeline, tmp_path: Path) -> None:
    def rarely(rng: np.random.Generator, y: Floats) -> Floats:
        return np.where(rng.random(len(y)) < 0.1, 1.0, np.inf)

    truth = record(tmp_path / "r.parquet", pipeline, rarely).mean()
    training_set, trained = learn(tmp_path / "r.parquet", pipeline)
    assert trained.manifest.training.positive_share == pytest.approx(truth, rel=0.3)
    unlabelled, few = training_set.maturity.warnings()[-2:]
    assert "90% of the 7," in unlabelled
    assert "have no label" in unlabelled
    assert few.startswith("Only ")
    assert "labelled events are positive" in few


@pytest.mark.slow
def test_young_events_are_weighed_so_that_they_stand_for_those_whose_labels_are_missing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "r.parquet"
    truth = record(
        path, pipeline, lambda rng, y: np.where(y == 1, rng.exponential(3, len(y)), rng.uniform(0, 20, len(y)))
    )
    training_set, trained = learn(path, pipeline, weigh_young=True)
    young = training_set.young
    assert young is not None
    stands_for = [float(young.weights[young.labels == label].sum()) for label in (0, 1)]
    assert stands_for[1] / sum(stands_for) == pytest.approx(truth[-20 * PER_DAY :].mean(), rel=0.15)
    # Of the 21 youngest days only those count at which a tenth of the negatives are here.
    age = (training_set.maturity.times.known_ms - young.event_time_ms) / DAY_MS
    assert 1.8 < age.min() < 2.6
    assert age.max() < 21
    assert sum(stands_for) == pytest.approx((21 - age.min()) * PER_DAY, rel=0.08)
    raw = float(young.labels.mean())
    assert raw > 1.2 * truth.mean()
    # The judgement and the reference are those of the mature events alone.
    alone, trained_alone = learn(path, pipeline)
    assert (alone.young, training_set.labels.tobytes()) == (None, alone.labels.tobytes())
    assert trained.manifest.reference == trained_alone.manifest.reference
    assert trained.artifact != trained_alone.artifact


def draw_law(chance: np.random.Generator, longest: float) -> Callable[[int], Floats]:
    low, high = sorted(chance.uniform(0, longest, 2))
    mean = chance.uniform(0.2, longest / 4)
    laws: list[Callable[[int], Floats]] = [
        lambda n: np.full(n, low),
        lambda n: chance.uniform(low, high, n),
        lambda n: np.minimum(chance.exponential(mean, n), longest),
        lambda n: np.where(chance.random(n) < 0.5, 0.01, chance.uniform(low, high, n)),
        lambda n: np.minimum(low / 2 + chance.lognormal(0, 1, n), longest),
    ]
    return laws[chance.integers(len(laws))]


@pytest.mark.slow
def test_whatever_the_delays_and_the_maturity_the_rate_is_right_or_the_labels_are_refused() -> None:
    """Delays that the data are long enough to show; of longer ones nobody can know."""
    horizon_ms, n, taken = 30 * DAY_MS, 20_000, 0
    for seed in range(150):
        chance = np.random.default_rng(seed)
        days, maturity_ms = chance.uniform(20, 80), round(chance.choice([0.5, 1, 3, 7, 14, 21]) * DAY_MS)
        rate = chance.choice([0.02, 0.1, 0.4])
        times = np.sort(chance.integers(0, round(days * DAY_MS), n))
        truth = (chance.random(n) < rate).astype(np.float64)
        laws = [draw_law(chance, min(25, 0.8 * days)) for _ in range(2)]
        took = np.where(truth == 1, laws[1](n), laws[0](n)) * DAY_MS
        came = times + took.astype(np.int64) + 1
        here = came < days * DAY_MS
        known_ms = int(came[here].max())
        delays = LabelDelays("p", HOUR_MS, horizon_ms, maturity_ms)
        delays.count_each(times[here], truth[here], (came - times)[here])
        law = delays.law(known_ms, FEWEST_IN_TRAINING)
        label_times = LabelTimes(0, known_ms, known_ms, maturity_ms, horizon_ms)
        maturity = Maturity.of(times, np.where(here, truth, np.nan), law, label_times, Held(0, known_ms, n))
        try:
            maturity.warnings()
        except MaturityError:
            assert maturity_ms < 1.1 * took.max() or known_ms < horizon_ms, seed  # not without a reason
            continue
        _, negative, positive = maturity.mature
        share = positive / (negative + positive)
        deviation = math.sqrt(rate * (1 - rate) / (negative + positive))
        assert abs(share - rate) <= 0.1 * rate + 4 * deviation, seed
        taken += 1
    assert taken > 60


def test_an_age_at_which_one_label_cannot_be_here_counts_for_nothing() -> None:
    """Negatives at 20 days: a young positive has no negatives beside it, and would make positives look frequent."""
    delays = LabelDelays("p", HOUR_MS, 30 * DAY_MS, 21 * DAY_MS)
    times = np.arange(0, 60 * DAY_MS, HOUR_MS)
    delays.count_each(times, np.zeros(len(times)), np.full(len(times), 20 * DAY_MS))
    delays.count_each(times, np.ones(len(times)), times % (20 * DAY_MS))
    law = delays.law(90 * DAY_MS)
    ages = np.array([1.0, 10, 19, 21]) * DAY_MS
    assert weigh(law, np.ones(4), ages).tolist() == [0, 0, 0, 1]
    assert weigh(law, np.zeros(4), ages).tolist() == [0, 0, 0, 1]
    with pytest.raises(MaturityError, match="which 0 labels 0 do not say"):
        weigh(LabelDelays("p", HOUR_MS, 1, 1).law(9), np.ones(1), np.ones(1))


def draw_counts(longest_days: float, days: float, n: int = 20_000) -> tuple[LabelDelays, Floats, Floats, int]:
    """Both labels take anything up to the longest; what is here after so many days."""
    chance = np.random.default_rng(3)
    times = np.sort(chance.integers(0, round(days * DAY_MS), n))
    truth = (chance.random(n) < 0.3).astype(float)
    came = times + chance.integers(1, round(longest_days * DAY_MS), n)
    known_ms = round(days * DAY_MS)
    here = came < known_ms
    delays = LabelDelays("p", HOUR_MS, 30 * DAY_MS, 21 * DAY_MS)
    delays.count_each(times[here], truth[here], (came - times)[here])
    return delays, times, np.where(here, truth, np.nan), known_ms


def judge(
    delays: LabelDelays, times: Floats, labels: Floats, known_ms: int, *, days: float, horizon: float
) -> list[str]:
    maturity_ms, horizon_ms = round(days * DAY_MS), round(horizon * DAY_MS)
    law = delays.law(known_ms, FEWEST_IN_TRAINING)
    label_times = LabelTimes(0, known_ms, known_ms, maturity_ms, horizon_ms)
    return Maturity.of(times, labels, law, label_times, Held(0, known_ms, len(times))).warnings()


def test_labels_that_still_come_are_noted_where_few_events_lack_them_and_refused_where_many_do() -> None:
    drawn = draw_counts(20, 21)
    (said, *_) = judge(*drawn, days=18, horizon=30)
    assert "the greatest age that was seen, so it may be more: set performance.maturity" in said
    with pytest.raises(MaturityError, match="were still coming at the greatest age that was seen"):
        judge(*drawn, days=5, horizon=30)
    assert "so it may be more" not in " ".join(judge(*drawn, days=18, horizon=19))  # no later one counts


def test_a_label_that_came_a_few_times_is_refused_in_data_that_are_shorter_than_the_horizon() -> None:
    _, times, labels, known_ms = draw_counts(1, 25, n=2_000)
    labels[np.flatnonzero(labels == 1)[8:]] = 0.0
    few = LabelDelays("p", HOUR_MS, 30 * DAY_MS, DAY_MS)
    is_here = ~np.isnan(labels)
    few.count_each(times[is_here], labels[is_here], np.full(int(is_here.sum()), HOUR_MS))
    with pytest.raises(
        MaturityError, match=r"8 labels 1 are too few to say how long they take, .* as old as labels.hor"
    ):
        judge(few, times, labels, known_ms, days=2, horizon=30)
    assert len(judge(few, times, labels, known_ms, days=2, horizon=20)) == 1  # that there are few


def test_an_event_is_old_enough_at_the_very_time() -> None:
    times = LabelTimes(0, 20, known_ms=11, maturity_ms=10, horizon_ms=10)
    assert times.is_old_enough(np.array([0, 1, 2])).tolist() == [True, True, False]


def test_weights_need_as_many_labels_as_windows_do() -> None:
    delays = LabelDelays("p", HOUR_MS, 30 * DAY_MS, 21 * DAY_MS)
    delays.count_each(np.zeros(80, np.int64), np.zeros(80), np.full(80, HOUR_MS))
    delays.count_each(np.zeros(49, np.int64), np.ones(49), np.full(49, HOUR_MS))
    law = delays.law(90 * DAY_MS, FEWEST_IN_TRAINING)
    assert law.is_known(1)
    with pytest.raises(MaturityError, match="which 49 labels 1 do not say"):
        weigh(law, np.ones(1), np.ones(1))


def test_a_maturity_is_too_short_right_or_needlessly_long() -> None:
    delays = LabelDelays("p", HOUR_MS, 30 * DAY_MS, 21 * DAY_MS)
    rng = np.random.default_rng(1)
    times = rng.integers(0, 60 * DAY_MS, 20_000)
    for label in (0, 1):
        delays.count_each(times, np.full(20_000, float(label)), rng.integers(0, 10 * DAY_MS, 20_000))
    law = delays.law(90 * DAY_MS)

    def said(days: float) -> list[str]:
        return maturity_warnings(law, round(days * DAY_MS), 30 * DAY_MS)

    assert [len(said(days)) for days in (5, 9, 10, 11, 30, 45)] == [2, 2, 0, 0, 0, 1]
    assert said(5)[0].startswith("By performance.maturity (5 days) 49.8% ")
    assert "of the labels 1 have come; 99 % have within 9.9 days: set" in said(5)[0]
    assert "99 % of the labels come within 9.9 days, and performance.maturity is 45 days" in said(45)[0]
    (beyond,) = maturity_warnings(law, 9 * DAY_MS, 10 * DAY_MS)[:1]
    assert beyond.endswith("set performance.maturity to at least that and labels.horizon to more.")


@pytest.mark.slow
def test_windows_over_labels_hold_in_training_what_they_hold_live(pipeline: Pipeline, tmp_path: Path) -> None:
    """Each event sees the labels that had come before it, of whatever age their events are; none that came later."""
    path = tmp_path / "r.parquet"
    record(path, pipeline, LAWS["positives early, negatives late"], days=40)
    training_set = build_training_set(pipeline, path, START_MS, START_MS + 40 * DAY_MS, maturity_ms=0)
    rng = np.random.default_rng(1)
    n = 40 * PER_DAY
    times = START_MS + np.sort(rng.integers(0, 40 * DAY_MS, n))
    amounts = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(2.9 - amounts))).astype(float)
    came = np.round(times + LAWS["positives early, negatives late"](rng, labels) * DAY_MS).astype(np.int64)
    came[came > times[-1]] = 2**62
    hop_ms = 6 * HOUR_MS
    for row in rng.choice(len(training_set.event_id), 150, replace=False).tolist():
        number = int(training_set.event_id[row][1:])
        at = int(times[number])
        first = (at // hop_ms - 19) * hop_ms
        of_card = np.arange(n) % 17 == number % 17
        before = of_card & (came <= at) & (came >= first) & (np.arange(n) != number)
        own = int(first <= came[number] <= at) if came[number] < at else 0
        assert training_set.matrix[row, 1] == before.sum() + own, number


def without(path: Path, kinds: tuple[str, ...], pipeline: Pipeline) -> Path:
    """A recording of the same, without some kinds of records."""
    whole, part = Recording(path), path.with_name(f"{'-'.join(kinds)}-gone.parquet")
    with RecordingWriter(part, describe(pipeline, 0)) as writer:
        for kind in {EVENTS, LABELS} - set(kinds):
            for partition in whole.partitions:
                for batch in whole.read(kind, partition):
                    writer.add(kind, batch)
    return part


def rewrite(path: Path, pipeline: Pipeline, kind: str, change: Callable[[bytes, int], bytes]) -> None:
    """Change the records of a kind, each by its value and its place in the file."""
    whole, other = Recording(path), path.with_name("rewritten.parquet")
    n = 0
    with RecordingWriter(other, describe(pipeline, 0)) as writer:
        for log in (EVENTS, LABELS):
            for partition in whole.partitions:
                for batch in whole.read(log, partition):
                    if log == kind:
                        batch.values = [change(value or b"", n + at) for at, value in enumerate(batch.values)]
                        n += len(batch)
                    writer.add(log, batch)
    other.rename(path)


def refusal(path: Path, pipeline: Pipeline, from_day: float = 0, to_day: float = 40) -> tuple[list[str], str]:
    """What is said of a range of days that no model can be made of: first what was read, then why not."""
    times = (START_MS + round(day * DAY_MS) for day in (from_day, to_day))
    maturity = build_training_set(pipeline, path, *times).maturity
    with pytest.raises(MaturityError) as caught:
        maturity.warnings()
    return maturity.describe(), str(caught.value)


@pytest.mark.slow
def test_a_range_without_events_is_refused_by_what_the_data_hold(pipeline: Pipeline, tmp_path: Path) -> None:
    record(tmp_path / "r.parquet", pipeline, LAWS["at once"], days=40)
    first, last = say_time(START_MS), say_time(START_MS + 40 * DAY_MS)
    for days in ((100, 131), (-50, -20)):
        described, why = refusal(tmp_path / "r.parquet", pipeline, *days)
        assert described == []
        times = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d", why)
        assert times[:2] == [say_time(START_MS + day * DAY_MS) for day in days]
        assert first <= times[2] <= times[3] <= last
        assert (times[2][:10], times[3][:10]) == (first[:10], say_time(START_MS + 40 * DAY_MS - HOUR_MS)[:10])
        assert why.endswith("choose --from and --to within that.")
    for kinds in ((EVENTS, LABELS), (EVENTS,)):
        described, why = refusal(without(tmp_path / "r.parquet", kinds, pipeline), pipeline)
        assert described == []
        assert why.startswith("No event was read at all: ")


@pytest.mark.slow
def test_who_asks_for_young_events_by_weight_is_told_first_that_there_is_nothing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    record(tmp_path / "r.parquet", pipeline, LAWS["at once"], days=40)
    bare = without(tmp_path / "r.parquet", (LABELS,), pipeline)
    for path, day, words in (
        (tmp_path / "r.parquet", 100, "No event lies between"),
        (bare, 0, "The data hold no label at all"),
    ):
        times = START_MS + day * DAY_MS, START_MS + (day + 40) * DAY_MS
        with pytest.raises(MaturityError, match=words):
            build_training_set(pipeline, path, *times, weigh_young=True)


@pytest.mark.slow
def test_data_without_any_label_are_refused_without_a_time_up_to_which_labels_are_known(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    record(tmp_path / "r.parquet", pipeline, LAWS["at once"], days=40)
    described, why = refusal(without(tmp_path / "r.parquet", (LABELS,), pipeline), pipeline)
    assert described == ["6,400 events read in that time; no label of any event is known."]
    assert why.startswith("The data hold no label at all")
    assert "labels topic" in why


@pytest.mark.slow
def test_labels_that_come_after_the_range_or_belong_to_no_event_are_not_said_to_be_missing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    record(tmp_path / "r.parquet", pipeline, LAWS["all at 20 days"], days=40)
    (described,), why = refusal(tmp_path / "r.parquet", pipeline, 0, 15)
    assert re.fullmatch(r"[\d,]+ events read in that time; no label of any event is known\.", described)
    assert "first label came at" in why
    assert "have --to end later" in why
    # The same labels, of other ids.
    rewrite(tmp_path / "r.parquet", pipeline, LABELS, lambda value, _: re.sub(rb'"e(\d)', rb'"x\1', value))
    _, why = refusal(tmp_path / "r.parquet", pipeline)
    assert re.match(r"None of the [\d,]+ labels is of an event that was read: ", why)
    assert "`event_id`" in why
    assert "[events] id" in why


def as_bool(value: bytes) -> bytes:
    return value.replace(b'"label":0.0', b'"label":false').replace(b'"label":1.0', b'"label":true')


@pytest.mark.slow
def test_records_that_cannot_be_read_are_counted_and_the_first_one_is_explained(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    path, to_ms = tmp_path / "r.parquet", START_MS + 40 * DAY_MS
    n = len(record(path, pipeline, LAWS["at once"], days=40))
    rewrite(path, pipeline, LABELS, lambda value, at: as_bool(value) if at % 9 == 0 else value)
    rewrite(path, pipeline, EVENTS, lambda value, at: value.replace(b'"amount":', b'"sum":') if at % 50 == 0 else value)
    maturity = build_training_set(pipeline, path, START_MS, to_ms).maturity
    labels, events = maturity.warnings()[:2]
    n_labels = Recording(path).count(LABELS)
    assert labels.startswith(f"{-(-n_labels // 9):,} labels could not be read and are left out, the first because: ")
    assert labels.endswith("at `$.label`. Write 0 or 1.")
    assert events.startswith(f"{-(-n // 50):,} events could not be read and are left out, the first because: ")
    assert "missing required field `amount`" in events
    rewrite(path, pipeline, LABELS, lambda value, _: as_bool(value))
    _, why = refusal(path, pipeline)
    assert re.match(r"None of the [\d,]+ labels could be read, the first because: Expected `float`, got `bool`", why)
    assert why.endswith("Write 0 or 1.")
    rewrite(path, pipeline, EVENTS, lambda value, _: value.replace(b'"amount":', b'"sum":'))
    _, why = refusal(path, pipeline)
    assert why.startswith(f"None of the {n:,} events could be read, the first because: ")


@given(
    mature=st.tuples(*[st.integers(0, 3) | st.integers(0, 10_000)] * 3),
    young=st.tuples(*[st.integers(0, 3) | st.integers(0, 10_000)] * 3),
    n_law=st.tuples(*[st.integers(0, 200)] * 2),
    days=st.integers(1, 60),
    maturity_days=st.integers(0, 60),
)
def test_of_whatever_numbers_something_is_said_or_they_are_refused_in_one_sentence(
    mature: tuple[int, int, int],
    young: tuple[int, int, int],
    n_law: tuple[int, int],
    days: int,
    maturity_days: int,
) -> None:
    delays = LabelDelays("p", HOUR_MS, 30 * DAY_MS, maturity_days * DAY_MS)
    for label, n in enumerate(n_law):
        delays.count_each(np.zeros(n, np.int64), np.full(n, float(label)), np.arange(n) * HOUR_MS)
    counts = [*mature, *young]
    ages = np.repeat([maturity_days * DAY_MS + 1] * 3 + [maturity_days * DAY_MS - 1] * 3, counts)
    labels = np.repeat([np.nan, 0.0, 1.0] * 2, counts)
    known_ms = days * DAY_MS
    law = delays.law(known_ms, FEWEST_IN_TRAINING)
    times = LabelTimes(0, known_ms, known_ms, maturity_days * DAY_MS, 30 * DAY_MS)
    maturity = Maturity.of(known_ms - ages, labels, law, times, Held(0, known_ms, sum(n_law)))
    assert (maturity.mature, maturity.young) == (mature, young)
    try:
        said = maturity.warnings()
    except MaturityError as error:
        said = [str(error)]
    else:
        assert min(mature[1:]) > 0  # nothing is learnt from one label
    assert all(sentence.endswith(".") for sentence in said)
    said += maturity.describe()
    maturity.facts(0)
    assert not re.search(r"\b(nan|inf|-\d+%|0 only)\b", " ".join(said)), said


@given(n=st.integers(0, 10_000_000), more=st.integers(0, 10_000_000))
def test_a_share_that_is_not_nothing_is_not_said_to_be(n: int, more: int) -> None:
    total = n + more
    if not total:
        return
    said = say_share(n / total)
    assert said.endswith("%")
    assert float(said[:-1]) / 100 == pytest.approx(n / total, rel=0.051)
    assert (said == "0%") == (n == 0)
    assert (said == "100%") == (more == 0)


def test_a_rate_of_few_positives_is_said_with_what_it_may_be() -> None:
    end_ms = 90 * DAY_MS
    maturity = Maturity.of(
        np.arange(197_946, dtype=np.int64),
        (np.arange(197_946) < 76).astype(float),
        LabelDelays("p", HOUR_MS, 30 * DAY_MS, 1).law(end_ms),
        LabelTimes(0, end_ms, end_ms, DAY_MS, DAY_MS),
        Held(0, end_ms, 197_946),
    )
    (said,) = maturity.warnings()
    assert said == (
        "Only 76 of the 197,946 labelled events are positive (0.038%): with so few, the true rate may be anything from"
        " 0.031% to 0.048%, and little can be said of later windows; train on 100 or more, of a longer time."
    )

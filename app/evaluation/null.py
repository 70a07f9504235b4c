"""False alarms where nothing changes, per declared false alarm: `streams.NULLS`, family-wise over everything tested."""

from __future__ import annotations

from collections import Counter

from app.evaluation.measures import Rate, rate
from app.evaluation.plots import draw_achieved
from app.evaluation.product import BESIDE, alarms
from app.evaluation.run import EvaluationRun, generator
from app.evaluation.streams import CATEGORIES, FEATURES, NULLS, Null, draw_labels, score
from app.evaluation.window_contestants import OURS, TITLES, WINDOW_CONTESTANTS, Subject, Watched
from schemas.pipeline.drift import DRIFT_TESTS

WINDOW = 1_000
#: Windows of a run, and runs of each reference: to work out what its smallest p-values are worth takes a second.
WINDOWS, RUNS = 30, 5
TRAINING = 10_000
#: The declared budget: one false alarm in so many events, so one in a hundred windows.
PER_EVENTS = 100_000
#: Streams for which something is promised, with the full number of runs.
PROMISED = ("iid", "ar60")

SUBJECT = Subject(FEATURES, CATEGORIES, WINDOW, PER_EVENTS)
_TABLE = "False alarms per declared one, without any change"
_TESTS = "Windows that a test of streamgauge alarms in, without any change, %"
_APART = "Windows between two false alarms (all that were seen, where there was none)"


def draw(stream: Null, seed: int, number: int) -> list[Watched]:
    """A reference, and `RUNS` streams of windows after it."""
    chance = generator(seed, NULLS.index(stream), number)
    matrix = stream.draw(chance, TRAINING, WINDOW)
    scores = score(matrix)
    reference = SUBJECT.fit(matrix, scores, draw_labels(chance, scores))
    runs = []
    for _ in range(RUNS):
        matrix = stream.draw(chance, WINDOW * WINDOWS, WINDOW)
        runs.append(Watched(SUBJECT, reference, SUBJECT.cut(reference, matrix, score(matrix))))
    return runs


def _alarms(task: tuple[int, int, int]) -> tuple[dict[str, int], Counter[str]]:
    """Alarmed windows after one reference, of each contestant and of each of our tests."""
    seed, stream, number = task
    runs = draw(NULLS[stream], seed, number)
    of_tests: Counter[str] = Counter()
    for run in runs:
        alarmed = {(report.test, report.window_start_ms) for report in run.findings.reports if alarms(report)}
        of_tests.update(test for test, _ in alarmed)
    return {
        name: sum(int(contestant(run).sum()) for run in runs) for name, contestant in WINDOW_CONTESTANTS.items()
    }, of_tests


def measure_null(run: EvaluationRun) -> None:
    """Windows with an alarm against those that the budget allows, per stream and contestant."""
    rates: dict[str, dict[str, Rate]] = {}
    for at, stream in enumerate(NULLS):
        references = -(-(run.sizes.runs if stream.name in PROMISED else run.sizes.others) // RUNS)
        runs = references * RUNS
        run.say(f"null: {stream.help}, {runs} runs of {WINDOWS} windows of {WINDOW} events, {len(FEATURES)} features")
        results = list(
            run.map(f"null, {stream.help}", _alarms, ((run.seed, at, number) for number in range(references)))
        )
        rates[stream.name] = {
            name: rate([one[name] for one, _ in results], RUNS * WINDOWS) for name in WINDOW_CONTESTANTS
        }
        of_tests = sum((tests for _, tests in results), Counter[str]())
        for test in (test for test in DRIFT_TESTS if not test.startswith(BESIDE)):
            share = 100 * of_tests[test] / (runs * WINDOWS)
            run.figures.add_cell(f"null.{stream.name}.test.{test}", share, "%", (_TESTS, test, stream.help))
        _add(run, stream, rates[stream.name], runs)
    achieved = {
        stream.help: {TITLES[name]: alarms / SUBJECT.budget for name, alarms in rates[stream.name].items()}
        for stream in NULLS
    }
    draw_achieved(run, "drift-null", achieved)


def _add(run: EvaluationRun, stream: Null, rates: dict[str, Rate], runs: int) -> None:
    for name, of_windows in rates.items():
        achieved = of_windows / SUBJECT.budget
        figure = f"null.{stream.name}.{name}.achieved"
        run.figures.add_cell(figure, achieved.value, "×", (_TABLE, TITLES[name], stream.help))
        run.figures.spreads[figure] = achieved.low, achieved.high
        apart = 1 / of_windows.value if of_windows.value else float(runs * WINDOWS)
        run.figures.add_cell(f"null.{stream.name}.{name}.apart", apart, "windows", (_APART, TITLES[name], stream.help))
    ours = (rates[OURS] / SUBJECT.budget).value
    if stream.name == "iid":
        title = f"{stream.help}: achieved false alarms are off the declared budget by"
        run.figures.add("null.iid.streamgauge.off", 100 * abs(ours - 1), "%", title)

"""What people and Prometheus are shown: all of it escaped, nothing missing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser

import pytest

from app.adapters.http.monitor import METRICS
from app.adapters.http.page import Page, render
from app.adapters.http.tables import Tables
from app.adapters.http.worker import METRICS as WORKER_METRICS
from app.adapters.http.worker import Health, Sample, expose, refusal_samples

EVIL = "<script>alert('1')</script>\"&"
TIME = "2013-01-01T00:00:00.000Z"
LATER = "2013-02-01T00:00:00.000Z"


def card(status: dict[str, object]) -> str:
    page = replace(full_page("p"), status=status)
    return re.search(r'<div class="card"><span class="quiet">workers</span>(.*?)</div>', render(page))[1]  # type: ignore[index]


def test_a_stream_without_a_worker_stands_out() -> None:
    assert card({"workers": 2}) == "<b>2</b>"
    assert card({"workers": 0}) == '<b><span class="bad">none</span></b>'
    assert card({}) == "<b>-</b>"  # not known yet


def test_how_long_labels_take_is_said_and_a_maturity_that_is_too_short_stands_out() -> None:
    labels = {
        "applied": 9,
        "without_event": 0,
        "delays": {"0": {"words": "nearly all labels 0 come at about 20 days"}, "1": {"words": f"half {EVIL}"}},
        "maturity_too_short": [f"By performance.maturity {EVIL}."],
    }
    text = render(replace(full_page("p"), status={"labels": labels}))
    assert f'<p class="quiet">Nearly all labels 0 come at about 20 days; half {escape(EVIL)}.</p>' in text
    assert f'<p class="warn">By performance.maturity {escape(EVIL)}.</p>' in text


def full_page(text: str) -> Page:
    return Page(
        pipeline=text,
        status={
            "state": text,
            "watermark": TIME,
            "windows_open": 1,
            "warehouse_error": text,
            "refused_records": {text: {text: 1_000, "malformed": 2}},
        },
        lag={"worker": [{"lag": 3}], "monitor": [{"lag": 4}, {"lag": 5}]},
        health=Health(live=True, ready=False, why=text),
        tables=Tables(
            counts={"scored": 1_234_567, "dead_letters": 0, "windows_closed": 2},
            models=[
                {
                    "version": text,
                    "role": text,
                    "valid_from": None,
                    "trained_from": TIME,
                    "trained_to": LATER,
                    "auc": 0.75,
                    "why": text,
                }
            ],
            performance=[
                {
                    "window_start": TIME,
                    "window_end": LATER,
                    "version": text,
                    "measure": measure,
                    "estimated": 0.66,
                    "estimated_low": 0.6,
                    "estimated_high": 0.7,
                    "realised": value,
                    "low": None,
                    "high": None,
                    "expected": 0.68,
                    "n_labels": 900,
                }
                for measure, value in (("auc", 0.7), ("log_loss", None), ("accuracy", 0.5))
            ],
            worse_segments=[
                {
                    "window_start": TIME,
                    "window_end": LATER,
                    "version": text,
                    "segment": text,
                    "realised": 0.4,
                    "low": 0.3,
                    "high": 0.5,
                    "expected": 0.8,
                    "n_labels": 90,
                }
            ],
            labels=[{"newest": LATER}],
            verdicts=[
                {
                    "window_start": TIME,
                    "window_end": LATER,
                    "version": text,
                    "kind": "score_drift",
                    "headline": "Scores are higher.",
                    "words": [text, "Scores are higher."],
                    "segments": [text],
                    "advice": "look_upstream",
                    "reason": text,
                    "with_labels": True,
                }
            ],
            drift=[
                make_drift(text, TIME, psi=0.25, tests=text, signals=["NONE", "DRIFT"]),
                make_drift("hard", TIME, psi=3.8, note=text, is_judged=False),
                make_drift("score", LATER),
            ],
            detections=[
                {
                    "window_start": TIME,
                    "window_end": LATER,
                    "version": text,
                    "test": text,
                    "signal": signal,
                    "note": text,
                }
                for signal in ("DRIFT", "NONE")
            ],
            newest=[make_newest(text)],
            open_alerts=[make_alert(text, "raised"), make_alert(text, "acknowledged")],
            other_alerts=[make_alert(text, "cleared"), make_alert(text, "silenced")],
        ),
        looked_at=datetime(2013, 1, 1, 12, 34, 56, tzinfo=UTC),
        error=text,
    )


def make_drift(metric: str, start: str, **values: object) -> dict[str, object]:
    quiet = {"signals": ["NONE"], "psi": None, "tests": "", "is_judged": True, "note": ""}
    return {"metric": metric, "window_start": start, **quiet, **values}


def make_newest(text: str, **values: object) -> dict[str, object]:
    window = {"window_start": LATER, "window_end": "2013-03-01T00:00:00.000Z"}
    numbers = {"measure": "auc", "realised": 0.21, "low": 0.2, "high": 0.22, "expected": 0.78}
    said = {"headline": text, "advice": "roll_back", "reason": text, "with_labels": True}
    return {"version": text, **window, **numbers, **said, **values}


def make_alert(text: str, state: str) -> dict[str, object]:
    return {
        "alert_id": text,
        "at": TIME,
        "rule": text,
        "others": [text],
        "severity": "critical",
        "state": state,
        "version": text,
        "measure": "auc",
        "window_start": TIME,
        "window_end": LATER,
        "since": TIME,
        "message": text,
        "opening": text,
        "action": text,
        "owner": text,
        "runbook": f"https://example.com/{text}",
        "who": text,
        "why": text,
    }


class Tags(HTMLParser):
    """Collects tags and what is said between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the parser's signature
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


class Cells(HTMLParser):
    """Collects, table by table, the titles of the columns and of each row the titles that its cells bear."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[tuple[list[str], list[list[str | None]]]] = []
        self._in_title = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "th"
        if tag == "table":
            self.tables.append(([], []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag == "td":
            self.tables[-1][1][-1].append(dict(attrs).get("data-title"))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.tables[-1][0].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_title &= tag != "th"


def test_on_a_phone_each_cell_says_what_it_is_as_columns_have_no_room_there() -> None:
    html = render(full_page("words"))
    tables = [table for table in Cells(html).tables if not table[0][0].startswith("metric")]
    assert len(tables) == len(re.findall("<h2>", html)) - 1  # the heat map has columns
    for titles, (head, *rows) in tables:
        assert head == []
        assert rows
        assert [row for row in rows if row != titles] == []
    narrow = re.search(r"@media \(max-width: 40rem\) \{(.*?)\n\}", html, re.DOTALL)
    assert narrow is not None
    assert "content: attr(data-title)" in narrow[1]


def test_nothing_that_others_wrote_becomes_markup() -> None:
    tags = Tags()
    tags.feed(render(full_page(EVIL)))

    assert "script" not in tags.tags
    assert sum(EVIL in text for text in tags.text) >= 10


def test_the_page_shows_numbers_signals_and_what_is_wrong() -> None:
    html = render(full_page("words"))

    for part in (
        "1 234 567",
        "tables as of 12:34:56",
        "0.7000",
        "<b>9</b>",
        '<td class="DRIFT" title="DRIFT words">0.25</td>',
        "2013-01",
    ):
        assert part in html
    assert html.count('<p class="error">words</p>') == 1


def drift_of(*rows: dict[str, object]) -> str:
    page = full_page("words")
    html = render(replace(page, tables=replace(page.tables, drift=list(rows))))
    return html[html.index("<h2>Drift by window</h2>") : html.index("<h2>Wrong decisions</h2>")]


def test_what_could_not_be_judged_is_not_shown_as_quiet_and_says_why_where_there_are_no_tooltips() -> None:
    why = "hardly to be judged: 0.75 independent looks"
    hard = {"is_judged": False, "note": why}
    html = drift_of(
        *(make_drift("fraud_30d", each, psi=3.8, **hard) for each in (TIME, LATER)),
        make_drift("sum_30d", LATER, **hard),
        make_drift("quiet", LATER, psi=0.0),
    )
    assert html.count(f'<td class="UNJUDGED" title="not judged: {why}">3.80 ?</td>') == 2
    assert html.count(f'<td class="UNJUDGED" title="not judged: {why}">?</td>') == 1
    assert html.count('class="NONE"') == 1
    assert html.count(f"<li><code>fraud_30d</code>, <code>sum_30d</code>, not judged in 2013-02: {why}</li>") == 1
    assert "Grey with a question mark: not judged" in html


def test_a_metric_whose_newest_window_is_judged_needs_no_word_on_an_older_one() -> None:
    html = drift_of(make_drift("a", TIME, is_judged=False, note="too few"), make_drift("a", LATER, psi=0.1))
    assert 'title="not judged: too few"' in html
    assert "<li>" not in html


def test_what_drifts_in_the_newest_window_is_said_with_its_tests() -> None:
    signals = {"signals": ["DRIFT", "NONE"], "tests": "ks, psi"}
    html = drift_of(make_drift("a", LATER, **signals), make_drift("b", TIME, **signals), make_drift("b", LATER))
    assert re.findall("<li>(.*?)</li>", html) == ["<code>a</code> drifts in 2013-02 by ks, psi"]
    of_past = make_drift("a", LATER, **signals, is_judged=False, note="too few")
    assert 'class="DRIFT"' in drift_of(of_past)  # its past is judged


def test_an_interval_shows_an_auc_below_a_coin_flip_where_it_is() -> None:
    page = full_page("words")
    page.tables.worse_segments.clear()
    found = []
    for auc in (0.2, 0.4, 0.7):
        page.tables.performance[0] |= {"realised": auc, "low": auc - 0.1, "high": auc + 0.1}
        marks = re.findall(r'<rect x="([\d.]+)" y="(\d)" width="([\d.]+)"', render(page))
        found.append({int(y): (float(x), float(width)) for x, y, width in marks})
    for auc, each in zip((0.2, 0.4, 0.7), found, strict=True):
        scale_x, scale_width = each[5]
        assert each[1][0] + 1 == pytest.approx(scale_x + auc * scale_width, abs=0.1)
        assert each[3] == pytest.approx((scale_x + (auc - 0.1) * scale_width, 0.2 * scale_width), abs=0.1)


def performance_of(values: dict[str, tuple[float | None, float]], **more: object) -> str:
    """By measure: what came true, with a range, and what was estimated; what was promised is 1 more."""
    rows = [
        {
            "window_start": TIME,
            "window_end": LATER,
            "version": "1",
            "measure": measure,
            "estimated": estimated,
            "estimated_low": estimated - 0.001,
            "estimated_high": estimated + 0.001,
            "realised": realised,
            "low": None if realised is None else realised - 0.002,
            "high": None if realised is None else realised + 0.002,
            "expected": None if realised is None else realised + 0.004,
            "n_labels": 0 if realised is None else 900,
        }
        for measure, (realised, estimated) in values.items()
    ]
    page = full_page("words")
    html = render(replace(page, tables=replace(page.tables, performance=rows, **more)))  # type: ignore[arg-type]  # lists of rows
    section = html[html.index("<h2>Performance by window</h2>") : html.index("<h2>Drift by window</h2>")]
    return section.replace("</small><small>", ", ")


def titles_of(html: str) -> list[str]:
    return Cells(html).tables[0][0]


RARE = {
    "accuracy": (0.992, 0.99),
    "auc": (0.8, 0.81),
    "f1": (0.1, 0.2),
    "log_loss": (0.05, 0.06),
    "positives": (0.0093, 0.0085),
    "precision": (0.21, 0.3),
    "recall": (0.03, 0.1),
}


def test_of_rare_positives_the_page_shows_how_many_there_are_and_what_decisions_on_them_are_worth() -> None:
    """Whoever never decides on one is right in 99 % of the cases: the accuracy says nothing."""
    html = performance_of(RARE)
    assert titles_of(html) == [
        *("window", "version", "auc", "95 % range, 0 to 1", "positives", "precision", "recall", "log loss", "labels"),
    ]
    assert "0.93 %" in html
    assert "0.73 % to 1.1 %, promised 1.3 %" in html
    assert "21 %" in html
    assert "0.7980 to 0.8020, promised 0.8040" in html
    often = performance_of(RARE | {"positives": (0.3, 0.3)})
    assert titles_of(often)[-3:] == ["log loss", "accuracy", "labels"]
    costly = performance_of(RARE | {"cost": (1.5, 1.2)})
    assert titles_of(costly)[4:-1] == ["positives", "precision", "recall", "cost", "log loss"]


def test_what_labels_have_not_shown_yet_is_estimated_with_its_band() -> None:
    html = performance_of({"auc": (None, 0.81), "positives": (None, 0.0085)})
    assert "≈ 0.8100" in html
    assert "0.8090 to 0.8110" in html
    assert "≈ 0.85 %" in html
    assert "promised" not in html[: html.index("</table>")]


def test_it_is_said_until_when_labels_have_come() -> None:
    assert "Labels have come until 2013-02-01." in performance_of(RARE)
    waiting = {"auc": (None, 0.81)}
    assert "No label has come yet." in performance_of(waiting, labels=[{"newest": None}])
    assert "No label has come yet." not in performance_of(RARE, labels=[{"newest": None}])  # by what it shows
    assert "abels have come" not in performance_of(RARE, labels=[])  # none are expected


def test_segments_that_do_worse_than_promised_are_shown_where_there_are_any() -> None:
    html = render(full_page("words"))
    section = html[html.index("<h2>Segments that do worse than promised</h2>") : html.index("<h2>Drift by window</h2>")]
    assert "0.4000" in section
    assert "0.8000" in section
    page = full_page("words")
    page.tables.worse_segments.clear()
    assert "worse than promised" not in render(page)


def test_detections_of_wrong_decisions_say_since_when_and_which_way() -> None:
    html = render(full_page("words"))
    section = html[html.index("<h2>Wrong decisions</h2>") : html.index("<h2>Model versions</h2>")]
    assert '<td data-title="wrong" class="bad">more</td>' in section
    assert '<td data-title="wrong" class="good">fewer</td>' in section
    assert section.count(">words</td>") == 6  # version, detector and what


def test_a_verdict_says_what_has_happened_and_what_to_do() -> None:
    html = render(full_page("words"))

    assert "Scores are higher.<ul><li>words</li><li>Above all in words</li></ul>" in html
    assert "<b>look upstream</b>: words" in html
    assert "≈ 0.6600" in html  # estimated, as it is not known yet


def test_open_alerts_are_shown_with_who_has_them_and_what_to_do() -> None:
    html = render(full_page("words"))

    assert '<a href="https://example.com/words" rel="noopener noreferrer">open</a>' in html
    assert "words, 2013-01-01 00:00: words" in html
    assert html.index("Alerts that are open") < html.index("Alerts before") < html.index("Performance by window")


def alerts_of(alert: dict[str, object], *newest: dict[str, object], state: str = "open") -> str:
    page = full_page("words")
    tables = replace(page.tables, **{f"{state}_alerts": [alert]}, newest=list(newest))  # type: ignore[arg-type]  # lists of rows
    html = render(replace(page, tables=tables))
    name = {"open": "Alerts that are open", "other": "Alerts before"}[state]
    return html[html.index(f"<h2>{name}</h2>") :].split("<h2>")[1]


def test_an_open_alert_says_what_is_so_by_now_and_what_to_do() -> None:
    alert = make_alert("words", "raised") | {"message": "auc of m 1 is 0.524"}
    html = alerts_of(alert, make_newest("words", reason="It is worse."))
    assert html.index("auc of m 1 is 0.524") < html.index("Newest window with labels, 2013-02-01 to 2013-03-01")
    assert "auc 0.2100 (0.2000 to 0.2200), promised 0.7800. <b>roll back</b>: It is worse." in html
    of_verdict = make_newest("words", measure="verdict", realised=None, headline="`temp` is higher.")
    html = alerts_of(alert | {"measure": "verdict"}, of_verdict)
    assert "Newest window with labels, 2013-02-01 to 2013-03-01: <code>temp</code> is higher. <b>roll back</b>" in html
    no_verdict = make_newest("words", headline=None, advice=None, reason=None, expected=None, low=None, high=None)
    assert "2013-03-01: auc 0.2100.</span>" in alerts_of(alert, no_verdict)


def test_an_alert_that_labels_raised_is_not_answered_by_a_window_without_them_alone() -> None:
    """A window whose labels have not come says nothing of a concept drift; of a fault it says all."""
    alert = make_alert("words", "raised") | {"measure": "verdict"}
    of_verdict = {"measure": "verdict", "realised": None}
    later = {"window_start": "2013-03-01T00:00:00.000Z", "window_end": "2013-04-01T00:00:00.000Z"}
    old, new = make_newest("words", **of_verdict), make_newest("words", **of_verdict, **later, with_labels=False)
    html = alerts_of(alert, old, new)
    assert html.index("Newest window, 2013-03-01") < html.index("Newest window with labels, 2013-02-01")
    caught_up = alerts_of(alert, {**old, "with_labels": False}, {**new, "with_labels": True})
    assert "Newest window with labels, 2013-03-01" in caught_up
    assert "2013-02-01 to 2013-03-01" not in caught_up.replace("2013-01-01 to 2013-02-01", "")


def test_an_open_alert_of_the_newest_window_or_of_another_thing_has_nothing_beside_it() -> None:
    alert = make_alert("words", "raised")
    for newest in (
        make_newest("words", window_start=TIME, window_end=LATER),
        make_newest("words", measure="log_loss"),
        make_newest("another"),
    ):
        assert "Newest window" not in alerts_of(alert, newest)


def test_an_alert_that_is_over_says_what_it_was_and_why_it_is_over() -> None:
    cleared = make_alert("words", "cleared") | {"opening": "auc is 0.5", "message": "auc is 0.8: over"}
    html = alerts_of(cleared, state="other")
    assert html.index("auc is 0.5") < html.index("auc is 0.8: over")
    silenced = make_alert("words", "silenced") | {"opening": "auc is 0.5", "message": "auc is 0.5"}
    assert alerts_of(silenced, state="other").count("auc is 0.5") == 1
    assert "auc is 0.5" in alerts_of(silenced | {"opening": ""}, state="other")


def test_a_runbook_that_is_no_link_of_the_web_is_no_link() -> None:
    page = full_page("words")
    page.tables.open_alerts[0]["runbook"] = "javascript:alert(1)"

    assert "javascript" not in render(page)


def test_records_that_were_refused_are_shown_by_topic_and_reason() -> None:
    page = full_page("words")
    page.status["refused_records"] = {
        "p.sketches": {"malformed": 1},
        "p.scores": {"out_of_range": 1_200, "foreign": 3},
    }
    html = render(page)
    lines = re.findall(r'<p class="warn">(On .*?)</p>', html)
    assert lines == [
        "On p.scores, 1 203 records are none of ours and passed over: 3 foreign, 1 200 out_of_range.",
        "On p.sketches, 1 record is none of ours and passed over: 1 malformed.",
    ]
    page.status["refused_records"] = {}
    assert "none of ours" not in render(page)


def test_what_a_worker_refused_is_exposed_by_topic_and_reason() -> None:
    refused = {"p.state": {"bad_key": 2, "malformed": 3}, "p.shared": {"foreign": 1}}
    text = expose(WORKER_METRICS, refusal_samples("streamgauge_refused_total", refused))
    assert 'streamgauge_refused_total{topic="p.state",reason="bad_key"} 2\n' in text
    assert 'streamgauge_refused_total{topic="p.state",reason="malformed"} 3\n' in text
    assert 'streamgauge_refused_total{topic="p.shared",reason="foreign"} 1\n' in text


def test_an_empty_monitor_has_a_page() -> None:
    html = render(
        Page("p", {}, {}, Health(live=True, ready=False, why="no partitions yet"), Tables(), datetime.now(UTC))
    )

    assert "no partitions yet" in html
    assert '<h2>Alerts that are open</h2>\n<p class="quiet">None.</p>' in html
    assert "Alerts before" not in html


def test_samples_are_exposed_under_declared_metrics_alone() -> None:
    samples = [
        Sample("streamgauge_monitor_rows_total", 12_345_678_901, {"table": "scores"}),
        Sample("streamgauge_monitor_lag", 2, {"topic": 'a"b\\', "partition": "0"}),
        Sample("streamgauge_monitor_active", 1, {}),
    ]

    text = expose(METRICS, samples)

    assert 'streamgauge_monitor_rows_total{table="scores"} 12345678901\n' in text
    assert 'streamgauge_monitor_lag{topic="a\\"b\\\\",partition="0"} 2\n' in text
    assert "streamgauge_monitor_active 1\n" in text
    assert re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) == [metric.name for metric in METRICS]


def test_what_has_not_been_read_is_not_called_empty() -> None:
    text = render(replace(full_page("x"), tables=Tables(), looked_at=None))
    assert "have not been read yet" in text
    assert "None" not in text
    assert "No window" not in text
    assert "None announced" in render(replace(full_page("x"), tables=Tables()))

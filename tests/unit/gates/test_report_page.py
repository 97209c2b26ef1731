from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from tasks.contracts.gate_reports import Figure, GateCheck, GateReport, Series
from tasks.contracts.stages import ArtifactKind
from tasks.gates.plots import axis, cut, short, svg
from tasks.gates.report_page import page
from tasks.gates.wording import in_words

DAYS = tuple(f"2026-01-{day:02}" for day in range(1, 31))


def check(name: str = "price", *, passed: bool = False, severity="critical") -> GateCheck:
    return GateCheck(
        name=name,
        expected="min 0",
        found="-4.0",
        where="in 118 of 2.1M rows (e.g. item <b>88121</b>)",
        severity=severity,
        passed=passed,
        expectation="expect_column_values_to_be_between",
        why="Fix the export.",
    )


def report(*checks: GateCheck, figures=()) -> GateReport:
    return GateReport(
        artifact="validated_events/" + "a" * 64,
        content="b" * 64,
        kind=ArtifactKind.VALIDATED_EVENTS,
        checks=checks,
        figures=figures,
        key_figures={"events": "2.1M"},
    )


def line_figure() -> Figure:
    values = tuple(float(day % 7) if day != 9 else None for day in range(30))
    return Figure(
        title="Events per day",
        shape="line",
        labels=DAYS,
        series=(Series(name="train", values=values),),
        bound=2.0,
    )


def intervals_figure() -> Figure:
    return Figure(
        title="Difference",
        shape="intervals",
        labels=("all", "tail"),
        series=(Series(name="d", values=(0.01, -0.002), low=(0.0, -0.01), high=(0.02, 0.01)),),
        bound=-0.005,
    )


def bars_figure() -> Figure:
    series = tuple(Series(name=name, values=(3.0, None)) for name in ("candidate", "stable"))
    return Figure(title="Latency", shape="bars", labels=("p50", "p99"), series=series)


@pytest.mark.parametrize(
    ("checks", "title", "words"),
    (
        ((check(passed=True),), "passed", "Passed"),
        ((check(severity="warning"),), "passed with warnings", "Passed with warnings"),
        ((check(), check(passed=True)), "refused", "Refused"),
    ),
)
def test_the_verdict_is_the_title_and_the_first_heading(checks, title, words) -> None:
    text = page(report(*checks))
    assert f"<title>Gate validated_events: {title}</title>" in text
    assert f"<h1>{words}</h1>" in text


def test_a_refusal_says_what_was_expected_and_found_and_what_to_do() -> None:
    text = page(report(check()))
    assert "What stopped it" in text
    assert "min 0 expected, <b>-4.0 found</b> in 118 of 2.1M rows" in text
    assert "Fix the export." in text


def test_what_comes_from_data_cannot_become_markup() -> None:
    text = page(report(check()))
    assert "item &lt;b&gt;88121&lt;/b&gt;" in text
    assert "<b>88121</b>" not in text


class Outside(HTMLParser):
    """Collects whatever would make a browser ask the network or run code."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag in {"script", "link", "img", "iframe", "object"}:
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name in {"src", "href"} or name[:2] == "on"]


def test_the_page_stands_alone() -> None:
    text = page(report(check(), figures=(line_figure(), intervals_figure(), bars_figure())))
    reader = Outside()
    reader.feed(text)
    assert reader.found == []
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_has_colours_for_dark_screens() -> None:
    assert "@media (prefers-color-scheme: dark)" in page(report(check()))


@pytest.mark.parametrize("figure", (line_figure(), intervals_figure(), bars_figure()))
def test_a_figure_is_well_formed_and_says_what_it_shows(figure) -> None:
    element = ET.fromstring(svg(figure))
    assert element.attrib["aria-label"] == figure.title
    numbers = [
        float(value)
        for part in element.iter()
        for name, value in part.attrib.items()
        if name in {"x", "x1", "x2", "cx"}
    ]
    assert min(numbers) >= 0
    assert max(numbers) <= 560


def test_a_line_is_broken_where_there_is_no_value() -> None:
    assert len(re.findall("<polyline", svg(line_figure()))) == 2


def test_an_empty_line_is_drawn_without_a_line() -> None:
    figure = Figure(
        title="nothing",
        shape="line",
        labels=("a", "b"),
        series=(Series(name="s", values=(None, None)),),
    )
    assert "<polyline" not in svg(figure)


def test_an_axis_has_round_ticks_around_all_values() -> None:
    found = axis([0.013, 0.131], 0, 100, with_zero=True)
    assert found.ticks == (0.0, 0.05, 0.1, 0.15)
    assert (found.at(0.0), found.at(0.15)) == (0, 100)


def test_an_axis_of_one_value_has_a_length() -> None:
    found = axis([5.0], 0, 100, with_zero=False)
    assert found.low <= 5.0 < found.high


@pytest.mark.parametrize(
    ("value", "text"),
    ((1_460_000.0, "1.46M"), (15_000.0, "15k"), (1_500.0, "1,500"), (0.0314, "0.0314"), (0, "0")),
)
def test_numbers_beside_bars_are_short(value, text) -> None:
    assert short(value) == text


def test_long_labels_are_cut() -> None:
    assert cut("personal_frequency_of_everybody", 10) == "personal_…"


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    (
        (2_100_000, "count", "2.1M"),
        (4_800, "count", "4,800"),
        (0.3, "share", "30.0 %"),
        (0.00052, "share", "0.052 %"),
        (-4.0, "number", "-4.0"),
        (0.000123456, "number", "0.0001235"),
        (3_200_000, "bytes", "3.20 MB"),
        (1.234, "ratio", "1.23 x"),
        (9.04, "ms", "9.0 ms"),
        (None, "count", "nothing"),
        (float("nan"), "number", "nothing"),
        (float("inf"), "number", "infinity"),
        ("stare", "number", "stare"),
    ),
)
def test_values_are_said_in_words(value, unit, words) -> None:
    assert in_words(value, unit) == words

"""Rows, verdicts and the Markdown of the bench."""

from __future__ import annotations

import json

from bench import table

CALL = next(row for row in table.ROWS if row.must is not None and row.must.bound == 12)
ADDED = next(row for row in table.ROWS if row.added and row.must is not None)


def _round(nginx: float, serve: float) -> dict[str, dict[str, float]]:
    return {"nginx": {"cpu_us": nginx}, "serve": {"cpu_us": serve}}


def test_line_passes_on_the_median_of_the_paired_ratios():
    """One loud round does not fail a must."""
    rounds = [_round(10, 100), _round(10, 110), _round(10, 500)]

    line = table.line(CALL, rounds, {})

    assert line.times_nginx["serve"].median == 11.0
    assert line.verdict == "pass"


def test_line_fails_above_the_bound():
    """The bound itself still passes."""
    assert table.line(CALL, [_round(10, 120)], {}).verdict == "pass"
    assert "FAIL" in table.line(CALL, [_round(10, 121)], {}).verdict


def test_line_fails_on_a_wrong_answer_however_fast():
    """Speed of wrong answers is none."""
    line = table.line(CALL, [_round(10, 20)], {"serve": 3})

    assert "FAIL" in line.verdict
    assert "3 errors" in line.verdict


def test_line_without_nginx_gives_no_verdict_on_a_ratio():
    """Not measured is neither pass nor fail."""
    assert table.line(CALL, [{"serve": {"cpu_us": 20.0}}], {}).verdict == "not measured"


def test_line_shows_what_is_added_to_the_direct_way():
    """An added row has the difference in its cells."""
    rounds = [{"direct": {"p50_ms": 1.0}, "serve": {"p50_ms": 1.25}}]

    assert table.line(ADDED, rounds, {}).cells["serve"].median == 0.25


def test_lines_leave_out_what_was_not_measured():
    """`--only` shows the rows of that measure alone."""
    made = table.lines({"call": [_round(10, 20)]}, {})

    assert {one.row.measure for one in made} == {"call"}


def test_number_has_three_digits():
    """Digits beyond the noise are noise."""
    assert [table.number(value) for value in (0.0, 0.123, 12.34, 1234.5, -0.5)] == [
        "0",
        "0.12",
        "12.3",
        "1,234",
        "-0.50",
    ]


def test_markdown_has_as_many_cells_in_each_line():
    """A table that renders."""
    rounds = [_round(10, 20), _round(11, 20)]
    out = table.markdown(table.lines({"call": rounds}, {})).splitlines()

    assert len({line.count("|") for line in out}) == 1
    assert "| 10.5 (10.0 to 11.0) | 20.0 | 1.91 (1.82 to 2.00) |" in out[2]


def test_records_are_json_without_markup():
    """The same rows for programs."""
    made = table.records(table.lines({"call": [_round(10, 200)]}, {}))

    assert json.loads(json.dumps(made))[0]["verdict"] == "FAIL"

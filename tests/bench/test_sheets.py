"""Tables with columns of their own: verdicts, Markdown, records."""

from __future__ import annotations

import json

import pytest

from bench import sheets
from bench.sheets import Bound, Sheet, SheetRow
from bench.suite import SCENARIOS

AT_LEAST = SheetRow("share", "share", "%", Bound(0.95, at_least=True))
AT_MOST = SheetRow("lag", "lag_ms", "ms", Bound(20.0, columns=("b",)))
SHEET = Sheet("Title", "measure", {"a": "column a", "b": "column b"}, (AT_LEAST, AT_MOST))


def test_lower_bound_holds_in_each_column():
    """One column below it fails the row, and is named."""
    good = sheets.sheet_line(SHEET, AT_LEAST, [{"a": {"share": 0.95}, "b": {"share": 1.0}}], {})
    bad = sheets.sheet_line(SHEET, AT_LEAST, [{"a": {"share": 0.94}, "b": {"share": 1.0}}], {})

    assert good.verdict == "pass"
    assert bad.verdict == "**FAIL**: column a"


def test_bound_looks_at_its_own_columns_only():
    """A column that is there for comparison has no must."""
    rounds = [{"a": {"lag_ms": 99.0}, "b": {"lag_ms": 20.0}}]

    assert sheets.sheet_line(SHEET, AT_MOST, rounds, {"a": 5}).verdict == "pass"


def test_bound_looks_at_the_median_of_the_rounds():
    """One loud round does not fail a must."""
    rounds = [{"b": {"lag_ms": value}} for value in (5.0, 6.0, 500.0)]

    assert sheets.sheet_line(SHEET, AT_MOST, rounds, {}).verdict == "pass"


def test_column_that_is_missing_is_no_pass():
    """Not measured is neither pass nor fail."""
    line = sheets.sheet_line(SHEET, AT_LEAST, [{"a": {"share": 1.0}}], {})

    assert line.verdict == "not measured"


def test_wrong_answers_fail_a_must():
    """Speed of wrong answers is none."""
    rounds = [{"a": {"share": 1.0}, "b": {"share": 1.0}}]

    assert sheets.sheet_line(SHEET, AT_LEAST, rounds, {"b": 2}).verdict == "**FAIL**: 2 errors"


def test_measure_that_failed_as_a_whole_fails_its_musts():
    """What could not start is no reason to call the run good."""
    line = sheets.sheet_line(SHEET, AT_LEAST, [{}], {sheets.WHOLE: 1})

    assert line.verdict == "**FAIL**: 1 errors"


def test_markdown_shows_shares_in_percent_and_as_many_cells_in_each_line():
    """A table that renders; a ratio is 0 to 1 inside and a percentage outside."""
    results = {"measure": [{"a": {"share": 0.5}, "b": {"share": 1.0, "lag_ms": 3.0}}]}
    out = sheets.sheet_markdown(SHEET, sheets.sheet_lines(SHEET, results, {})).splitlines()[2:]

    assert len({line.count("|") for line in out}) == 1
    assert "| share | % | 50.0 | 100 | >= 95 % | **FAIL**: column a |" in out


def test_records_are_json_without_markup():
    """The same rows for programs."""
    results = {"measure": [{"a": {"share": 0.5}, "b": {"share": 1.0}}]}
    made = sheets.sheet_records(SHEET, sheets.sheet_lines(SHEET, results, {}))

    assert json.loads(json.dumps(made))[0]["verdict"] == "FAIL: column a"


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_sheets_of_a_scenario_are_of_its_measure(name: str):
    """A sheet reads the results that its scenario writes, each metric once."""
    for sheet in SCENARIOS[name].sheets:
        metrics = [row.metric for row in sheet.rows]

        assert sheet.measure == name
        assert len(metrics) == len(set(metrics))

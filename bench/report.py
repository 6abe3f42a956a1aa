"""Markdown and JSON of a run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import TYPE_CHECKING

from bench import machine, sheets, table
from bench.stats import spread
from bench.suite import SCENARIOS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from bench.measure import Effort
    from bench.table import Results

    Errors = Mapping[str, Mapping[str, Counter[str]]]


def report(
    results: Results, errors: Errors, facts: dict[str, str], effort: Effort, took_s: float
) -> tuple[str, str]:
    """Markdown and JSON."""
    counts = {
        measure: {column: kinds.total() for column, kinds in found.items()}
        for measure, found in errors.items()
    }
    made = table.lines(results, counts)
    own = [
        (sheet, sheets.sheet_lines(sheet, results, counts))
        for name, scenario in SCENARIOS.items()
        if name in results
        for sheet in scenario.sheets
    ]
    day = dt.datetime.now(tz=dt.UTC).date().isoformat()
    text = [
        f"# Bench of {day}\n",
        *([table.markdown(made)] if made else []),
        *(sheets.sheet_markdown(sheet, lines) for sheet, lines in own),
        _legend(effort),
        _foreign(results) + "\n",
        machine.markdown(facts) + "\n",
        *_wrong(errors),
    ]
    rows = table.records(made)
    for sheet, lines in own:
        rows += sheets.sheet_records(sheet, lines)
    data = {
        "date": day,
        "machine": facts,
        "effort": dataclasses.asdict(effort),
        "took_s": round(took_s, 1),
        "rows": rows,
        "rounds": results,
        "errors": errors,
    }
    return "\n".join(text), json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _legend(effort: Effort) -> str:
    return (
        f"Median of {effort.rounds} interleaved rounds ({effort.held_rounds} with 1,000 streams "
        "and in tables with a heading), in brackets the lowest and the highest; `x nginx` and "
        "`added` are taken within each round. What the rows mean: `bench/README.md`.\n"
    )


def _foreign(results: Results) -> str:
    """How quiet the machine was, as one sentence."""
    shares = [
        numbers["foreign_ratio"]
        for rounds in results.values()
        for round_ in rounds
        for numbers in round_.values()
        if "foreign_ratio" in numbers
    ]
    found = spread(shares)
    if found is None:
        return ""
    loud = " **Not a quiet machine: take no figure from this.**" if found.median > 0.1 else ""
    return (
        f"Core under test used by others meanwhile: median {100 * found.median:.0f} %, "
        f"at most {100 * found.high:.0f} %.{loud}"
    )


def _wrong(errors: Errors) -> list[str]:
    wrong = [
        f"- {measure}, {column}: {count} x {kind.splitlines()[0]}"
        for measure, found in errors.items()
        for column, kinds in found.items()
        for kind, count in kinds.most_common(5)
    ]
    return ["## Errors\n", *wrong, ""] if wrong else []

"""Rows of the result: what was measured, what it must be, and whether it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.stats import Round, Spread, differences, ratios, spread, values

SYSTEMS: Final = ("direct", "nginx", "serve", "apart")
TITLES: Final = {
    "direct": "direct",
    "nginx": "nginx",
    "serve": "one process",
    "apart": "front and router apart",
}
BASE: Final = "direct"
"""What added times are added to."""
PROXY: Final = "nginx"
"""What costs are compared to."""

Of = Literal["value", "ratio", "added"]


@dataclass(frozen=True, slots=True)
class Must:
    """An upper bound on the median of the rounds. Source: section "Budget" of the design."""

    bound: float
    of: Of
    system: str = "serve"
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a metric of a measure."""

    title: str
    measure: str
    metric: str
    unit: str
    shown: tuple[str, ...] = SYSTEMS
    added: bool = False
    """Show what a system adds to the direct way, in each round, instead of the value."""
    ratio: bool = False
    """Show the ratio to nginx too."""
    must: Must | None = None


BETWEEN: Final = ("nginx", "serve", "apart")
OURS: Final = ("serve", "apart")

ROWS: Final = (
    Row(
        "CPU per call, 32 connections, not streamed",
        *("call", "cpu_us", "µs"),
        BETWEEN,
        ratio=True,
        must=Must(12, "ratio", goal="2 x nginx"),
    ),
    Row(
        "the same, front and router apart, both",
        *("call", "cpu_us", "µs"),
        ("apart",),
        must=Must(1300, "value", "apart", goal="link: 200 µs"),
    ),
    Row("calls per second on one core", "call", "calls_per_s", "1/s"),
    Row("share of that core used meanwhile", "call", "core_ratio", "%", BETWEEN),
    Row(
        "CPU per streamed event, 50 streams, paced",
        *("paced", "event_us", "µs"),
        BETWEEN,
        ratio=True,
        must=Must(3, "ratio", goal="1.3 x nginx"),
    ),
    Row("events per second meanwhile (5,000 wanted)", "paced", "events_per_s", "1/s"),
    Row("CPU per streamed event, 8 streams, burst", "burst", "event_us", "µs", BETWEEN, ratio=True),
    Row("latency at 50 calls/s, p50", "latency", "p50_ms", "ms"),
    Row("latency at 50 calls/s, p99", "latency", "p99_ms", "ms"),
    Row(
        "added latency at 50 calls/s, p50",
        *("latency", "p50_ms", "ms"),
        BETWEEN,
        added=True,
        must=Must(1, "added", goal="0.4 ms"),
    ),
    Row(
        "added latency at 50 calls/s, p99",
        *("latency", "p99_ms", "ms"),
        BETWEEN,
        added=True,
        must=Must(4, "added", goal="2 ms"),
    ),
    Row("CPU per call at 50 calls/s", "latency", "cpu_us", "µs", BETWEEN, ratio=True),
    Row("time to first chunk, p50", "chunk", "p50_ms", "ms"),
    Row("time to first chunk, p99", "chunk", "p99_ms", "ms"),
    Row(
        "added time to first chunk, p50",
        *("chunk", "p50_ms", "ms"),
        BETWEEN,
        added=True,
        must=Must(1, "added", goal="0.5 ms"),
    ),
    Row("added time to first chunk, p99", "chunk", "p99_ms", "ms", BETWEEN, added=True),
    Row("streams open at once", "held", "streams", "", ("direct", *OURS)),
    Row(
        "errors with 1,000 streams", "held", "errors", "", ("direct", *OURS), must=Must(0, "value")
    ),
    Row(
        "GET /health with 1,000 streams, p99",
        *("held", "health_p99_ms", "ms"),
        ("direct", *OURS),
    ),
    Row(
        "loop lag with 1,000 streams, p99",
        *("held", "lag_p99_ms", "ms"),
        ("direct", *OURS),
        must=Must(50, "value", goal="20 ms"),
    ),
    Row(
        "resident memory, idle",
        *("start", "resident_mb", "MB"),
        BETWEEN,
        must=Must(120, "value", goal="80 MB"),
    ),
    Row(
        "resident memory, 1,000 streams",
        *("held", "resident_mb", "MB"),
        OURS,
        must=Must(250, "value", goal="160 MB"),
    ),
    Row(
        "start to first answer",
        *("start", "start_s", "s"),
        BETWEEN,
        must=Must(1.5, "value", goal="0.7 s"),
    ),
)

Results = Mapping[str, Sequence[Round]]
"""Measure to its rounds."""

Errors = Mapping[str, Mapping[str, int]]
"""Measure to the count of wrong or missing answers of each system."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row with its figures."""

    row: Row
    cells: Mapping[str, Spread]
    times_nginx: Mapping[str, Spread]
    errors: int
    """Wrong answers of the system that the must is for."""
    verdict: str


def number(value: float) -> str:
    """Three significant digits, and no more than anyone reads."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def text(value: Spread | None, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    median, low, high = (number(factor * part) for part in (value.median, value.low, value.high))
    return f"{median} ({low} to {high})" if low != high else median


def _verdict(row: Row, figure: Spread | None, errors: int) -> str:
    if row.must is None:
        return ""
    if errors:
        return f"**FAIL**: {errors} errors"
    if figure is None or math.isnan(figure.median):
        return "not measured"
    return "pass" if figure.median <= row.must.bound else "**FAIL**"


def line(row: Row, rounds: Sequence[Round], errors: Mapping[str, int]) -> Line:
    """The figures of one row; a must that was missed in any answer's correctness fails."""
    cells: dict[str, Spread] = {}
    times: dict[str, Spread] = {}
    for system in row.shown:
        series = (
            differences(rounds, system, BASE, row.metric)
            if row.added
            else values(rounds, system, row.metric)
        )
        if (found := spread(series)) is not None:
            cells[system] = found
        if (
            row.ratio
            and system != PROXY
            and (found := spread(ratios(rounds, system, PROXY, row.metric))) is not None
        ):
            times[system] = found
    if row.must is None:
        return Line(row, cells, times, 0, "")
    source = times if row.must.of == "ratio" else cells
    wrong = errors.get(row.must.system, 0)
    verdict = _verdict(row, source.get(row.must.system), wrong)
    return Line(row, cells, times, wrong, verdict)


def lines(results: Results, errors: Errors) -> list[Line]:
    """All rows whose measure was run."""
    return [
        line(row, results[row.measure], errors.get(row.measure, {}))
        for row in ROWS
        if row.measure in results
    ]


def _must_text(row: Row) -> str:
    if row.must is None:
        return ""
    bound = f"{row.must.bound:,g}"
    return f"{bound} x nginx" if row.must.of == "ratio" else f"{bound} {row.unit}".strip()


def markdown(table: Sequence[Line]) -> str:
    """The table; each cell is the median of the rounds (lowest to highest)."""
    heads = [TITLES["direct"], TITLES["nginx"]]
    for system in OURS:
        heads += [TITLES[system], "x nginx"]
    names = ["", "unit", *heads, "must", "verdict", "goal"]
    out = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for one in table:
        row = one.row
        factor = 100.0 if row.unit == "%" else 1.0
        cells = [row.title, row.unit]
        for system in SYSTEMS:
            cells.append(text(one.cells.get(system), factor) if system in row.shown else "")
            if system in OURS:
                cells.append(text(one.times_nginx[system]) if system in one.times_nginx else "")
        goal = row.must.goal if row.must is not None else ""
        cells += [_must_text(row), one.verdict, goal]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def records(table: Sequence[Line]) -> list[dict[str, object]]:
    """The same for JSON."""
    return [
        {
            "title": one.row.title,
            "measure": one.row.measure,
            "metric": one.row.metric,
            "added": one.row.added,
            "unit": one.row.unit,
            "systems": {name: record(cell) for name, cell in one.cells.items()},
            "times_nginx": {name: record(cell) for name, cell in one.times_nginx.items()},
            "must": _must_text(one.row),
            "verdict": one.verdict.replace("*", ""),
        }
        for one in table
    ]


def record(cell: Spread) -> dict[str, float]:
    return {"median": cell.median, "low": cell.low, "high": cell.high}

"""Tables with columns of their own: replicas, bounds, faults, sizes. Rows as in `table.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.stats import Round, Spread, spread, values
from bench.table import Errors, Results, record, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


WHOLE: Final = "all"
"""Stands for all columns: where a measure failed as a whole, its errors are kept under this."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What the median of the rounds must be, in the columns named, or in all that the row has."""

    value: float
    at_least: bool = False
    """A lower bound instead of an upper one."""
    columns: tuple[str, ...] = ()

    def holds(self, median: float) -> bool:
        return median >= self.value if self.at_least else median <= self.value

    def words(self, unit: str) -> str:
        factor = 100.0 if unit == "%" else 1.0
        sign = ">= " if self.at_least else ""
        return f"{sign}{factor * self.value:,g} {unit}".strip()


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One metric over all columns."""

    title: str
    metric: str
    unit: str
    must: Bound | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table."""

    title: str
    measure: str
    columns: Mapping[str, str]
    """Column to its heading."""
    rows: tuple[SheetRow, ...]


@dataclass(frozen=True, slots=True)
class SheetLine:
    """A row with its figures."""

    row: SheetRow
    cells: Mapping[str, Spread]
    verdict: str


def sheet_line(
    sheet: Sheet, row: SheetRow, rounds: Sequence[Round], errors: Mapping[str, int]
) -> SheetLine:
    """The figures of one row; a wrong answer in a column that has a must fails it."""
    cells = {
        column: found
        for column in sheet.columns
        if (found := spread(values(rounds, column, row.metric))) is not None
    }
    return SheetLine(row, cells, _verdict(sheet, row, cells, errors))


def _verdict(
    sheet: Sheet, row: SheetRow, cells: Mapping[str, Spread], errors: Mapping[str, int]
) -> str:
    if row.must is None:
        return ""
    columns = row.must.columns or tuple(sheet.columns)
    wrong = sum(errors.get(column, 0) for column in (*columns, WHOLE))
    if wrong:
        return f"**FAIL**: {wrong} errors"
    missed = [c for c in columns if c in cells and not row.must.holds(cells[c].median)]
    if missed:
        return "**FAIL**: " + ", ".join(sheet.columns[column] for column in missed)
    return "pass" if all(column in cells for column in columns) else "not measured"


def sheet_lines(sheet: Sheet, results: Results, errors: Errors) -> list[SheetLine]:
    """All rows of a sheet."""
    rounds, wrong = results[sheet.measure], errors.get(sheet.measure, {})
    return [sheet_line(sheet, row, rounds, wrong) for row in sheet.rows]


def sheet_markdown(sheet: Sheet, lines: Sequence[SheetLine]) -> str:
    """Heading and table; columns must and verdict only where there is a must."""
    has_must = any(line.row.must is not None for line in lines)
    ends = ["must", "verdict"] if has_must else []
    names = ["", "unit", *sheet.columns.values(), *ends]
    out = [f"## {sheet.title}\n", _cells(names), "|" + "---|" * len(names)]
    for line in lines:
        row, factor = line.row, 100.0 if line.row.unit == "%" else 1.0
        cells = [text(line.cells.get(column), factor) for column in sheet.columns]
        must = row.must.words(row.unit) if row.must is not None else ""
        out.append(_cells([row.title, row.unit, *cells, *([must, line.verdict] if ends else [])]))
    return "\n".join(out) + "\n"


def _cells(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"


def sheet_records(sheet: Sheet, lines: Sequence[SheetLine]) -> list[dict[str, object]]:
    """The same for JSON."""
    return [
        {
            "sheet": sheet.title,
            "title": line.row.title,
            "measure": sheet.measure,
            "metric": line.row.metric,
            "unit": line.row.unit,
            "columns": {column: record(cell) for column, cell in line.cells.items()},
            "must": line.row.must.words(line.row.unit) if line.row.must is not None else "",
            "verdict": line.verdict.replace("*", ""),
        }
        for line in lines
    ]

"""Keeps what a backend publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin import EndpointReport
    from first_core.types import Operation


class Board:
    """The publisher that the kit hands to `Backend.start`."""

    def __init__(self) -> None:
        self.reports: tuple[EndpointReport, ...] = ()
        """What the backend said last."""
        self.seen: list[EndpointReport] = []
        """All it ever said."""

    def publish(self, reports: Sequence[EndpointReport]) -> None:
        """Take all endpoints as they stand now."""
        self.reports = tuple(reports)
        self.seen += self.reports

    def ready(self, operation: Operation) -> EndpointReport | None:
        """Return the first endpoint that is ready for `operation`."""
        return next(
            (
                report
                for report in self.reports
                if report.state is EndpointState.READY and operation in report.operations
            ),
            None,
        )

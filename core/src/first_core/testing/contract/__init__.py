"""The contract kit: a backend is right when these rules say so.

Derive from `BackendContract`, override the fixture `backend`, and run pytest. The kit talks to
the backend as the router does, and plays the upstream with a `Simulator` on a real socket.
How to use it: docs/how-to/contract-kit.md.
"""

from __future__ import annotations

from first_core.testing.contract.board import Board
from first_core.testing.contract.kit import BackendContract
from first_core.testing.contract.samples import SAMPLES, Sample
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.subject import Reply, Subject, Way
from first_core.testing.contract.verdict import RuleBrokenError

__all__ = [
    "SAMPLES",
    "BackendContract",
    "Board",
    "RecordingSink",
    "Reply",
    "RuleBrokenError",
    "Sample",
    "Subject",
    "Way",
]

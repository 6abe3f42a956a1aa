"""Environment and time have one door each.

Imports are checked by the contracts in pyproject.toml, which scripts/check runs.
"""

from __future__ import annotations

import ast

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}

TIME = {
    "asyncio.sleep",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.now",
    "dt.datetime.now",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.sleep",
    "time.time",
    "time.time_ns",
}

READS_TIME = (
    "core/src/first_core/clock.py",
    # A deadline of gRPC runs on the machine's time, whatever the carrier.
    "core/src/first_core/rpc/direct.py",
    # Plays another process and judges with patience; neither is under the clock of the tested.
    "core/src/first_core/testing/",
    # Runs alone, on a compute node.
    "plugins/first_globus/src/first_globus/functions/",
)

READS_ENVIRONMENT = (
    "core/src/first_core/settings.py",
    "plugins/first_globus/src/first_globus/functions/inference.py",  # runs alone as well
)


def uses(text, names):
    """Dotted names in a module that are among `names`."""
    return {ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)} & (
        names
    )


def test_environment_is_read_by_settings(sources):
    """No module but settings.py reads the environment."""
    found = {path for path, text in sources.items() if uses(text, ENVIRONMENT)}

    assert found == set(READS_ENVIRONMENT)


def test_time_is_read_by_the_clock(sources):
    """No module but clock.py reads time or sleeps, so that tests can hold and move it."""
    found = {path for path, text in sources.items() if uses(text, TIME)}

    assert {path for path in found if not path.startswith(READS_TIME)} == set()


def test_names_have_found_their_noun(sources):
    """No module is called after nothing."""
    empty = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

    assert [p for p in sources if p.rpartition("/")[2].removesuffix(".py") in empty] == []


def test_annotations_are_lazy(sources):
    """Each module that has code begins with `from __future__ import annotations`."""
    missing = [
        path
        for path, text in sources.items()
        if "from __future__ import annotations" not in text and len(ast.parse(text).body) > 1
    ]

    assert missing == []

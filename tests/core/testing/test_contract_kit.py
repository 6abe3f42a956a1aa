"""The contract kit finds backends that are wrong, and checks how it is used."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from first_core.testing import BackendContract

if TYPE_CHECKING:
    from types import ModuleType

BACKENDS = Path(__file__).with_name("broken_backends.py")
ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs/how-to/contract-kit.md"
RULES = sorted(name for name in dir(BackendContract) if name.startswith("test_"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


BROKEN: dict[str, set[str]] = load(BACKENDS).BROKEN
PAIRS = sorted((name, rule) for rule, names in BROKEN.items() for name in names)
RIGHT = ("TestReference", "TestModest")

Verdicts = dict[tuple[str, str], list[str]]
"""Class and rule to what came of each of its tests: "" or the failure's message."""


def run_pytest(*arguments: str | Path, report: Path) -> Verdicts:
    """Run pytest in a process of its own.

    With plain tracebacks: others parse sources, and CPython 3.11 gives up (gh-106905) where
    something that was left open is collected meanwhile.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=native"]
    ended = subprocess.run(
        [*command, f"--junitxml={report}", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert report.exists(), ended.stdout + ended.stderr
    verdicts: Verdicts = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own report
        name = case.get("name", "").partition("[")[0]
        parts = [part for part in case if part.tag in {"failure", "error"}]
        failures = [f"{part.tag}: {part.get('message', '')}" for part in parts]
        key = (case.get("classname", "").rpartition(".")[2], name)
        verdicts.setdefault(key, []).append("\n".join(failures))
    return verdicts


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    chosen = [f"{BACKENDS}::{name}::{rule}" for name, rule in PAIRS]
    report = tmp_path_factory.mktemp("kit") / "report.xml"
    # Wrong backends leave things open, and what that leads to is not what is tested here.
    right = [f"{BACKENDS}::{name}" for name in RIGHT]
    return run_pytest("-W", "ignore", *right, *chosen, report=report)


@pytest.mark.parametrize("rule", RULES)
def test_kit_has_a_broken_backend_for_each_rule(rule: str) -> None:
    """No rule is without a backend that breaks it."""
    assert BROKEN.get(rule)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("rule", RULES)
def test_kit_passes_a_right_backend(verdicts: Verdicts, name: str, rule: str) -> None:
    """The backend from which the wrong ones derive keeps each rule; so does one that can little."""
    assert set(verdicts[name, rule]) == {""}


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_kit_finds_what_is_broken(verdicts: Verdicts, name: str, rule: str) -> None:
    """A backend that breaks a rule fails that rule, with the kit's own verdict."""
    failures = "\n".join(verdicts[name, rule])

    assert re.search(r"^failure: .*RuleBrokenError", failures, re.MULTILINE), failures


@pytest.mark.parametrize("rule", RULES)
def test_kit_says_where_to_look(rule: str) -> None:
    """The docstring of each rule states it, and says where to look when it fails."""
    first, _, rest = (getattr(BackendContract, rule).__doc__ or "").partition("\n")

    assert first.endswith(".")
    assert "Look" in rest


@pytest.mark.parametrize("rule", RULES)
def test_kit_has_each_rule_in_its_guide(rule: str) -> None:
    """The guide names each rule."""
    assert f"`{rule}`" in GUIDE.read_text()


def test_kit_refuses_an_override_without_a_reason() -> None:
    """A rule is not overridden in silence."""
    with pytest.raises(TypeError, match=r"Mine\.test_total_ends_a_call overrides a rule"):

        class Mine(BackendContract):
            async def test_total_ends_a_call(self) -> None:
                pass


@pytest.mark.parametrize(
    "mark", [pytest.mark.xfail, pytest.mark.xfail(reason=""), pytest.mark.skip(reason="no")]
)
def test_kit_refuses_another_mark(mark: pytest.MarkDecorator) -> None:
    """Only an expected failure with a reason may stand in for a rule."""

    async def test_total_ends_a_call(self) -> None:
        pass

    with pytest.raises(TypeError, match="xfail"):
        type("Mine", (BackendContract,), {"test_total_ends_a_call": mark(test_total_ends_a_call)})


def test_kit_refuses_a_rule_set_to_none() -> None:
    """A rule cannot be taken out."""
    with pytest.raises(TypeError, match="xfail"):
        type("Mine", (BackendContract,), {"test_total_ends_a_call": None})


def test_kit_takes_an_override_with_a_reason() -> None:
    """A reason, and tests of one's own, are fine."""

    class Mine(BackendContract):
        @pytest.mark.xfail(reason="the fabric has no clock")
        async def test_total_ends_a_call(self) -> None:
            pass

        async def test_something_of_mine(self) -> None:
            pass

    assert Mine.test_total_ends_a_call is not BackendContract.test_total_ends_a_call


def test_kit_needs_pytest_only_itself() -> None:
    """The simulator, which the demo runs, loads without pytest."""
    code = "import sys, first_core.testing.simulator; sys.exit('pytest' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kit_guide_runs(tmp_path: Path) -> None:
    """The sample in the guide is whole, and keeps the contract."""
    samples = re.findall(r"```python title=\"(\w+\.py)\"\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for name, code in samples:
        (tmp_path / name).write_text(code)
    settings = "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    (tmp_path / "pytest.ini").write_text(settings)
    arguments = ["-c", tmp_path / "pytest.ini", "--rootdir", tmp_path, tmp_path]
    seen = run_pytest(*arguments, report=tmp_path / "report.xml")

    assert {rule for _, rule in seen} >= set(RULES)
    assert {failure for failures in seen.values() for failure in failures} == {""}

"""Every distribution has the same shape."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEMBERS = WORKSPACE["tool"]["uv"]["workspace"]["members"]


def project(member):
    return tomllib.loads((ROOT / member / "pyproject.toml").read_text())


def test_workspace_has_all_distributions():
    """Each folder with a pyproject.toml is a member of the workspace, and a source in it."""
    found = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    names = {project(member)["project"]["name"] for member in MEMBERS}

    assert sorted(MEMBERS) == sorted(str(p.parent.relative_to(ROOT)) for p in found)
    assert set(WORKSPACE["tool"]["uv"]["sources"]) == names


@pytest.mark.parametrize("member", MEMBERS)
def test_versions_are_equal(member):
    """All distributions share one version, that of the workspace."""
    assert project(member)["project"]["version"] == WORKSPACE["project"]["version"]


@pytest.mark.parametrize("member", MEMBERS)
def test_project_is_told(member):
    """Each says what it is, under which licence, and for which Python."""
    about = project(member)["project"]

    assert about["description"].endswith(".")
    assert about["license"] == "Apache-2.0"
    assert about["requires-python"] == WORKSPACE["project"]["requires-python"]
    assert (ROOT / member / about["readme"]).read_text().startswith(f"# {about['name']}\n")


@pytest.mark.parametrize("member", MEMBERS)
def test_package_is_where_its_name_says(member):
    """The distribution `first-x` holds the typed package `src/first_x` and nothing else."""
    package = project(member)["project"]["name"].replace("-", "_")
    source = ROOT / member / "src"

    assert [path.name for path in source.iterdir()] == [package]
    assert (source / package / "py.typed").is_file()
    wheel = project(member)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == [f"src/{package}"]


@pytest.mark.parametrize("member", MEMBERS)
def test_plugins_are_found_by_entry_point(member):
    """Plugins and the front name a module `plugin`, and the core version that they accept."""
    about = project(member)["project"]
    if about["name"] in {"first-core", "first-proto"}:
        pytest.skip("no plugin")
    ((_, target),) = about["entry-points"]["first.plugins"].items()
    major, minor = about["version"].split(".")[:2]

    assert target == f"{about['name'].replace('-', '_')}.plugin"
    assert importlib.import_module(target)
    needs = [need for need in about["dependencies"] if need.startswith("first-core")]
    assert needs == [f"first-core>={major}.{minor},<{major}.{int(minor) + 1}"]

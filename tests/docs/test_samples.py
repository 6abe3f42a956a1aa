"""What the pages show works."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from first_core.app import Process, load_host, read_settings
from first_core.cli.group import first
from first_core.plugin import Backend
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import OPERATION_PATHS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
BOUND_S = 50.0


@dataclass(frozen=True)
class Sample:
    page: str
    number: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.language}-{self.number}"


def samples(language):
    """All samples in a language, in the order of the pages."""
    return [
        Sample(str(page.relative_to(ROOT)), number, language, match[3])
        for page in PAGES
        for number, match in enumerate(FENCE.finditer(page.read_text()), 1)
        if match[1] == language
    ]


def python_of(*pages):
    return [sample for sample in samples("python") if sample.page in pages]


def commands():
    """Each line of a shell sample that calls `first`, continuation lines joined."""
    found = []
    for sample in samples("sh"):
        for line in sample.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and words[0] in {"first", "scripts/first"}:
                found.append((str(sample), words[1:]))
    return found


def slugs(page):
    """Anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Each link to a file names one that is there, and each anchor a heading."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if ":" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page

        assert path.exists(), target
        assert not anchor or anchor in slugs(path), target


@pytest.mark.parametrize(
    "sample", [s for s in samples("yaml") if "/reference/" not in s.page], ids=str
)
def test_settings_are_valid(sample, tmp_path, monkeypatch):
    """Each settings file on a page passes `first config check`, where its secrets are there."""
    text = re.sub(r"\{file: [^}]+\}", "{env: KEY_IN_A_FILE}", sample.text)
    for name in re.findall(r"env: (\w+)", text):
        monkeypatch.setenv(name, "secret")
    path = tmp_path / "first.yaml"
    path.write_text(text)

    assert read_settings(path, load_host(path)).source == path


@pytest.mark.parametrize(("sample", "words"), commands())
def test_commands_exist(sample, words):
    """Each `first` on a page has a command and options that exist."""
    context = click.Context(first, info_name="first")
    command = first
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(context, words[0])
        words = words[1:]
        assert command is not None, sample
    if isinstance(command, click.Group):
        return

    command.make_context(command.name, list(words))


@pytest.mark.parametrize("sample", samples("sh"), ids=str)
def test_curl_lines_are_right(sample):
    """The body of each curl line is JSON, and its path is one of ours."""
    paths = {f"/{path}" for path in OPERATION_PATHS.values()} | {"/metrics"}
    for line in sample.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "curl":
            continue
        address = next(word for word in words if word.startswith("http://"))

        assert address.removeprefix("http://127.0.0.1:8080") in paths
        assert "-d" not in words or json.loads(words[words.index("-d") + 1])


@asynccontextmanager
async def running_gateway(folder):
    """The gateway of the demo, on free ports; yields the addresses as the pages have them."""
    settings = SimulatorSettings(models=("sim-common",), natural_token_count=5)
    async with Simulator(settings) as sim:
        path = folder / "first.yaml"
        path.write_text(
            "http: {listen: 127.0.0.1:0}\ngrpc: {listen: 127.0.0.1:0}\n"
            f"vllm: {{servers: [{{url: {sim.url}, cluster: north}}]}}\n"
            "plugins: {allow: [gateway_http, vllm]}\n"
        )
        host = load_host(path)
        process = Process(read_settings(path, host), host)
        try:
            addresses = await process.start()
            by_scheme = dict(address.split("://") for address in addresses)
            yield {"127.0.0.1:8080": by_scheme["http"], "127.0.0.1:50051": by_scheme["grpc"]}
        finally:
            await process.stop()


@pytest.mark.parametrize("sample", python_of("README.md", "docs/how-to/grpc-clients.md"), ids=str)
async def test_programs_run(sample, tmp_path):
    """Programs that call the gateway print its answer."""
    async with running_gateway(tmp_path) as addresses:
        text = sample.text
        for shown, real in addresses.items():
            text = text.replace(shown, real)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", text),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        )
        async with asyncio.timeout(BOUND_S):
            out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert b"simulated" in out or b"tokens: 5" in out


@pytest.mark.parametrize("sample", python_of("docs/how-to/write-a-backend.md"), ids=str)
def test_backend_of_the_guide_is_whole(sample):
    """The class that the guide shows leaves no method of `Backend` out."""
    names = {}
    exec(compile(sample.text, str(sample), "exec"), names)  # noqa: S102 - our own page

    assert issubclass(names["MyBackend"], Backend)
    assert names["MyBackend"].__abstractmethods__ == frozenset()

"""`first config` and `first plugins`."""

from __future__ import annotations

import json


async def test_check_accepts_a_good_file(cli, settings):
    """A good file gives one line and 0."""
    ended = await cli("config", "check", settings)

    assert (ended.code, ended.out, ended.err) == (0, f"OK: {settings}\n", "")


async def test_check_without_a_file(cli):
    """No file is fine too, and it says so."""
    ended = await cli("config", "check")

    assert ended.code == 0
    assert ended.out.startswith("OK: no settings file")


async def test_check_tells_each_fault_with_its_line(cli):
    """Each fault is a line `file:line: key: what is allowed`; the exit code is 2."""
    path = cli.write("bad.yaml", "grpc:\n  listen: 1\nvllm:\n  servers:\n    - {cluster: x}\n")

    ended = await cli("config", "check", path)

    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.splitlines() == [
        f"{path}:2: grpc.listen: Input should be a valid string",
        f"{path}:5: vllm.servers[0].url: Field required",
    ]


async def test_check_tells_a_missing_secret(cli):
    """A secret that is named and not there is a fault; its place is told, never a value."""
    path = cli.write("x.yaml", "vllm: {servers: [{url: 'http://h:1', api_key: {env: NO_SUCH}}]}\n")

    ended = await cli("config", "check", path)

    assert ended.code == 2
    assert "environment variable NO_SUCH is not set or empty" in ended.err


async def test_check_tells_a_file_that_is_not_there(cli):
    """A file that is named must exist."""
    ended = await cli("config", "check", "nowhere.yaml")

    assert (ended.code, ended.err) == (2, "nowhere.yaml: No such file or directory\n")


async def test_check_tells_a_plugin_that_is_not_installed(cli):
    """`plugins.allow` names what is installed."""
    path = cli.write("x.yaml", "plugins: {allow: [warp]}\n")

    ended = await cli("config", "check", path)

    assert ended.code == 2
    assert "warp" in ended.err
    assert "Traceback" not in ended.err


async def test_schema_covers_plugins(cli):
    """The schema is JSON and has the core's sections and those of the plugins."""
    ended = await cli("config", "schema")

    schema = json.loads(ended.out)
    assert schema["additionalProperties"] is False
    assert {"grpc", "log", "http", "vllm", "direct"} <= set(schema["properties"])


async def test_schema_has_no_secret_values(cli):
    """What is in the environment does not reach the schema."""
    cli.env["OPENAI_API_KEY"] = "sk-very-secret"

    ended = await cli("config", "schema")

    assert "sk-very-secret" not in ended.out


async def test_plugins_lists_what_is_installed(cli):
    """Each plugin stands with distribution, version and hooks."""
    ended = await cli("plugins")

    line = next(line for line in ended.out.splitlines() if line.startswith("vllm "))
    assert line.split()[1:3] == ["first-vllm", "0.1.0"]
    assert "first_register_backends" in line


async def test_plugins_json_obeys_the_allow_list(cli):
    """A script gets the same as JSON; only what the settings allow is loaded."""
    path = cli.write("x.yaml", "plugins: {allow: [vllm]}\n")

    ended = await cli("plugins", "--json", "--config", path)

    found = {plugin["name"]: plugin["distribution"] for plugin in json.loads(ended.out)}
    assert found == {"peering": "first-core", "policies": "first-core", "vllm": "first-vllm"}

"""docs/reference/settings.md, from the models of all sections."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from docs_pages import NOTE, one_line, table
from first_core.app import add_built_ins
from first_core.plugin.host import PluginHost
from first_core.settings import settings_model
from first_core.types import Operation

INTRO = """\
# Settings

One file in YAML, `first.yaml` by default: see `first serve --help` for where it is looked for.
`first config check` checks it, and `first config schema` prints its JSON schema for editors.
Keys that are not known are refused, so a misspelt one is told and not ignored.
Every key may be left out, unless its default says *required*.

## Secrets

A secret never stands in this file.
Where a type below says *secret*, name the place of the secret, one of the two:

```yaml
api_key: {env: MY_KEY}          # environment variable
api_key: {file: /run/my-key}    # file; white space around the secret is dropped
```
"""

OUTRO = """\
## Operations

What a model can be asked, as settings name it, and its path over HTTP:
"""

OPERATIONS = [operation.name.lower() for operation in Operation]

PLUGINS = ("direct", "gateway_http", "globus", "vllm")
"""Those of this repository; others that are installed here do not belong on the page."""

CORE = ("grpc", "limits", "timeouts", "telemetry", "log", "plugins")


def page() -> str:
    """Return the page."""
    host = PluginHost(allow=PLUGINS)
    add_built_ins(host)
    host.load()
    schema = settings_model(host.settings_sections().offers()).model_json_schema()
    writer = _Writer(schema)
    properties = schema["properties"]
    sections = [key for key in properties if _ref(properties[key])]
    order = [*CORE, *sorted(set(sections) - set(CORE))]
    lines = [NOTE, "", INTRO]
    top = {key: node for key, node in properties.items() if key not in sections}
    lines += ["## Top level", "", *writer.rows(top, ""), ""]
    for key in order:
        lines += writer.section(key)
    lines += writer.shared_sections()
    paths = [[f"`{each.name.lower()}`", f"`POST /{each.path}`"] for each in Operation]
    lines += [OUTRO, *table(["Operation", "Path"], paths)]
    return "\n".join(lines).rstrip() + "\n"


class _Writer:
    """Writes sections; what several of them share becomes a section of its own."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._defs = schema["$defs"]
        uses = Counter(_all_refs(schema))
        self._shared = sorted(
            name for name, count in uses.items() if count > 1 and name != "Secret"
        )

    def section(self, key: str) -> list[str]:
        node = self._defs[_ref(self._schema["properties"][key])]
        title = [f"## `{key}`", "", one_line(node.get("description", "")), ""]
        return [*title, *self.rows(node["properties"], f"{key}.", node.get("required", ())), ""]

    def shared_sections(self) -> list[str]:
        lines = []
        for name in self._shared:
            node = self._defs[name]
            lines += [f"## {_title(name)}", "", one_line(node.get("description", "")), ""]
            lines += [*self.rows(node["properties"], "", node.get("required", ())), ""]
        return lines

    def rows(self, properties: Any, prefix: str, required: Any = ()) -> list[str]:
        found = self._flat(properties, prefix, required)
        return table(["Key", "Type", "Default", "Meaning"], found)

    def _flat(self, properties: Any, prefix: str, required: Any) -> list[list[str]]:
        found = []
        for key, node in properties.items():
            name = f"{prefix}{key}"
            default = "*required*" if key in required else _default(node)
            meaning = one_line(node.get("description", ""))
            found.append([f"`{name}`", self._type(node), default, meaning])
            nested, marks = self._nested(node)
            if nested is not None:
                below = f"{name}{marks}."
                found += self._flat(nested["properties"], below, nested.get("required", ()))
        return found

    def _nested(self, node: Any) -> tuple[Any, str]:
        """Return the model that stands only here, and how its keys are reached."""
        marks = ""
        if node.get("type") == "array":
            node, marks = node["items"], "[]"
        name = _ref(node)
        if not name or name == "Secret" or name in self._shared:
            return None, ""
        return self._defs[name], marks

    def _type(self, node: Any) -> str:
        if name := _ref(node):
            return self._model(name)
        if "anyOf" in node:
            return " or ".join(self._type(branch) for branch in node["anyOf"])
        if "enum" in node:
            return _choice(node["enum"])
        kind = node.get("type", "any")
        if kind == "array":
            return f"list of {self._type(node['items'])}"
        if kind == "object":
            return f"mapping of names to {self._type(node.get('additionalProperties') or {})}"
        return {"null": "`null`"}.get(kind, kind) + _range(node)

    def _model(self, name: str) -> str:
        if name == "Secret":
            return "[secret](#secrets)"
        if name not in self._shared:
            return "section"
        return f"[section](#{_title(name).lower().replace(' ', '-')})"


def _choice(values: list[str]) -> str:
    if values == OPERATIONS:
        return "[operation](#operations)"
    return ", ".join(f"`{value}`" for value in values)


def _ref(node: Any) -> str:
    ref = node.get("$ref") or next((b["$ref"] for b in node.get("allOf", ())), "")
    return ref.rsplit("/", 1)[-1]


def _all_refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [_ref(node)] if "$ref" in node else []
        return own + [name for child in node.values() for name in _all_refs(child)]
    if isinstance(node, list):
        return [name for child in node for name in _all_refs(child)]
    return []


def _range(node: Any) -> str:
    words = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    found = [f"{word} {node[key]:g}" for key, word in words.items() if key in node]
    if node.get("minLength"):
        found.append("not empty")
    return f", {' '.join(found)}" if found else ""


def _default(node: Any) -> str:
    if "default" not in node or isinstance(node["default"], dict):
        return ""
    value = node["default"]
    return f"`{json.dumps(value)}`"


def _title(name: str) -> str:
    """`UpstreamSettings` -> `Upstream settings`."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return words[0].upper() + words[1:]

#!/usr/bin/env python3
"""Generates the Python code of the protos into `proto/src/first_proto`.

Names on the wire stay `first.*`; the Python package is `first_proto`, since PyPI has a package that
installs a top-level `first`. With `--check` nothing is written: the exit code is 1
and the files are named when what is checked in differs from what would be generated.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = PROTO / "src" / "first_proto"
IMPORT = re.compile(r"^from first\.([\w.]+) import", re.MULTILINE)


def generate(out: Path) -> dict[str, str]:
    """Return path below `TARGET` -> text of every generated module."""
    sources = sorted(str(p.relative_to(PROTO)) for p in (PROTO / "first").rglob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTO}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *sources,
        ],
        check=True,
    )
    files = {}
    for path in sorted(p for p in (out / "first").rglob("*") if p.is_file()):
        text = IMPORT.sub(r"from first_proto.\1 import", path.read_text())
        name = path.relative_to(out / "first")
        files[str(name)] = text
        package = ".".join(name.parent.parts)
        doc = f'"""The contract first.{package}; generated, see scripts/gen_protos.py."""\n'
        files[str(name.parent / "__init__.py")] = doc
    return files


def checked_in() -> dict[str, str]:
    """Return path below `TARGET` -> text of what stands there now, the package itself left out."""
    found = [p for p in TARGET.rglob("*.py*") if p.parent != TARGET and p.suffix in {".py", ".pyi"}]
    return {str(p.relative_to(TARGET)): p.read_text() for p in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, tell differences")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as tmp:
        files = generate(Path(tmp))
    present = checked_in()
    stale = sorted(n for n in files | present if files.get(n) != present.get(n))
    if check:
        for name in stale:
            print(f"differs from its proto: {TARGET.relative_to(ROOT) / name}", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        if name in files:
            (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
            (TARGET / name).write_text(files[name])
        else:
            (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/env python3
"""Generates the Python code of the protos into `proto/src/first_proto/v1`.

Names on the wire stay `first.v1.*`; the Python package is `first_proto.v1`, since PyPI has a
package that installs a top-level `first`. With `--check` nothing is written: the exit code is 1
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
TARGET = PROTO / "src" / "first_proto" / "v1"
IMPORT = re.compile(r"^from first\.v1 import", re.MULTILINE)
PYI_IMPORT = re.compile(r"\bfirst\.v1\b(?=[ .]\w*(?:_pb2| import))")


def generate(out: Path) -> dict[str, str]:
    """Return name -> text of every generated module."""
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
    for path in sorted((out / "first" / "v1").iterdir()):
        text = IMPORT.sub("from first_proto.v1 import", path.read_text())
        files[path.name] = text
    files["__init__.py"] = '"""The contract first.v1; generated, see scripts/gen_protos.py."""\n'
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, tell differences")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as tmp:
        files = generate(Path(tmp))
    TARGET.mkdir(parents=True, exist_ok=True)
    present = {p.name: p.read_text() for p in TARGET.iterdir() if p.is_file()}
    stale = sorted(n for n in files | present if files.get(n) != present.get(n))
    if check:
        for name in stale:
            print(f"differs from its proto: {TARGET.relative_to(ROOT) / name}", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        if name in files:
            (TARGET / name).write_text(files[name])
        else:
            (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

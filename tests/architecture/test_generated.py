"""What is made from code is as the code would make it."""

from __future__ import annotations

import subprocess
import sys


def test_reference_pages_are_up_to_date(root):
    """scripts/gen_docs.py would write what is checked in."""
    command = [sys.executable, "scripts/gen_docs.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr

"""The parts of the page that need no browser, in Node.js."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(not NODE, reason="needs Node.js 18 or newer: apt-get install nodejs")
def test_parts_without_a_browser(repository: Path) -> None:
    script = repository / "Testing" / "server" / "page_parts.test.mjs"
    done = subprocess.run([str(NODE), "--test", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

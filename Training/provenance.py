"""What a run was made with: versions of the packages, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("numpy", "safetensors", "scipy", "SimpleITK", "transformers")


def package_versions() -> dict[str, str]:
    """Versions that the numbers of a run depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__} | {n: version(n) for n in _PACKAGES}


@cache
def git_commit(folder: Path | None = None) -> str:
    """Commit of the code, with "+changes" where files differ from it; "" outside of a repository.

    Args:
        folder: A folder of the checkout; the one that this file lies in by default.
    """
    folder = folder or Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""What every test runs under: no network, no display, no files outside its own folder, no luck."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before any test imports the libraries that read them.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MEDSAM3_TEXT_CACHE"] = "0"  # it is the user's; the tests of it have one of their own

# The same examples in every run, and no time limit: a slow machine is not a failure.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Top folder of the checkout."""
    return Path(__file__).resolve().parent.parent

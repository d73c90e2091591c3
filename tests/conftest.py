"""What every test may ask for: seeds, the real data sets, a browser."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

# Before any Hugging Face library is imported, here or in a subprocess: no test reaches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tables are as wide as their default, whatever terminal the suite is started from.
os.environ.pop("COLUMNS", None)

import numpy as np
import pytest
import torch
from hypothesis import settings

# No deadline: the suite also runs on machines that are busy with something else.
settings.register_profile("holdfast", deadline=None, derandomize=True, database=None)
settings.load_profile("holdfast")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds the global generators before each test, so that a test alone and a test in the suite do the same."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def holdfast_data() -> Path:
    """The folder with the real data sets."""
    folder = os.environ.get("HOLDFAST_DATA")
    if not folder:
        pytest.skip("HOLDFAST_DATA does not name a folder with the real data sets")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"HOLDFAST_DATA names {folder!r}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium or Chrome that can run headless."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium")

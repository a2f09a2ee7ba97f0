"""The site that was built, where ``make docs`` has just built one."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "extensions"))


@pytest.fixture
def site():
    """The folder of the site; ``make docs`` names it in SITE, and other runs skip what asks for it."""
    if "SITE" not in os.environ:
        pytest.skip("there is no site to look at; make docs builds it and runs this test")
    return ROOT / os.environ["SITE"]

"""Chromium for the tests that open pages, or the reason why there is none."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
COMMAND = next(filter(None, map(shutil.which, _NAMES)), None)


def _missing() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: pip install -e '.[capture]'"
    own = Path.home().glob(".cache/ms-playwright/chromium-*/*/chrome")
    if COMMAND or any(own):
        return None
    return "needs Chromium: apt-get install chromium, or playwright install chromium"


needs_chromium_command = pytest.mark.skipif(COMMAND is None, reason="there is no Chromium here")
needs_chromium = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))

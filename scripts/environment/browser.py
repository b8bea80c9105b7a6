"""A Chromium that is already on this machine, for the tests that drive JupyterLab.

It looks, and installs nothing.
"""

import shutil
from pathlib import Path

NAMES = (
    *("chromium", "chromium-browser", "google-chrome"),
    *("google-chrome-stable", "chrome", "msedge"),
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def find_chromium() -> str | None:
    """Path of the system's Chromium or Chrome, or None."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    found += [place for place in PLACES if Path(place).exists()]
    return found[0] if found else None

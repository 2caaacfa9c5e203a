"""Debian's Firefox for the dashboard's tests.

Playwright's own protocol needs a Firefox that Playwright has built. Its channel `moz-firefox` drives an ordinary Firefox by
WebDriver BiDi. `firefox_relay.py` says why a relay stands between the two.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from playwright.async_api import Browser, Playwright

from tests.dashboard.browser import Scheme

_RELAY = Path(__file__).parent / "firefox_relay.py"
_SCHEMES = {"dark": 0, "light": 1}  # by the numbers of Firefox's preference


def firefox() -> str | None:
    """Returns the path of Firefox, if it is installed."""
    return os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")


async def launch(playwright: Playwright, program: str, folder: Path, scheme: Scheme) -> Browser:
    """Starts Firefox behind the relay, whose command it writes to `folder`. The whole browser has the colour scheme."""
    command = folder / "firefox"
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(_RELAY), program])} "$@"\n')
    command.chmod(0o755)
    return await playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=command,
        firefox_user_prefs={"layout.css.prefers-color-scheme.content-override": _SCHEMES[scheme]},
        timeout=120_000,  # ms
    )

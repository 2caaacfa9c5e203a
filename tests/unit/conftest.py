"""Keeps servers out of the unit tests, which `make test-unit` runs in some seconds."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def stack() -> None:
    """Fails the test that asks for servers: all fixtures with a server come from this one."""
    pytest.fail("a test in tests/unit has no servers: move the test to tests/integration")

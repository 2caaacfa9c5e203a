"""Keeps `--dist loadgroup` at work: tests of one `xdist_group` go to one process, which starts their servers once.

pytest-xdist 3.8 writes a test's group into `_nodeid`, where pytest looks no more from 9.2 on, and so it spreads each
group over all processes (pytest-dev/pytest-xdist#1386). To be removed with the release that mends it.
"""

from __future__ import annotations

import pytest
from _pytest.nodeid import coerce_node_id


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Has pytest see what xdist wrote, in the processes that xdist started."""
    if getattr(config.option, "loadgroup", False):
        for item in items:
            written = vars(item).get("_nodeid")
            if written is not None:
                item._id = coerce_node_id(written)

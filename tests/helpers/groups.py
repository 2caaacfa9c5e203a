"""Makes `--dist loadgroup` work: all tests of one `xdist_group` run in one process, which starts their servers once.

pytest-xdist 3.8 writes a test's group into `_nodeid`. From pytest 9.2 on, pytest does not look there, so xdist spreads each
group over all processes (pytest-dev/pytest-xdist#1386). Remove this module when an xdist release has the repair.
"""

from __future__ import annotations

import pytest
from _pytest.nodeid import coerce_node_id


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Copies the ids that xdist wrote to the place where pytest looks, in the processes that xdist started."""
    if getattr(config.option, "loadgroup", False):
        for item in items:
            written = vars(item).get("_nodeid")
            if written is not None:
                item._id = coerce_node_id(written)

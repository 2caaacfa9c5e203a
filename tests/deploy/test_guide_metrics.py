"""Prometheus runs each query of the guide's table of metrics, and finds data after a daemon has met nearly everything."""

from __future__ import annotations

import pytest

from tests.deploy.conftest import Observed
from tests.helpers.metrics_page import QUERIES
from tests.helpers.prometheus import needs_prometheus

pytestmark = pytest.mark.xdist_group("prometheus")

# The metrics whose queries find nothing in this test, each with the reason.
EMPTY = {
    "webhookd_tls_certificate_expiry_timestamp_seconds": "the daemon here has no certificate of its own",
    "webhookd_spans_total": "tracing is off",
    "webhookd_provider_webhook_state": "nobody has set up a webhook here",
    "webhookd_destination_filter_failures_total": "no filter of a destination fails here",
}


@needs_prometheus
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_guide_finds_data(observed: Observed, name: str) -> None:
    assert bool(observed.query(QUERIES[name])) is (name not in EMPTY)

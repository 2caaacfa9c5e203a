"""A worker dies with a bundle in hand: the bundle's events share a message and a transaction, but no fate."""

from __future__ import annotations

import pytest

from tests.helpers.rig import Rig
from tests.helpers.wait import until
from webhookd.runtime.failpoints import Failpoint


async def _bundles(rig: Rig) -> None:
    """Sends sixty events in bundles, before any worker runs. Some events share transactions, other events do not."""
    relay = await rig.daemon(roles="receive,relay", relay_window="1000", resend_after="600")
    await rig.ledger.send(rig.samples(60), [relay.webhook_url], connections=16)
    await until(
        lambda: rig.connection.fetchval("SELECT bool_and(status <> 'received') FROM events"), "all are sent", deadline=60
    )


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(Failpoint.WORKER_AFTER_CLAIM, marks=pytest.mark.long),
        pytest.param(Failpoint.WORKER_AFTER_HANDLERS, marks=pytest.mark.long),
        Failpoint.WORKER_AFTER_COMMIT,
        Failpoint.ACKS_BEFORE_DELETE,
    ],
)
async def test_killed_with_a_bundle_in_hand(rig: Rig, point: Failpoint) -> None:
    await _bundles(rig)
    worker = await rig.daemon(roles="work,relay", failpoints=f"{point}:1", resend_after="600")
    await until(lambda: not worker.running, "it is killed", deadline=30)
    await worker.start(failpoints="")
    rig.recovered()
    await rig.finish()

"""Three replicas behind nginx are restarted one after the other, under load."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import trustme

from tests.helpers.nginx import Nginx, needs_nginx
from tests.helpers.rig import Rig

pytestmark = needs_nginx


async def test_a_rolling_restart_fails_no_request_loses_nothing_and_doubles_nothing(rig: Rig, tmp_path: Path) -> None:
    daemons = [await rig.daemon() for _ in range(3)]
    addresses = [daemon.public_url.removeprefix("http://") for daemon in daemons]
    async with Nginx(tmp_path / "nginx", addresses, trustme.CA()) as nginx:
        rig.through = f"{nginx.http_url}/webhooks/authorize-net"
        async with rig.load(rate=150 if rig.long else 60):
            for _ in range(rig.rounds(1, 5)):
                for daemon in daemons:
                    await rig.acknowledged(30)
                    assert await daemon.stop() == 0
                    await rig.acknowledged(30)  # the other two replicas answer these
                    await daemon.start()
            await rig.acknowledged(30)
        # The proxy reports no error and breaks no connection. A few webhooks get a 503, which makes the provider retry.
        assert set(rig.ledger.answers) <= {200, 503}, rig.ledger.answers
        assert rig.ledger.answers[503] <= rig.ledger.answers.total() / 100, rig.ledger.answers
        await rig.finish()


@pytest.mark.long
async def test_a_replica_that_is_killed_costs_no_request(rig: Rig, tmp_path: Path) -> None:
    """The proxy repeats the unanswered requests of the killed replica at another replica, and each is the same event."""
    daemons = [await rig.daemon() for _ in range(3)]
    addresses = [daemon.public_url.removeprefix("http://") for daemon in daemons]
    async with Nginx(tmp_path / "nginx", addresses, trustme.CA()) as nginx:
        rig.through = f"{nginx.http_url}/webhooks/authorize-net"
        async with rig.load(rate=150 if rig.long else 60):
            for daemon in daemons[: rig.rounds(1, 3)]:
                await rig.acknowledged(30)
                await asyncio.to_thread(daemon.end, signal.SIGKILL)
                await rig.acknowledged(30)
                await daemon.start()
        assert set(rig.ledger.answers) <= {200, 503}, rig.ledger.answers
        rig.recovered()
        await rig.finish()

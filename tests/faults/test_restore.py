"""PostgreSQL goes back in time: a backup is restored, and Redis remembers events that the backup does not hold."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

from tests.helpers.rig import Rig
from tests.helpers.running import Process
from tests.helpers.wait import until


async def test_what_a_restored_backup_lacks_is_accepted_when_it_is_sent_again(own_rig: Rig) -> None:
    rig, postgresql = own_rig, own_rig.stack.postgresql
    await rig.ledger.close()
    await asyncio.to_thread(postgresql.stop)
    backup = postgresql.folder / "backup"
    await asyncio.to_thread(lambda: subprocess.run(["cp", "-a", postgresql.data, backup], check=True))
    await asyncio.to_thread(postgresql.start)
    await rig.ledger.connect()
    daemon = await rig.daemon(roles="receive")
    samples = list(rig.samples(23))
    assert (await rig.ledger.send(samples, daemon.webhook_url)).outcomes == {"accepted": 23}
    assert (await rig.ledger.send(samples, daemon.webhook_url)).outcomes == {"duplicate": 23}
    assert await daemon.metric("webhookd_duplicates_total", layer="redis") > 0, "Redis remembers them"

    await rig.ledger.close()
    await asyncio.to_thread(postgresql.stop)
    await until(lambda: _is_away(daemon), "the daemon has found PostgreSQL away")
    shutil.rmtree(postgresql.data)
    backup.rename(postgresql.data)
    # Makes PostgreSQL begin a new timeline, as at the end of a recovery to a point in time.
    (postgresql.data / "recovery.signal").touch()
    with (postgresql.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\n")
    await asyncio.to_thread(postgresql.start)
    await rig.ledger.connect()
    assert await rig.connection.fetchval("SELECT count(*) FROM events") == 0
    await until(daemon.ready, "the daemon has found PostgreSQL again", deadline=30)

    rig.ledger.acknowledged.clear()  # the restore voids earlier promises; later ones must hold
    assert (await rig.ledger.send(samples, daemon.webhook_url)).outcomes == {"accepted": 23}
    await rig.daemon(roles="relay,work")
    await rig.finish()


async def _is_away(daemon: Process) -> bool:
    return not await daemon.ready()

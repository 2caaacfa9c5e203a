"""The rig itself: no fault, and then a kill at one failpoint."""

from tests.helpers.rig import Rig
from tests.helpers.wait import until


async def test_nothing_goes_wrong(rig: Rig) -> None:
    await rig.daemon()
    async with rig.load(rate=100):
        await rig.acknowledged(200)
    rig.recovered()
    await rig.finish()


async def test_killed_after_commit(rig: Rig) -> None:
    daemon = await rig.daemon(failpoints="receive.after-commit:20")
    async with rig.load(rate=100):
        await until(lambda: not daemon.running, "killed")
        await daemon.start(failpoints="")
        rig.recovered()
    await rig.finish()


async def test_sqs_cut(rig: Rig) -> None:
    await rig.daemon()
    async with rig.load(rate=100):
        await rig.acknowledged(50)
        await rig.proxies.postgresql.cut()
        import asyncio

        await asyncio.sleep(2)
        await rig.proxies.postgresql.heal()
        rig.recovered()
        rig.proxies.redis.drop_replies()
        await asyncio.sleep(2)
        await rig.proxies.redis.heal()
    await rig.finish()


async def test_own(own_rig: Rig) -> None:
    await own_rig.daemon()
    await own_rig.send(20)
    await own_rig.finish()

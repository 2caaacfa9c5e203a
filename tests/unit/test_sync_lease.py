"""The lease of an account: what runs ends before another replica may begin."""

from __future__ import annotations

import asyncio

import pytest

from webhookd.errors import LeaseEndedError, UnavailableError
from webhookd.sync.lease import Lease


class Store:
    """PostgreSQL, as far as a lease needs it. Each hold asks for its end; `held` is its answer."""

    def __init__(self) -> None:
        self.held = True
        self.away = False
        self.released = 0

    async def hold(self, account: str, seconds: float, provider: str) -> bool:
        if self.away:
            raise UnavailableError("postgresql", "away")
        return self.held

    async def release(self, account: str) -> None:
        self.released += 1


def lease_of(store: Store, seconds: float) -> Lease:
    return Lease(store, "default", "api.example.com", seconds)


async def work(lease: Lease) -> None:
    async with lease.during():
        await asyncio.sleep(10)


async def test_a_holder_that_cannot_renew_stops_before_its_lease_ends() -> None:
    store = Store()
    lease = lease_of(store, 0.9)
    began = asyncio.get_running_loop().time()
    assert await lease.renew()
    until = lease._until
    assert until < began + 0.9
    store.away = True
    running = asyncio.create_task(work(lease))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await lease.renew()
    assert lease._until == until
    with pytest.raises(LeaseEndedError):
        await running
    assert not lease.held


async def test_what_runs_goes_on_while_the_lease_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lease_of(Store(), 1.0)
    assert await lease.renew()
    async with lease.during():
        monkeypatch.setattr(lease, "_seconds", 60.0)
        assert await lease.renew()
        await asyncio.sleep(1.2)  # for longer than the first lease
        assert lease.held


async def test_a_lease_that_another_replica_took_ends_what_runs() -> None:
    store = Store()
    lease = lease_of(store, 3600.0)
    assert await lease.renew()
    running = asyncio.create_task(work(lease))
    await asyncio.sleep(0)
    store.held = False
    assert not await lease.renew()
    with pytest.raises(LeaseEndedError):
        await running


async def test_a_release_lets_another_replica_begin_at_once() -> None:
    store = Store()
    lease = lease_of(store, 60.0)
    await lease.release()
    assert store.released == 0
    assert await lease.renew()
    await lease.release()
    assert not lease.held
    assert store.released == 1


async def test_a_timeout_of_the_block_itself_stays_a_timeout() -> None:
    lease = lease_of(Store(), 60.0)
    assert await lease.renew()

    async def slow() -> None:
        async with lease.during(), asyncio.timeout(0):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await slow()


async def test_a_write_that_postgresql_refuses_ends_the_lease_and_all_that_runs() -> None:
    lease = lease_of(Store(), 3600.0)
    assert await lease.renew()
    running = asyncio.create_task(work(lease))
    await asyncio.sleep(0)
    with pytest.raises(LeaseEndedError):
        async with lease.during():
            raise LeaseEndedError
    assert not lease.held
    with pytest.raises(LeaseEndedError):
        await running


async def test_a_lease_that_is_renewed_while_a_block_is_ending_is_held_again() -> None:
    store, ends = Store(), asyncio.Event()
    lease = lease_of(store, 3600.0)
    assert await lease.renew()

    async def slow_to_end() -> None:
        async with lease.during():
            try:
                await asyncio.sleep(10)
            finally:
                await ends.wait()

    running = asyncio.create_task(slow_to_end())
    await asyncio.sleep(0)
    store.held = False
    assert not await lease.renew()
    await asyncio.sleep(0.01)
    store.held = True
    assert await lease.renew()
    ends.set()
    with pytest.raises(LeaseEndedError):
        await running
    assert lease.held

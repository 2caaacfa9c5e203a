"""The daemon reports its state to the service manager, by the protocol of sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.wait import until
from webhookd.runtime.loops import Watch
from webhookd.runtime.systemd import ServiceNotifier


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listening


def datagrams(listening: socket.socket) -> list[list[str]]:
    found = []
    while True:
        try:
            found.append(listening.recv(4096).decode().splitlines())
        except BlockingIOError:
            return found


def manager() -> ServiceNotifier:
    return ServiceNotifier(Watch(), lambda: "taking webhooks")


async def test_it_is_told_of_each_step(told: socket.socket) -> None:
    service = manager()
    await service.ready()
    service.reloading()
    service.reloaded()
    service.stopping()
    await service.stopped()
    told_of = [line for lines in datagrams(told) for line in lines]
    steps = [line.partition("=")[0] for line in told_of if not line.startswith("STATUS")]
    assert steps == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "STOPPING"]
    assert "STATUS=taking webhooks" in told_of
    at = next(int(line.partition("=")[2]) for line in told_of if line.startswith("MONOTONIC_USEC"))
    assert abs(at - time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6) < 5e6


async def test_the_watchdog_hears_of_a_loop_that_turns_and_of_none_that_is_blocked(
    told: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    service = manager()
    await service.ready()
    pings = 0

    def pinged() -> bool:
        nonlocal pings
        pings += sum(lines[0] == "WATCHDOG=1" for lines in datagrams(told))
        return pings >= 3

    await until(pinged, "three pings", deadline=5)
    datagrams(told)
    time.sleep(0.3)  # noqa: ASYNC251  blocks the loop, as no handler may
    assert not datagrams(told), "a blocked loop pinged"
    service.stopping()
    pings = 0
    await until(pinged, "pings while it stops", deadline=5)
    await service.stopped()


async def test_another_processs_watchdog_is_not_ours(told: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    service = manager()
    await service.ready()
    await asyncio.sleep(0.05)
    await service.stopped()
    assert not [lines for lines in datagrams(told) if "WATCHDOG=1" in lines]


async def test_a_name_that_begins_with_an_at_sign_is_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"webhookd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        service = manager()
        await service.ready()
        await service.stopped()
        assert datagrams(listening)[0][0] == "READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
async def test_without_a_manager_that_listens_all_goes_on(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    service = manager()
    await service.ready()
    service.stopping()
    await service.stopped()

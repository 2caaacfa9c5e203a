"""Valkey in cluster mode: two nodes. One node has every slot, and the other node redirects to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis

from tests.helpers.wait import until
from webhookd.dev.child import HOST, free_port
from webhookd.dev.servers import ValkeyServer

_SLOTS = 16_384


class ClusterNode(ValkeyServer):
    """One node. A new node has no slots."""

    name = "Valkey in cluster mode"

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder, durable=False)
        self._shared_password = password
        self.bus_port = 0

    def _prepare(self) -> None:
        self.password = self._shared_password  # a redirected client knows one password only
        self.bus_port = free_port(0)
        super()._prepare()
        with (self.folder / "valkey.conf").open("a") as config:
            config.write(f"cluster-enabled yes\ncluster-port {self.bus_port}\ncluster-node-timeout 2000\n")

    def client(self) -> Any:
        """Returns a client that follows no redirection."""
        return Redis.from_url(self.url, decode_responses=True)


class Cluster:
    """Two nodes. The tests' URL names `here`; `there` has the slots."""

    def __init__(self, here: ClusterNode, there: ClusterNode) -> None:
        self.here, self.there = here, there

    async def form(self) -> None:
        """Connects the nodes, and gives every slot to `there`."""
        with self.here.client() as here, self.there.client() as there:
            there.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, _SLOTS - 1)
            here.execute_command("CLUSTER", "MEET", HOST, self.there.port, self.there.bus_port)
            await until(lambda: self._agrees(here, there), "both nodes know who has the slots", deadline=30)

    @staticmethod
    async def _agrees(*nodes: Any) -> bool:
        infos = [node.execute_command("CLUSTER", "INFO") for node in nodes]
        return all("ok" in (info["cluster_state"] if isinstance(info, dict) else info) for info in infos)

    def give_slots(self, to: ClusterNode) -> None:
        """Gives every slot to another node. All keys are lost."""
        with self.here.client() as here, self.there.client() as there, to.client() as taker:
            owner = taker.execute_command("CLUSTER", "MYID")
            there.flushall()
            # The newest epoch wins. Without it, a message of the former owner could take the slots back in between.
            taker.execute_command("CLUSTER", "BUMPEPOCH")
            for node in (here, there):
                pipeline = node.pipeline(transaction=False)
                for slot in range(_SLOTS):
                    pipeline.execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)
                pipeline.execute(raise_on_error=False)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Starts two nodes; `form` makes a cluster of them."""
    password = "cluster-of-the-tests"
    nodes = [ClusterNode(folder / name, password) for name in ("here", "there")]
    try:
        for node in nodes:
            node.start()
        yield Cluster(*nodes)
    finally:
        for node in nodes:
            node.stop()

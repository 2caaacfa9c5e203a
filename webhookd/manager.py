"""What the service manager is told: sd_notify(3)'s protocol, a datagram of lines on the socket that NOTIFY_SOCKET names.

systemd speaks it, and so do podman, s6 and supervisors for containers. Where there is no such socket nobody is told.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from webhookd.lifecycle import Loop, Watch
from webhookd.logs import logger, where

_STATUS_EVERY = 10.0  # seconds, where no watchdog asks for more


class Manager:
    """The manager of this process. `status` says in a line how things are, for `systemctl status`."""

    def __init__(self, watch: Watch, status: Callable[[], str]) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._status = status
        self._is_stopping = False
        self._watchdog = self._asked_every()
        # A part of the loop that serves: where that no longer turns, no ping is sent, and the manager starts us anew.
        self._pings = Loop("watchdog", self._ping, watch, every=self._watchdog or _STATUS_EVERY)

    @staticmethod
    def _asked_every() -> float | None:
        """Half of the time (seconds) after which the manager would give us up; None where it would not."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        try:
            return int(os.environ.get("WATCHDOG_USEC", "")) / 2e6 or None
        except ValueError:
            return None

    async def ready(self) -> None:
        """It serves; from now on the watchdog is kept quiet."""
        if self._address:
            self._tell("READY=1", f"STATUS={self._status()}")
            await self._pings.start()

    def reloading(self) -> None:
        """Settings are read anew; `reloaded` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """The end of `reloading`."""
        self._tell("READY=1", f"STATUS={self._status()}")

    def stopping(self) -> None:
        """The shutdown begins; the watchdog is kept quiet until `stopped`."""
        self._is_stopping = True
        self._tell("STOPPING=1", "STATUS=stopping: no new webhooks, what is in hand is finished")

    async def stopped(self) -> None:
        """The shutdown is over."""
        await self._pings.stop()

    async def _ping(self) -> None:
        self._tell(*(["WATCHDOG=1"] if self._watchdog else []), *([] if self._is_stopping else [f"STATUS={self._status()}"]))

    def _tell(self, *lines: str) -> None:
        if not (self._address and lines):
            return
        # A name that begins with @ is an abstract one.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
                to.connect(address)
                to.send("\n".join(lines).encode())
        except OSError as error:
            logger.warning("the service manager could not be told", told=lines[0], error=where(error), reason=error.strerror)

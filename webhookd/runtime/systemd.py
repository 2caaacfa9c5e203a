"""Reports to the service manager by sd_notify(3)'s protocol: a datagram of lines on the socket that NOTIFY_SOCKET names.

systemd speaks the protocol, and so do podman, s6 and supervisors for containers. Without such a socket, nothing is reported.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from webhookd.runtime.loops import Loop, Watch
from webhookd.telemetry.logs import logger, where

_STATUS_EVERY = 10.0  # seconds, if no watchdog asks for reports


class ServiceNotifier:
    """Reports the state of this process to the service manager. `status` returns it in one line, for `systemctl status`."""

    def __init__(self, watch: Watch, status: Callable[[], str]) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._status = status
        self._is_stopping = False
        self._watchdog = self._asked_every()
        # Pings come from the event loop that serves: if the loop hangs, no ping is sent, and the manager restarts us.
        self._pings = Loop("watchdog", self._ping, watch, every=self._watchdog or _STATUS_EVERY)

    @staticmethod
    def _asked_every() -> float | None:
        """Returns half of the seconds after which the manager would give us up; None if it would not."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        try:
            return int(os.environ.get("WATCHDOG_USEC", "")) / 2e6 or None
        except ValueError:
            return None

    async def ready(self) -> None:
        """Reports that the daemon serves. From now on, pings keep the watchdog quiet."""
        if self._address:
            self._tell("READY=1", f"STATUS={self._status()}")
            await self._pings.start()

    def reloading(self) -> None:
        """Reports that settings are read anew, until `reloaded`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Reports the end of `reloading`."""
        self._tell("READY=1", f"STATUS={self._status()}")

    def stopping(self) -> None:
        """Reports that the shutdown begins. Pings keep the watchdog quiet until `stopped`."""
        self._is_stopping = True
        self._tell("STOPPING=1", "STATUS=stopping: no new webhooks, what is in hand is finished")

    async def stopped(self) -> None:
        """Stops the pings: the shutdown is over."""
        await self._pings.stop()

    async def _ping(self) -> None:
        self._tell(*(["WATCHDOG=1"] if self._watchdog else []), *([] if self._is_stopping else [f"STATUS={self._status()}"]))

    def _tell(self, *lines: str) -> None:
        if not (self._address and lines):
            return
        # A name that begins with @ is an abstract socket's.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
                to.connect(address)
                to.send("\n".join(lines).encode())
        except OSError as error:
            logger.warning("no report reached the service manager", told=lines[0], error=where(error), reason=error.strerror)

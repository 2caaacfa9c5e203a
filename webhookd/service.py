"""Runs a daemon as a service: signals, reports to the service manager, and new keys without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from webhookd.daemon import Daemon
from webhookd.errors import SettingsError
from webhookd.process import handlers, loading
from webhookd.process.retry import Policy
from webhookd.runtime import failpoints
from webhookd.runtime.files import Changes
from webhookd.runtime.systemd import ServiceNotifier
from webhookd.settings import Role, Settings
from webhookd.telemetry.logs import logger, where

_AGAIN = 30.0  # seconds after a reload that failed
_FILES_EVERY = 2.0  # seconds between two looks at the files that hold secrets


def _stray(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Do not log asyncio's own message, which holds the exception's repr: a repr can quote customer data.
    error = context.get("exception")
    logger.error("an error that nobody waited for", error=where(error) if error else None)


def _spare_the_collector() -> None:
    # The present objects stay to the end, so no collection needs to look at them again. Reference counts free what a request
    # leaves behind, so a search for cycles at every 700 objects finds none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def serve(
    settings: Settings,
    *,
    reload: Callable[[], Settings] | None = None,
    files: Changes | None = None,
    started: Callable[[Daemon], None] | None = None,
) -> int:
    """Runs a daemon until SIGTERM or SIGINT. Returns the exit code: 1 if one of its parts broke, else 0.

    At a SIGHUP, and when one of `files` changes, `reload` reads the settings again, and `Daemon.renew` takes those that can be
    renewed. Without `reload`, SIGHUP ends the daemon, too, as the end of a terminal does.
    """
    failpoints.arm(settings.failpoints)
    loading.load(settings.handlers, Policy.of(settings))
    if Role.WORK in settings.roles:
        for listed in handlers.registered.listed():
            logger.info("a handler is registered", **asdict(listed))
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set if reload is not None else stop.set)
    loop.set_exception_handler(_stray)
    daemon = Daemon(settings)
    notifier = ServiceNotifier(daemon.watch, daemon.health.summary)
    tasks: list[asyncio.Task[None]] = []
    try:
        await daemon.start()
        _spare_the_collector()
        await notifier.ready()
        if reload is not None:
            # Handle SIGHUP from here on. A SIGHUP that arrived earlier has set `hangup`, and is handled now.
            tasks.append(daemon.watch.spawn(_reload_at(hangup, reload, files, daemon, notifier), "reload"))
            tasks.append(daemon.watch.spawn(_follow(files, hangup), "secret files"))
        if started is not None:
            started(daemon)
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, daemon.watch.broken)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        for task in tasks:
            daemon.watch.cancel(task)
        notifier.stopping()
        try:
            async with asyncio.timeout(settings.shutdown_grace + 2):
                await daemon.stop()
        except TimeoutError:
            # Whatever is left is safe, as if the process had been killed: everything here is made for a kill.
            logger.error("the shutdown took longer than WEBHOOKD_SHUTDOWN_GRACE; leaving the rest to recovery")
            daemon.watch.dismiss()
        await notifier.stopped()
    return 1 if daemon.watch.broken.is_set() else 0


async def _follow(files: Changes | None, changed: asyncio.Event) -> None:
    """Sets `changed` whenever one of the files has changed: a secret that is mounted changes without a signal."""
    while files is not None:
        await asyncio.sleep(_FILES_EVERY)
        try:
            if await asyncio.to_thread(files.seen):
                changed.set()
        except Exception:  # noqa: BLE001  a look that fails must not end the daemon
            logger.exception("the files of secrets could not be looked at")


async def _reload_at(
    hangup: asyncio.Event, read: Callable[[], Settings], files: Changes | None, daemon: Daemon, notifier: ServiceNotifier
) -> None:
    """Whenever `hangup` is set, reads the settings anew, and applies those that can be renewed."""
    while True:
        await hangup.wait()
        hangup.clear()
        notifier.reloading()
        fresh, taken = None, False
        try:
            # Read the files in a thread, because reading may be slow, and requests must go on meanwhile.
            if files is not None:
                await asyncio.to_thread(files.note)
            fresh = await asyncio.to_thread(read)
            taken = await _apply(daemon, fresh, "some settings were not taken; their earlier values stay")
        except Exception as error:  # noqa: BLE001  whatever it is, the next SIGHUP must be handled
            logger.error("nothing was reloaded; what was in force stays", problems=_problems(error))
        daemon.metrics.reloads.labels("done" if taken else "failed").inc()
        notifier.reloaded()
        # A new password may be in its file before PostgreSQL knows it: try again until it is taken, or until the next change.
        while fresh is not None and not taken and not hangup.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN):
                    await hangup.wait()
            if not hangup.is_set() and await _apply(daemon, fresh, None):
                taken = True
                daemon.metrics.reloads.labels("done").inc()


async def _apply(daemon: Daemon, fresh: Settings, told: str | None) -> bool:
    """Puts settings in force. Returns whether all were taken; if not, logs `told` with the problems, unless it is None."""
    try:
        changed = await daemon.renew(fresh)
    except Exception as error:  # noqa: BLE001  a later try may succeed
        if told is not None:
            logger.error(told, problems=_problems(error))
        return False
    waits = [name for name in type(fresh).model_fields if getattr(fresh, name) != getattr(daemon.settings, name)]
    logger.info("reloaded", changed=[f"WEBHOOKD_{name.upper()}" for name in changed])
    if waits:
        logger.warning("these settings changed, and need a restart", settings=[f"WEBHOOKD_{name.upper()}" for name in waits])
    return True


def _problems(error: Exception) -> list[str]:
    return str(error).splitlines() if isinstance(error, SettingsError) else [where(error)]

"""The import of users' modules, which register their handlers, with the remedy for each way to fail."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from webhookd.errors import HandlerError, SettingsError
from webhookd.process import handlers
from webhookd.process.callables import module_of, told
from webhookd.process.hooks import Hook
from webhookd.process.retry import Policy
from webhookd.telemetry.frames import users_place

_SETTING = "WEBHOOKD_HANDLERS"


def load(modules: Iterable[str], usual: Policy) -> None:
    """Imports users' modules, which register their handlers. Raises SettingsError, which names the wrong module or handler.

    `usual`: the retry policy of handlers that have no policy of their own.
    """
    registered = handlers.registered
    for module in modules:
        before = len(registered) + len(registered.hooks)
        try:
            importlib.import_module(module)
        except HandlerError as error:  # its message names the place
            raise SettingsError(f"{_SETTING}: {module!r}: {error}") from error
        except SettingsError as error:  # the module has a `Retry(…)` whose values cannot work
            raise SettingsError(f"{_SETTING}: {module!r}: {error} ({_line(error, module)})") from error
        except (Exception, SystemExit) as error:
            failed = f"importing {module!r} failed with {type(error).__name__}"
            raise SettingsError(f"{_SETTING}: {failed}: {_reason_and_remedy(error, module)}") from error
        if len(registered) + len(registered.hooks) > before or _registers(module):
            registered.modules.add(module)
        elif module not in registered.modules:
            raise SettingsError(
                f'{_SETTING}: {module!r} registers no handler; decorate a handler there with @on("…"), '
                "import the module that has the handlers, or remove this name from the setting"
            )
    registered.check(usual)


def load_again(modules: Iterable[str], usual: Policy, *, forget: Mapping[str, ModuleType]) -> None:
    """Imports users' modules again, and the modules `forget` that these import. If `load` raises, nothing has changed.

    Handlers and hooks of other modules stay. A hook that runs goes on, and the new hook of its name takes over its value.
    No event can see the state between: this function never awaits.
    """
    registered = handlers.registered
    before, hooks = list(registered), list(registered.hooks)
    for name in forget:
        del sys.modules[name]
    importlib.invalidate_caches()  # Python may not know yet of a file that was made a moment ago
    registered.replace(
        (one for one in before if module_of(one.handler) not in forget),
        (hook for hook in hooks if module_of(hook.function) not in forget),
    )
    try:
        load(modules, usual)
        _take_over(hooks, registered.hooks)
    except BaseException:
        sys.modules.update(forget)
        registered.replace(before, hooks)
        raise


def _take_over(before: Iterable[Hook[Any]], now: Iterable[Hook[Any]]) -> None:
    running = {hook.name: hook for hook in before}
    for hook in now:
        if hook.name not in running:
            raise SettingsError(f"the hook {told(hook.function)} is new, and hooks start with the process: restart webhookd")
        hook.take_over(running[hook.name])


def _registers(module: str) -> bool:
    """Returns whether a handler or hook of the module or its package is registered: a second import runs nothing."""
    functions = [one.handler for one in handlers.registered] + [hook.function for hook in handlers.registered.hooks]
    return any(f"{module_of(function)}.".startswith(f"{module}.") for function in functions)


def _reason_and_remedy(error: BaseException, module: str) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}:{error.lineno}); correct this line"
    if isinstance(error, SystemExit):
        return f'the module ends its process ({_line(error, module)}); put this code below `if __name__ == "__main__":`'
    if line := _line(error, module):
        if isinstance(error, ModuleNotFoundError):
            return f"{error} ({line}); install the library that this line imports beside webhookd, or correct the import"
        return f"{error} ({line}); correct the module at this line"
    if module.endswith(".py") or "/" in module:
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        return f"this is the name of a file; write the name of the module: {_SETTING}={name}"
    return (
        f"{error}; name importable modules, comma-separated, and check that they are on PYTHONPATH "
        "(for a file shop.py: the folder that holds the file), or installed beside webhookd"
    )


def _line(error: BaseException, module: str) -> str:
    """Returns the innermost place of the user's code that led to `error`; empty if none of the user's code ran."""
    return users_place(error, module.partition(".")[0]).partition(" in ")[0]

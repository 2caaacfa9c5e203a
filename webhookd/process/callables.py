"""The functions that users register: whether webhookd can call them, and their names and places for messages."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from webhookd.errors import HandlerError

_WRITE = "write `async def {name}(event, connection)`"


def function_of(registered: Any) -> Any:
    """Returns the function behind a partial, a bound method or a callable object."""
    while isinstance(registered, functools.partial):
        registered = registered.func
    if isinstance(registered, (staticmethod, classmethod)):
        registered = registered.__func__
    if not inspect.isroutine(registered) and not inspect.isclass(registered) and callable(registered):
        registered = type(registered).__call__
    return inspect.unwrap(getattr(registered, "__func__", registered))


def module_of(registered: Any) -> str:
    """Returns the name of the module that holds the function."""
    return str(getattr(function_of(registered), "__module__", None) or "?")


def name_of(registered: Any) -> str:
    """Returns the function's module and name, for logs."""
    function = function_of(registered)
    return f"{module_of(registered)}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def place_of(registered: Any) -> tuple[str, int]:
    """Returns the function's file and line; ("?", 0) if the function is not Python code."""
    code = getattr(function_of(registered), "__code__", None)
    return ("?", 0) if code is None else (code.co_filename, code.co_firstlineno)


def told(registered: Any) -> str:
    """Returns the function's name and place, for the beginning of a message."""
    path, line = place_of(registered)
    return f"{name_of(registered)} ({path}:{line})" if line else name_of(registered)


def check_handler(handler: Any) -> None:
    """Raises HandlerError with the remedy if webhookd cannot await `handler(event, connection)`."""
    if problem := _problem(handler):
        raise HandlerError(f"the handler {told(handler)}: {problem}")


def _problem(handler: Any) -> str | None:
    function = function_of(handler)
    remedy = _WRITE.format(name=getattr(function, "__name__", "handler"))
    if isinstance(handler, (staticmethod, classmethod)):
        return f"@on stands above @{type(handler).__name__}; {remedy} at the top level of the module"
    if not callable(handler) or inspect.isclass(handler):
        kind = "a class" if inspect.isclass(handler) else f"an object of the type {type(handler).__name__}"
        return f"a handler is a coroutine function, and this is {kind}; {remedy}"
    called = handler
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called) and not inspect.iscoroutinefunction(called):
        called = called.__call__
    if inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
        return f"it has a `yield`, so a call of it runs nothing; take the `yield` out, and {remedy}"
    if not inspect.iscoroutinefunction(called):
        return f"it is no coroutine function (async def); {remedy}"
    return _wrong_parameters(handler, remedy)


def _wrong_parameters(handler: Any, remedy: str) -> str | None:
    try:
        # Look at the object that webhookd calls, and not at the function that a user's decorator wraps: parameters may differ.
        signature = inspect.signature(handler, follow_wrapped=False)
    except ValueError:  # no Python function: only a call shows its parameters
        return None
    names = list(signature.parameters)
    if names[:1] in (["self"], ["cls"]):
        return (
            f"its first parameter is `{names[0]}`, so it is the method of an object that webhookd does not have; "
            "register the bound method: `on(…)(Shop().book)`"
        )
    try:
        signature.bind(None, None)
    except TypeError:
        needed = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        ]
        if needed:
            return (
                f"webhookd gives no argument for `{needed[0]}`; give this keyword-only parameter a default, "
                "or bind it by functools.partial"
            )
        return f"webhookd calls it with two arguments, and its parameters are {signature}; {remedy}"
    return None

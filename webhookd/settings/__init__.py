"""The settings: their definitions (`model`), how they must fit together (`fit`), and their sources (`loading`).

A name is imported at its first use. The operator's commands need `sources` alone, and should not wait for pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhookd.settings.listing import describe
    from webhookd.settings.loading import DatabaseSettings, load, load_database, load_from, secret_files
    from webhookd.settings.model import AccountSettings, Role, Settings, renewed

__all__ = [
    "AccountSettings",
    "DatabaseSettings",
    "Role",
    "Settings",
    "describe",
    "load",
    "load_database",
    "load_from",
    "renewed",
    "secret_files",
]

_LISTING, _LOADING = ("describe",), ("DatabaseSettings", "load", "load_database", "load_from", "secret_files")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "listing" if name in _LISTING else "loading" if name in _LOADING else "model"
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value

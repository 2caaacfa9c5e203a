"""The settings: their definitions (`model`), how they must fit together (`fit`), and their sources (`loading`)."""

from webhookd.settings.listing import describe
from webhookd.settings.loading import DatabaseSettings, load, load_database, load_from
from webhookd.settings.model import RENEWABLE, AccountSettings, Role, Settings

__all__ = [
    "RENEWABLE",
    "AccountSettings",
    "DatabaseSettings",
    "Role",
    "Settings",
    "describe",
    "load",
    "load_database",
    "load_from",
]

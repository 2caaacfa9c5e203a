"""The settings: their definitions (`model`), how they must fit together (`fit`), and their sources (`loading`)."""

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

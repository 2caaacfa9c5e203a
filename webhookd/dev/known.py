"""The settings of a development session and of the commands that talk to it, with the values that the last session stored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from webhookd.errors import SettingsError
from webhookd.settings import DatabaseSettings, Settings, load_database, load_from, sources
from webhookd.settings.sources import NO_FILE, Found, Layer

# Stand-ins for required settings that the session will provide, while the other settings are checked.
_STAND_INS: dict[str, Any] = {"database_url": "postgresql://", "redis_url": "redis://", "signature_keys": "0" * 128}
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def given_settings(**brought: Any) -> tuple[set[str], Settings]:
    """Returns the names of the settings that some source gives, and all settings.

    A setting that no source gives is taken from `brought`, or else, if it is required, from the stand-ins. Raises
    SettingsError with every problem.
    """
    layers = sources.layers()
    given = sources.given(Settings.model_fields, layers)
    return given, load_from(layers, **{name: value for name, value in (_STAND_INS | brought).items() if name not in given})


def known(folder: Path, *, whole: bool = True) -> tuple[Settings, list[str]]:
    """Returns the settings, completed with those of the last session in `folder`, and the variables that came from there.

    If not `whole`, only a signature key is required. Raises SettingsError if a setting is missing or wrong.
    """
    *own, dev = layers = _layers(folder)
    given = sources.given(Settings.model_fields, own)
    taken = {dev.spelled[name] for name in dev.values if name in Settings.model_fields.keys() - given}
    if "WEBHOOKD_SQS_ENDPOINT_URL" in taken:
        # Send no real credentials to the session's SQS. Take no other AWS variable from the folder: some of them run programs.
        kept = dotenv_values(folder / "dev.env", interpolate=False)
        os.environ.update({name: kept.get(name) or "dev" for name in _CREDENTIALS})
        os.environ.setdefault("AWS_DEFAULT_REGION", kept.get("AWS_DEFAULT_REGION") or "us-east-1")
    if "WEBHOOKD_DATABASE_URL" in taken:
        _keep_passwords()
    lower = set() if whole else {"database_url", "redis_url"} - sources.given(Settings.model_fields, layers)
    return load_from(layers, **{name: _STAND_INS[name] for name in lower}), sorted(taken)


def database(folder: Path) -> tuple[DatabaseSettings, Path | None]:
    """Returns the database's settings, and the path of `dev.env` in `folder` if only that file names the URL, else None.

    Raises SettingsError if no source names a URL, or if that file names anything but its own database on this machine.
    """
    *own, dev = sources.layers(folder)
    found = None if sources.find("database_url", own) else dev.find("database_url")
    if found is None:
        return load_database(), None
    url = str(found.value)
    # Parameters of a URL can name other hosts, and the user's files.
    loopback = sources.is_loopback(url) and not urlsplit(url).query
    if not sources.may_go(found, named_by=found.named_by, loopback=loopback):
        raise SettingsError(
            f"WEBHOOKD_DATABASE_URL: {found.source} may name a database on this machine only (127.0.0.1), without parameters: "
            "set the URL in the environment"
        )
    _keep_passwords()
    schema = sources.find("database_schema", own) or dev.find("database_schema")
    overrides = {} if schema is None else {"database_schema": schema.value}
    return load_database(database_url=url, **overrides), folder / "dev.env"


def _keep_passwords() -> None:
    """Hides the user's passwords from the session's database, which needs none of them."""
    os.environ.pop("PGPASSWORD", None)
    os.environ["PGPASSFILE"] = NO_FILE


def _layers(folder: Path) -> list[Layer]:
    *own, dev = sources.layers(folder)
    if sources.find("accounts__default__signature_keys", own):
        dev.values.pop("signature_keys", None)  # these are the keys of an earlier session, in which the user had set no key
    if sources.find("database_url", own):
        dev.values.pop("database_schema", None)  # this is the schema of the session's own database
    return [*own, dev]


@dataclass(slots=True, frozen=True)
class Receiver:
    """The target of sample traffic: its URL, and the key that signs the traffic."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Receiver({self.url!r})"


def target(folder: Path, *, account: str, url: str | None) -> Receiver:
    """Returns the receiver's address and an account's key: from the settings, else from the last session in `folder`.

    Raises SettingsError if neither has a key, or if the key is not meant for that address.
    """
    settings, _ = known(folder, whole=False)
    account = account.lower()
    keys = settings.keys_by_account.get(account)
    variable = f"WEBHOOKD_ACCOUNTS__{account.upper()}__SIGNATURE_KEYS"
    if not keys:
        name = "WEBHOOKD_SIGNATURE_KEYS" if account == "default" else variable
        raise SettingsError(f"{name} is not set: the account {account!r} has no key to sign with; set its key")
    if url is None:
        _check_may_sign(settings, _layers(folder), account)
    host, port = settings.public_address
    path = "/webhooks/authorize-net" + ("" if account == "default" else f"/{account}")
    scheme = "http" if settings.tls_certificate is None else "https"
    own = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return Receiver(url or reachable(own) + path, keys[0])


def _check_may_sign(settings: Settings, layers: list[Layer], account: str) -> None:
    """Raises SettingsError if a folder names the receiver, unless the key is of that folder and the receiver on this machine.

    Otherwise the operator of that receiver would have authentic notifications, and could send them to the true receiver.
    """
    names = (*(("signature_keys",) if account == "default" else ()), f"accounts__{account}__signature_keys")
    key: Found = next(found for name in names if (found := sources.find(name, layers)) is not None)
    default = Settings.model_fields["listen"].default
    loopback = sources.is_loopback(reachable(f"//{settings.listen}"))
    if not sources.may_go(key, named_by=sources.folder_that_names("listen", layers, default), loopback=loopback):
        address = sources.find("listen", layers)
        raise SettingsError(
            f"WEBHOOKD_LISTEN: {address.source if address else ''} names {settings.listen}, and an address that a folder names "
            "gets only notifications that the folder's own key signs, and only on this machine: give the webhook's URL as --url"
        )


def reachable(url: str) -> str:
    """Returns `url` for clients on this machine: a server can listen on every address, but a client connects to one."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")

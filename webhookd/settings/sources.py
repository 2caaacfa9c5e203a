"""The sources of settings, their order, and their owners.

The sources, the strongest first: the environment with the files that it names, systemd's credentials, the TOML file that
WEBHOOKD_CONFIG names, and `.env` of the current folder. For some commands, what `webhookd dev` left in its folder comes last.

What a folder names counts less than what the user names, since anyone who can write into the folder chose it. A folder names
`.env`, a TOML file that `.env` or a relative path names, and `dev.env`. `may_go` is the rule that keeps the user's secrets from
addresses that a folder names.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

from webhookd.errors import SettingsError

# A file that cannot exist. For /dev/null, asyncpg would warn that it is no plain file.
NO_FILE = f"{os.devnull}/none"
PREFIX = "WEBHOOKD_"
CONFIG = "WEBHOOKD_CONFIG"
CLIENT = ("api_url", "api_token")  # settings of the operator's commands
SECRET = re.compile(
    r"(database_url|shop_database_url|shop_query|redis_url|admin_tokens|read_tokens|(accounts__.+__)?(signature_keys|api_login_id|transaction_key)"
    r"|alerts__.+__(url|secret)|destinations__.+__(url|secrets|headers))"
)
IN_FILES = re.compile(f"{SECRET.pattern}|api_token")  # settings that can stand in a file of their own
# The settings of sections with names, such as ACCOUNTS__<NAME>__SIGNATURE_KEYS.
SECTIONS = {
    "accounts": ("signature_keys", "api_login_id", "transaction_key", "provider", "public_url", "time_zone"),
    "alerts": ("url", "format", "secret", "sender", "recipients", "quiet_hours"),
    "destinations": (
        "url", "secrets", "event_types", "accounts", "filter", "headers", "timeout", "first_byte_timeout", "concurrency",
        "rate", "max_attempts", "body", "ca_file", "client_cert", "client_key", "give_up_on", "allow_private",
    ),
}  # fmt: skip
_NESTED = tuple(re.compile(f"({section})__(.+)__({'|'.join(fields)})") for section, fields in SECTIONS.items())
ENVIRONMENT = "the environment"


@dataclass(slots=True, frozen=True)
class Found:
    """One setting's value, and its source.

    named_by: the folder that names it, None if the user does.
    kept_in: the folder that holds the value itself, None if the value lies elsewhere. A folder can name a file outside it.
    """

    value: Any = field(repr=False)
    source: str
    named_by: Path | None = None
    kept_in: Path | None = None


@dataclass(slots=True)
class Layer:
    """One source. The keys of `values` and `files` are names in lower case, accounts as accounts__<name>__signature_keys."""

    source: str
    folder: Path | None = None
    kept_in: Path | None = None
    toml: bool = False
    spelled: dict[str, str] = field(default_factory=dict)  # each name as the source spells it, also if its value is empty
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    files: dict[str, tuple[str, Path]] = field(default_factory=dict)
    twice: list[tuple[str, str]] = field(default_factory=list)  # pairs of spellings of one name, for example LISTEN and listen

    def add(self, spelled: str, name: str, value: Any) -> None:
        """Adds the setting that the source calls `spelled`. An empty value counts as not given."""
        if value is None or value == "":
            self.spelled.setdefault(name, spelled)
            return
        secret = name.removesuffix("_file")
        in_file = secret != name and IN_FILES.fullmatch(secret) is not None
        if secret in self.files if in_file else name in self.values:
            self.twice.append((self.spelled[name], spelled))
        self.spelled[name] = spelled
        if in_file:
            self.files[secret] = (spelled, Path(str(value)))
        else:
            self.values[name] = value

    def find(self, name: str) -> Found | None:
        """Returns the setting, also from the file that the source names for it. Raises SettingsError if it cannot be read."""
        if name in self.values:
            return Found(self.values[name], self.source, self.folder, self.kept_in)
        if name not in self.files:
            return None
        spelled, path = self.files[name]
        return Found(read(spelled, path), self.source, self.folder, kept_in(self.folder, path))


def nested(name: str) -> tuple[str, str, str] | None:
    """Returns the section, the name and the field of a setting such as accounts__eu__signature_keys; None for any other."""
    match = next(filter(None, (pattern.fullmatch(name) for pattern in _NESTED)), None)
    return None if match is None else (match[1], match[2], match[3])


def kept_in(folder: Path | None, path: Path) -> Path | None:
    """Returns `folder` if the file at `path` lies in it, whatever links lead there; else None."""
    return folder if folder is not None and path.resolve().is_relative_to(folder) else None


def read(name: str, path: Path) -> str:
    """Returns the text of the file that the setting `name` names, without white space at its ends. Raises SettingsError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{name}: cannot read {path} ({type(error).__name__}); "
            "check that it is there, is text, and that webhookd's user may read it"
        ) from None


def layers(dev: Path | None = None) -> list[Layer]:
    """Returns every source, the strongest first. With `dev`, the folder of a `webhookd dev`, what it left there comes last.

    Raises SettingsError if WEBHOOKD_CONFIG or `.env` cannot be read.
    """
    here = Path.cwd().resolve()
    environment = _variables(os.environ, Layer(ENVIRONMENT))
    dotenv = _dotenv(Path(".env"), here)
    every = [environment, _credentials(), *_configuration(environment, dotenv), dotenv]
    if dev is not None:
        root = dev.resolve()
        every.append(_dotenv(dev / "dev.env", here if root.is_relative_to(here) else root))
    return every


def _variables(variables: Mapping[str, str | None], layer: Layer) -> Layer:
    for variable, value in variables.items():
        if variable.upper().startswith(PREFIX):
            layer.add(variable, variable[len(PREFIX) :].lower(), value)
    return layer


def _dotenv(path: Path, folder: Path) -> Layer:
    variables: dict[str, str | None] = {}
    try:
        # Only parse the file. dotenv_values would replace `${…}`, and so the folder could get a secret of the environment.
        with path.open(encoding="utf-8") as lines:
            for binding in parse_stream(lines):
                if binding.error and PREFIX in binding.original.string.upper():
                    raise SettingsError(f"{path}: line {binding.original.line} is not {PREFIX}…=value; mend it")
                if binding.key:
                    variables[binding.key] = binding.value
    except (FileNotFoundError, IsADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read ({type(error).__name__}); mend or remove it") from None
    return _variables(variables, Layer(str(path), folder, kept_in(folder, path)))


def _credentials() -> Layer:
    layer = Layer("systemd's credentials")
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        for path in sorted(Path(folder).glob("*")):
            # Credentials of other services may lie there, too.
            if SECRET.fullmatch(name := path.name.lower().removeprefix(PREFIX.lower())):
                layer.files[name] = (path.name, path)
    return layer


def _configuration(*layers_: Layer) -> Iterator[Layer]:
    """Yields the TOML file that `layers_` name, if they do; the first of them that names a file decides."""
    for layer in layers_:
        if found := layer.find("config"):
            path = Path(str(found.value))
            try:
                table = tomllib.loads(read(CONFIG, path))
            except tomllib.TOMLDecodeError as error:
                raise SettingsError(f"{CONFIG}: {path} is not TOML: {error}") from None
            # If the path is relative, the folder decides what the file holds, whoever names the file.
            folder = Path.cwd().resolve() if layer.folder is not None or not path.is_absolute() else None
            toml = Layer(str(path), folder, kept_in(folder, path), toml=True)
            for name, value in table.items():
                if name.lower() in SECTIONS and isinstance(value, dict):
                    for spelled, inner_name, inner in _section(name.lower(), value):
                        toml.add(spelled, inner_name, inner)
                else:
                    toml.add(name, name.lower(), value)
            yield toml
            return


def _section(section: str, tables: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for one, table in tables.items():
        if not isinstance(table, dict):
            yield f"{section}.{one}", f"{section}__{one}".lower(), table
            continue
        for name, value in (table or {SECTIONS[section][0]: None}).items():
            yield f"{section}.{one}.{name}", f"{section}__{one}__{name}".lower(), value


def secret_files(sources: Iterable[Layer]) -> list[Path]:
    """Returns the files that hold secrets: those that `…_FILE` names, and systemd's credentials. Reads none of them."""
    return sorted({path for layer in sources for _, path in layer.files.values()})


def find_each(name: str, sources: Iterable[Layer]) -> Iterator[Found]:
    """Returns the setting from all sources that give it, the strongest first. Raises SettingsError if it cannot read a file."""
    return (found for layer in sources if (found := layer.find(name)) is not None)


def find(name: str, sources: Iterable[Layer]) -> Found | None:
    """Returns the setting from the strongest source that gives it. Raises SettingsError if its file cannot be read."""
    return next(find_each(name, sources), None)


def given(names: Iterable[str], sources: Iterable[Layer]) -> set[str]:
    """Returns those of the settings `names` that some source gives. Reads no file."""
    every = {name for layer in sources for name in (*layer.values, *layer.files)}
    sections = {parts[0] for name in every if (parts := nested(name)) is not None}
    return (every | sections) & set(names)


def folder_that_names(name: str, sources: Iterable[Layer], default: str) -> Path | None:
    """Returns the folder that names the address `name`; None if the user does, or if the address is the default anyway."""
    found = find(name, sources)
    return None if found is None or found.value == default else found.named_by


def find_all(names: Iterable[str], sources: list[Layer], without: re.Pattern[str] | None = None) -> dict[str, Found]:
    """Returns those of the settings `names` that some source gives, each from the strongest source.

    A section, such as `accounts`, stands for all its settings. The settings whose names match `without` are
    left out, and their files are not read. Raises SettingsError with a line for each file that cannot be read.
    """
    wanted = set(names)
    given = dict.fromkeys(name for layer in sources for name in (*layer.values, *layer.files))
    found: dict[str, Found] = {}
    problems = []
    for name in given:
        if without is not None and without.fullmatch(name):
            continue
        if name in wanted or ((parts := nested(name)) is not None and parts[0] in wanted):
            try:
                if (one := find(name, sources)) is not None:
                    found[name] = one
            except SettingsError as error:
                problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def may_go(secret: Found, *, named_by: Path | None, loopback: bool) -> bool:
    """Returns whether a secret may be used with an address: only if the one who named the address could have named the secret.

    named_by: the folder that names the address, None if the user does. `loopback`: whether the address is on this machine.
    """
    return named_by is None or (loopback and secret.kept_in == named_by)


def is_loopback(url: str) -> bool:
    """Returns whether a URL leads to this machine and nowhere else."""
    if "," in urlsplit(url).netloc:  # PostgreSQL's client tries several hosts in turn; urlsplit sees only the first
        return False
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def slips(fields: Iterable[str], sources: Iterable[Layer]) -> list[str]:
    """Returns a line for each name that looks like a setting and is none, and for each setting that one source gives twice.

    Without these lines, a slip could leave a default in force unseen.
    """
    known = {CONFIG.removeprefix(PREFIX).lower(), *CLIENT, *fields}
    known |= {f"{name}_file" for name in known if IN_FILES.fullmatch(name)}
    # Kubernetes adds WEBHOOKD_SERVICE_HOST, WEBHOOKD_PORT_8080_TCP and others to every pod beside a Service "webhookd".
    services = [name.removesuffix("SERVICE_HOST") for name in os.environ if name.endswith("_SERVICE_HOST")]
    not_settings = ("WEBHOOKD_DEV_", "WEBHOOKD_TEST_", *(name + end for name in services for end in ("SERVICE_", "PORT")))
    problems = []
    for layer in sources:
        twice = layer.values.keys() & layer.files.keys()
        place = "" if layer.source == ENVIRONMENT else f"{layer.source}: "
        for name in sorted(twice):
            both = f"{layer.spelled[name]} and {layer.spelled[f'{name}_file']}"
            problems.append(f"{place}{both} are both set; drop one of them")
        for one, other in layer.twice:
            problems.append(f"{place}{one} and {other} are two spellings of one setting; drop one of them")
        for name, spelled in sorted(layer.spelled.items()):
            if (name in known and not (layer.toml and name == "config")) or spelled.upper().startswith(not_settings):
                continue
            bare = name.removesuffix("_file")
            if nested(name) or (nested(bare) and IN_FILES.fullmatch(bare)):
                if name not in layer.values and bare not in layer.files:
                    # Otherwise the account would count as not set, and its webhooks would be answered 404.
                    what = "a key, or drop the account" if name.startswith("accounts") else "a value, or drop the setting"
                    problems.append(f"{place}{spelled} is empty; set {what}")
                continue
            problems.append(f"{place}{spelled} is not a setting; {_remedy(name, known - {name}, toml=layer.toml)}")
    return problems


def _remedy(name: str, known: set[str], *, toml: bool) -> str:
    # Compare the names without the prefix, which would make any two names look alike.
    bare = name.removeprefix(PREFIX.lower())
    section = bare.partition("__")[0]
    if "__" in bare and section in SECTIONS:
        fields = difflib.get_close_matches(bare.rpartition("__")[2], SECTIONS[section], n=1) or SECTIONS[section][:1]
        near = [f"{section}__<name>__{fields[0]}"]
    else:
        near = difflib.get_close_matches(bare, sorted(known), n=1)
    if not near:
        return "`webhookd settings` lists them"
    return f"did you mean {near[0].replace('__', '.') if toml else PREFIX + near[0].upper()}?"

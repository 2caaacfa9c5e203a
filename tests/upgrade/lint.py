"""Checks whether a migration is safe while the previous release runs: squawk's rules, and some of webhookd's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from webhookd.store.migrations import HELD, LOCK_TIMEOUT, read

SQUAWK = Path(sys.executable).parent / "squawk"
# Optional rules of squawk. Here the old code runs on during a migration, so whatever it relies on must stay.
_ALSO = (
    "ban-alter-row-level-security",
    "ban-detach-inheritance",
    "ban-disable-trigger",
    "ban-drop-trigger",
    "ban-new-write-restriction",
    "ban-replace-view-function",
    "ban-revoke",
    "ban-set-default",
)
_EXCEPT = {
    "prefer-bigint-over-int": "attempts and the like stay small, and a row of events is kept small",
}
_EXCEPT_ONE_BY_ONE = {
    "require-statement-timeout": "such a statement has no lock that others wait for, and takes as long as the table is large",
}
# Rule, part of its message, pattern of the line.
_HARMLESS = (
    # IF NOT EXISTS would accept the invalid index of an attempt that broke off; see _own.
    ("prefer-robust-stmts", "", r"^CREATE (UNIQUE )?INDEX CONCURRENTLY"),
    ("prefer-robust-stmts", "", r"^ALTER TABLE [\w.]+ VALIDATE CONSTRAINT \w+;$"),  # a second run finds nothing to do
    # The old code does not know the column, so it writes the default, which the constraint has accepted.
    ("ban-new-write-restriction", "A new column constraint", r"\bADD COLUMN\b.*\bDEFAULT\b"),
)
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?(\w+)", re.IGNORECASE)
_TABLE = re.compile(r"^(?:ALTER|DROP) TABLE (?:IF EXISTS )?(?:ONLY )?(?:\w+\.)?(\w+)", re.IGNORECASE)
_NO_SCHEMA = "names no schema: write webhookd. in front of the name"
_NAMED = r"(?:TABLE|VIEW|FUNCTION|PROCEDURE)(?: IF (?:NOT )?EXISTS)?(?: ONLY)?"
_OURS = {
    rf"(?:CREATE|ALTER|DROP) (?:OR REPLACE )?{_NAMED} (?!IF |ONLY |webhookd\.)": _NO_SCHEMA,
    r"DROP INDEX (?:CONCURRENTLY )?(?:IF EXISTS )?(?!CONCURRENTLY |IF |webhookd\.)": _NO_SCHEMA,
    r"CREATE (?:UNIQUE )?INDEX .*? ON (?:ONLY )?(?!webhookd\.)": _NO_SCHEMA,
    r"SET (?:LOCAL |SESSION )?(?:lock|statement)_timeout\b": "sets a timeout, which is the runner's to set",
    r"(?:UPDATE|DELETE|MERGE|TRUNCATE|LOCK)\b": "locks rows or a table for long: the daemon does it, in batches",
    r"(?:VACUUM FULL|CLUSTER|REFRESH MATERIALIZED VIEW(?! CONCURRENTLY))\b": "locks a table for as long as it takes",
}


def problems(path: Path, used: set[str]) -> list[str]:
    """Returns the faults of the migration at `path`; `used` names the tables that are in use before it."""
    found = [f"{path.name}:{line}: {what}" for line, what in _squawk(path)]
    return found + [f"{path.name}: {what}" for what in _own(path, used)]


def _squawk(path: Path) -> list[tuple[int, str]]:
    head, _, applied = path.read_text().partition("\n\n")
    alone = "-- transaction: false" in head
    # PostgreSQL sees this: the runner's timeouts, then each statement in its own line of the file. Nothing is rolled back.
    limits = f"SET lock_timeout = '{LOCK_TIMEOUT:g}s';" + ("" if alone else f" SET statement_timeout = '{HELD:g}s';")
    shown = limits + "\n" * (head.count("\n") + 1) + applied
    arguments = [f"--include={rule}" for rule in _ALSO]
    arguments += [f"--exclude={rule}" for rule in _EXCEPT | (_EXCEPT_ONE_BY_ONE if alone else {})]
    if not alone:
        arguments.append("--assume-in-transaction")
    result = subprocess.run(
        [SQUAWK, "--pg-version=14.0", "--reporter=json", f"--stdin-filepath={path.name}", *arguments],
        input=shown,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    lines = shown.splitlines()
    return [
        (finding["line"] + 1, f"{finding['rule_name']}: {finding['message']}")
        for finding in json.loads(result.stdout)
        if not any(
            finding["rule_name"] == rule
            and part in finding["message"]
            and re.search(pattern, lines[finding["line"]], re.IGNORECASE)
            for rule, part, pattern in _HARMLESS
        )
    ]


def _own(path: Path, used: set[str]) -> list[str]:
    (migration,) = (one for one in read(path.parent) if one.id == path.stem)
    statements = [" ".join(statement.split()) for statement in migration.statements]
    found = [
        f"{statement[:60]} … {why}"
        for statement in statements
        for pattern, why in _OURS.items()
        if re.match(pattern, statement, re.IGNORECASE)
    ]
    for place, statement in enumerate(statements):
        if (made := _INDEX.match(statement)) and (
            place == 0 or statements[place - 1] != f"DROP INDEX CONCURRENTLY IF EXISTS webhookd.{made[1]};"
        ):
            found.append(f"{made[1]}: not after a DROP INDEX CONCURRENTLY IF EXISTS, which removes what broke off")
        if made and "IF NOT EXISTS" in statement.upper():
            found.append(f"{made[1]}: IF NOT EXISTS would be content with an invalid one")
    if migration.transaction:
        touched = {match[1] for statement in statements if (match := _TABLE.match(statement))} & used
        if len(touched) > 1:
            found.append(f"locks {' and '.join(sorted(touched))} in one transaction: a deadlock with a daemon")
    return found

"""The lines of a file of old webhooks: JSON lines or CSV, one webhook a line, read one at a time."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, BinaryIO

import orjson

from webhookd.errors import SettingsError, WebhookdError

_ESCAPED = 6  # bytes that JSON may take for one byte of a body
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REST = 65_536  # bytes of a line for all but the body


class Format(StrEnum):
    """The formats of a file."""

    JSONL = "jsonl"
    CSV = "csv"


class As(StrEnum):
    """The way in which an import takes webhooks: another program has processed them, or webhookd is to process them."""

    HISTORY = "history"
    WORK = "work"


class BadLineError(WebhookdError):
    """A line, or its webhook, cannot be imported; the message says why, and quotes nothing of the line."""


@dataclass(slots=True, frozen=True)
class Line:
    """One webhook of the file. `number`: the line that the webhook begins at, from 1 on."""

    number: int
    body: bytes
    received_at: datetime
    signature: str | None
    account: str | None

    def __repr__(self) -> str:  # leaves out the body
        return f"Line({self.number})"


class Lines:
    """The lines of `file`, in their order. `read`: the bytes that were read so far.

    most: bytes of the largest body. So the memory for one line has a bound, whatever the file holds.
    """

    def __init__(self, file: BinaryIO, kind: Format, most: int) -> None:
        self._file = file
        self._kind = kind
        self._most = most
        self._longest = most * _ESCAPED + _REST
        self.read = 0

    def __iter__(self) -> Iterator[Line | tuple[int, str]]:
        """Yields each webhook, or the number of a bad line with the reason. Leaves out empty lines."""
        return self._rows_of_csv() if self._kind is Format.CSV else self._rows_of_json()

    def _raw(self) -> Iterator[bytes | None]:
        """Yields each line with its end; None for a line that is too long, which is skipped."""
        while raw := self._file.readline(self._longest):
            self.read += len(raw)
            whole = raw.endswith(b"\n") or len(raw) < self._longest
            while raw and not raw.endswith(b"\n") and not whole:
                raw = self._file.readline(self._longest)
                self.read += len(raw)
            yield raw if whole else None

    def _rows_of_json(self) -> Iterator[Line | tuple[int, str]]:
        for number, raw in enumerate(self._raw(), 1):
            if raw is None:
                yield number, f"the line is longer than {self._longest} bytes"
                continue
            text = raw.strip().removeprefix(_BYTE_ORDER_MARK)
            if not text:
                continue
            try:
                fields = orjson.loads(text)
            except (ValueError, RecursionError):
                yield number, "the line is no JSON"
                continue
            if not isinstance(fields, dict):
                yield number, "the line is JSON, but no object"
                continue
            yield self._line(number, fields)

    def _rows_of_csv(self) -> Iterator[Line | tuple[int, str]]:
        csv.field_size_limit(self._longest)
        cut = False

        def texts() -> Iterator[str]:
            nonlocal cut
            for number, raw in enumerate(self._raw(), 1):
                if raw is None:
                    cut = True
                    return
                # surrogateescape gives each byte of a body back as it was.
                yield (raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw).decode("utf-8", "surrogateescape")

        rows = csv.reader(texts(), strict=True)  # joins the lines of a quoted field
        columns: list[str] | None = None
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                # The next line may lie inside a body, whose text a stranger chose. It must not become a webhook.
                yield number, f"the line is no CSV: {error}; the lines from here on are not read, so correct this line"
                return
            if cut:
                yield number, f"the line is longer than {self._longest} bytes; the lines from here on are not read"
                return
            if row is None:
                return
            if columns is None:
                columns = _columns(row)
            elif len(row) > len(columns):
                yield number, f"the line has {len(row)} fields, and the first line names {len(columns)} columns"
            elif any(row):
                yield self._line(number, {name: value for name, value in zip(columns, row, strict=False) if value})

    def _line(self, number: int, fields: Mapping[str, Any]) -> Line | tuple[int, str]:
        try:
            body = _body(fields, self._most)
            return Line(number, body, _instant(fields), _text(fields, "signature"), _text(fields, "account"))
        except BadLineError as error:
            return number, str(error)


def _columns(row: list[str]) -> list[str]:
    columns = [name.strip().lower() for name in row]
    if "received_at" not in columns or not {"body", "body_base64"} & set(columns):
        raise SettingsError(
            "the first line of a CSV file names its columns, and this file lacks some: it needs `received_at`, and `body` or "
            "`body_base64`; `signature` and `account` may follow"
        )
    return columns


def _body(fields: Mapping[str, Any], most: int) -> bytes:
    given = [name for name in ("body", "body_base64") if fields.get(name) is not None]
    if len(given) != 1:
        raise BadLineError("give either `body` or `body_base64`" if given else "the line has neither `body` nor `body_base64`")
    value = fields[given[0]]
    if not isinstance(value, str):
        raise BadLineError(f"`{given[0]}` is no text: give the exact body that was received as text, or as base64")
    try:
        if given[0] == "body":
            body = value.encode("utf-8", "surrogateescape")
        else:
            body = base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        raise BadLineError("`body_base64` is no base64") from None
    if len(body) > most:
        raise BadLineError(f"the body has {len(body)} bytes, above WEBHOOKD_MAX_BODY_BYTES ({most})")
    return body


def _instant(fields: Mapping[str, Any]) -> datetime:
    value = fields.get("received_at")
    if value is None:
        raise BadLineError("the line has no `received_at`, the time of the receipt")
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        at = datetime.fromisoformat(str(value).strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise BadLineError(
            "`received_at` is no time, such as 2026-01-31T12:00:00Z (in JSON also a number: seconds since 1970)"
        ) from None


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadLineError(f"`{name}` is no text")
    return value or None


def format_of(name: str) -> Format | None:
    """Returns the format that the ending of a file's name stands for; None for another ending."""
    ending = name.rpartition(".")[2].lower()
    return {"jsonl": Format.JSONL, "ndjson": Format.JSONL, "csv": Format.CSV}.get(ending)

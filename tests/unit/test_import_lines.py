"""A file of old webhooks is read a line at a time, in bounded memory, whatever the file holds."""

from __future__ import annotations

import io
import json
import tracemalloc
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from webhookd.operate.import_lines import Format, Line, Lines, format_of
from webhookd.store.keys import id_at, new_id

AT = "2026-01-31T12:00:00"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(content: bytes, kind: Format = Format.JSONL, most: int = 100) -> list[Line | tuple[int, str]]:
    return list(Lines(io.BytesIO(content), kind, most))


@pytest.mark.parametrize(
    "given", [AT, AT + "Z", "2026-01-31 13:00:00+01", NOON.timestamp(), int(NOON.timestamp()), " 2026-01-31T12:00 "]
)
def test_a_time_is_utc_unless_it_names_a_zone(given: str | float) -> None:
    [line] = read(json.dumps({"body": "x", "received_at": given}).encode())
    assert isinstance(line, Line)
    assert line.received_at == NOON


def test_the_two_formats_read_the_same_webhooks() -> None:
    bodies = ['{"a": "b,c"}', 'two\r\nlines and a "quote"', "\u00e9\t\U0001f600"]
    rows = [{"body": body, "received_at": AT, "signature": "s", "account": "eu"} for body in bodies]
    as_json = "\ufeff" + "\n".join(json.dumps(row) for row in rows)
    quoted = [body.replace('"', '""') for body in bodies]
    as_csv = "\ufeffReceived_At , body,signature,account\n" + "".join(f'{AT},"{body}",s,eu\r\n' for body in quoted)
    as_csv = as_csv.replace(" body", "body")
    for found in (read(as_json.encode()), read(as_csv.encode(), Format.CSV)):
        lines = [line for line in found if isinstance(line, Line)]
        assert [(line.body.decode(), line.signature, line.account) for line in lines] == [(body, "s", "eu") for body in bodies]


def test_bytes_that_are_no_utf_8_stay_as_they_are_in_csv() -> None:
    [line] = read(b"body,received_at\n\xe9\xff," + AT.encode(), Format.CSV)
    assert isinstance(line, Line)
    assert line.body == b"\xe9\xff"


@pytest.mark.parametrize("kind", list(Format))
def test_a_line_without_an_end_takes_bounded_memory_and_only_in_json_the_lines_behind_it_are_read(kind: Format) -> None:
    good = b'{"body":"x","received_at":"%s"}\n' if kind is Format.JSONL else b"x,%s\n"
    good %= AT.encode()
    head = b"" if kind is Format.JSONL else b"body,received_at\n"

    class Endless(io.RawIOBase):
        """A file of one line of 60 MB, and another line."""

        def __init__(self) -> None:
            self.left = [head, *[b"y" * 1_000_000] * 60, b"\n", good]

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            while self.left and not self.left[0]:
                self.left.pop(0)
            if not self.left:
                return 0
            part = self.left[0][: len(buffer)]
            self.left[0] = self.left[0][len(part) :]
            buffer[: len(part)] = part
            return len(part)

        def readable(self) -> bool:
            return True

    tracemalloc.start()
    found = list(Lines(io.BufferedReader(Endless()), kind, 1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000
    assert isinstance(found[0], tuple)
    assert "longer" in found[0][1]
    assert [isinstance(line, Line) for line in found] == ([False, True] if kind is Format.JSONL else [False])


def test_many_lines_are_read_one_at_a_time() -> None:
    taken = 0

    class Counting(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            nonlocal taken
            taken += 1
            return super().readline(size)

    lines = iter(Lines(Counting(b'{"body":"x","received_at":1}\n' * 1000), Format.JSONL, 100))
    for number in range(1, 11):
        assert isinstance(next(lines), Line)
        assert taken == number


@pytest.mark.parametrize(
    "body",
    [
        b'"{\\"a\\": \n%s\n"',  # quotes that are escaped as MySQL does
        b'"' + b"x" * 70_000 + b'\n%s\n"',  # a field above the limit
    ],
)
def test_no_text_inside_a_body_becomes_a_webhook_and_the_report_says_where_reading_ended(body: bytes) -> None:
    inside = b"evil," + AT.encode()
    found = read(b"body,received_at\nx,%s\n%s,%s\nx,%s\n" % (AT.encode(), body % inside, AT.encode(), AT.encode()), Format.CSV)
    first, problem = found
    assert isinstance(first, Line)
    assert isinstance(problem, tuple)
    assert problem[0] == 3
    assert "the lines from here on are not read" in problem[1]


def test_a_byte_order_mark_stands_before_a_quoted_column_too() -> None:
    [line] = read(b'\xef\xbb\xbf"body","received_at"\nx,' + AT.encode(), Format.CSV)
    assert isinstance(line, Line)


def test_a_quote_without_an_end_is_one_bad_line() -> None:
    found = read(b'body,received_at\n"x' + b"\ny" * 10, Format.CSV)
    assert [isinstance(line, Line) for line in found] == [False]


@pytest.mark.parametrize(("name", "kind"), [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.b.csv", "csv"), ("-", None)])
def test_a_files_ending_names_its_format(name: str, kind: str | None) -> None:
    assert format_of(name) == kind


def test_an_id_for_a_time_has_that_time_and_the_form_of_every_other_id() -> None:
    made = uuid.UUID(str(id_at(NOON + timedelta(microseconds=123_456))))
    assert (made.version, made.variant) == (uuid.UUID(str(new_id())).version, uuid.RFC_4122)
    assert made.int >> 80 == int(NOON.timestamp() * 1000) + 123
    assert id_at(NOON) != id_at(NOON)

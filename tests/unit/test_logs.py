"""A log line is a JSON object, and never holds an exception's message."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from webhookd.telemetry import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("info", "json", out)
    yield out
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_is_a_json_object(stream: io.StringIO) -> None:
    structlog.stdlib.get_logger("webhookd").info("serving", port=8080)
    line = json.loads(stream.getvalue())
    assert line["message"] == "serving"
    assert line["port"] == 8080
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("name", ["webhookd", "some.library"])
def test_an_exceptions_message_is_not_logged_but_its_place_is(name: str, stream: io.StringIO) -> None:
    try:
        int("card 4111111111111111")
    except ValueError:
        logging.getLogger(name).exception("a step failed")
    text = stream.getvalue()
    assert "4111111111111111" not in text
    line = json.loads(text)
    assert line["error"].startswith("ValueError at test_logs.py:")
    assert any("test_logs.py" in frame for frame in line["trace"])


def test_libraries_are_heard_from_warnings_on(stream: io.StringIO) -> None:
    logging.getLogger("botocore").info("a request with its credentials")
    logging.getLogger("botocore").warning("a retry")
    assert "credentials" not in stream.getvalue()
    assert "a retry" in stream.getvalue()

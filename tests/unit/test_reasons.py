"""The dashboard names every reason of refusals and of quarantine that the code produces."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from webhookd.errors import SignatureError, Unusable
from webhookd.receive.refusal import Rejection, refusal

DASHBOARD = Path("webhookd/admin/dashboard")


@pytest.mark.parametrize(("page", "reasons"), [("refused.js", Rejection), ("quarantine-words.js", Unusable)])
def test_the_dashboard_has_words_for_each_reason(page: str, reasons: type[StrEnum]) -> None:
    words = (DASHBOARD / page).read_text().partition("const REASONS = {\n")[2].partition("};")[0]
    assert re.findall(r"^  (\w+): \"", words, re.MULTILINE) == list(reasons)


@pytest.mark.parametrize("outcome", ["missing", "malformed", "mismatch"])
def test_a_signature_that_does_not_verify_is_the_senders_fault(outcome: str) -> None:
    assert refusal(SignatureError(outcome)).outcome is Rejection(f"signature_{outcome}")

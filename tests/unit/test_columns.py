"""Texts are joined into columns for PostgreSQL: no text can shift other texts into the wrong rows."""

from __future__ import annotations

import pytest

from webhookd.store.receipts import _joined


def test_texts_are_joined_and_none_is_an_empty_one() -> None:
    assert _joined(["a", None, "", "b"]) == "a\x1f\x1f\x1fb"
    assert _joined([None]) == ""


@pytest.mark.parametrize("texts", [["a\x1fb"], ["a", "\x1f", "b"], ["a", "b\x1f"]])
def test_a_text_that_holds_the_separator_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="holds"):
        _joined(texts)

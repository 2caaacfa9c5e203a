"""The explanation of a failed sample names the handler, the user's line and the remedy."""

from __future__ import annotations

import pytest

from webhookd.dev.samples import explanation
from webhookd.errors import Permanent
from webhookd.process.failure import Failure
from webhookd.process.handlers import Registration

EVENTS = "payment.refund.created and 2 more"


async def book(event: object, connection: object) -> None:
    raise KeyError("amount")


async def failure_of(error: BaseException | None = None) -> str:
    """Returns the text that the audit trail has after an attempt that failed."""
    try:
        await book(None, None)
    except KeyError as raised:
        return Failure.of(error or raised, by=Registration("*", book)).detail
    raise AssertionError


async def test_the_handler_and_the_line_are_named() -> None:
    head, place, hint = explanation(await failure_of(), EVENTS)
    assert head == f"{EVENTS} failed in the handler {__name__}.book: KeyError: 'amount'"
    assert place.startswith(f"  at {__file__}:")
    assert place.endswith(f" in {__name__}.book")
    assert hint == "  correct the handler at this line; `webhookd dev --reload` takes it when you save the file"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ('UndefinedTableError: relation "orders" does not exist', "the table orders does not exist: give its SQL with"),
        (
            'UndefinedColumnError: column "paid_at" does not exist',
            'column "paid_at" does not exist: correct the handler\'s SQL',
        ),
    ],
)
def test_what_is_missing_in_the_database_is_named_with_the_option(error: str, hint: str) -> None:
    where = "[handler shop.book at /srv/shop.py:12 in shop.book, raised at connection.py:80 in execute, from KeyError]"
    head, place, told = explanation(f"{error} {where}", "payment.refund.created")
    assert head == f"payment.refund.created failed in the handler shop.book: {error}"
    assert place == "  at /srv/shop.py:12 in shop.book"
    assert hint in told
    assert "--schema FILE" in told


def test_a_failure_of_no_handler_is_shown_as_it_is() -> None:
    assert explanation("its body is gone [from there]", "x") == ["x failed: its body is gone [from there]"]


async def test_a_message_with_brackets_and_lines_is_shown_whole() -> None:
    head, *_ = explanation(await failure_of(Permanent("no [order]\nof this customer")), "x")
    assert head.endswith("Permanent: no [order]\nof this customer")

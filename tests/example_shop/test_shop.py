from decimal import Decimal

import pytest

from webhookd import Event, Retryable
from webhookd.testing import Status, Trial, event

SALE = "payment.authcapture.created"


async def place_order(trial: Trial, sale: Event) -> None:
    await trial.connection.execute("INSERT INTO orders VALUES ($1)", sale.payload["id"])


async def paid(trial: Trial, sale: Event) -> Decimal | None:
    amount: Decimal | None = await trial.connection.fetchval(
        "SELECT paid FROM orders WHERE transaction_id = $1", sale.payload["id"]
    )
    return amount


async def test_a_payment_marks_its_order_as_paid_and_a_repeat_changes_nothing(trial: Trial) -> None:
    sale = event(SALE, amount="7.10", invoice_number="4711")
    await place_order(trial, sale)
    await trial.assert_once(sale)
    assert await paid(trial, sale) == Decimal("7.10")


@pytest.mark.parametrize("code", [2, 3, 4, 21])
async def test_a_payment_that_was_declined_or_is_held_and_a_test_pay_nothing(trial: Trial, code: int) -> None:
    sale = event(SALE, response_code=code)
    await place_order(trial, sale)
    assert await trial.deliver(sale) is Status.PROCESSED
    assert await paid(trial, sale) is None


async def test_a_payment_that_comes_before_its_order_is_tried_again(trial: Trial) -> None:
    sale = event(SALE, amount="7.10")
    with pytest.raises(Retryable) as early:
        await trial.deliver(sale)
    assert early.value.after == 60
    await place_order(trial, sale)
    assert await trial.deliver(sale) is Status.PROCESSED
    assert await paid(trial, sale) == Decimal("7.10")

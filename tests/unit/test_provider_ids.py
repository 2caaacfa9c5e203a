"""Ids of the provider's answers: an odd one is left out, since an index could not hold it."""

from __future__ import annotations

import pytest

from webhookd.authorizenet.api.reading import transaction, transaction_page

LONG = "7" * 201


def test_a_text_that_is_too_long_for_an_index_is_no_id() -> None:
    fields = {
        "transId": "1",
        "transactionStatus": "settledSuccessfully",
        "refTransId": LONG,
        "invoiceNumber": LONG,
        "order": {"invoiceNumber": LONG},
        "subscription": {"id": LONG, "payNum": 1},
    }
    found = transaction({"transaction": fields})
    assert (found.ref_transaction_id, found.invoice_number, found.subscription_payment) == (None, None, None)
    (row,) = transaction_page({"transactions": [fields]}).rows
    assert (row.invoice_number, row.subscription_payment) == (None, None)


@pytest.mark.parametrize(("value", "wanted"), [(True, True), ("true", True), ("false", False), (False, False), (None, False)])
def test_a_recurring_charge_may_be_marked_by_a_text(value: object, wanted: bool) -> None:
    fields = {"transId": 1, "transactionStatus": "settledSuccessfully", "recurringBilling": value}
    assert transaction({"transaction": fields}).recurring is wanted

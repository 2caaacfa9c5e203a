"""An operator's batches of deliveries: each costs no count of what waits."""

from __future__ import annotations

from typing import Any, cast

import pytest

from webhookd.errors import NotFoundError
from webhookd.operate.destinations import Destinations
from webhookd.operate.operator_queries import OperatorQueries
from webhookd.store.queries import queries


class Asked:
    """Notes the statements. `known`: the answer about a destination that is not set."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.statements: list[Any] = []

    async def one(self, query: Any, **_: Any) -> Any:
        self.statements.append(query)
        return self.known if query is queries.destination_is_known else 1000

    async def all(self, query: Any, **_: Any) -> list[Any]:
        self.statements.append(query)
        return []


async def test_a_batch_counts_nothing() -> None:
    asked = Asked()
    shop = Destinations(cast("OperatorQueries", asked), lambda: ["shop"])
    assert await shop.drop("shop", None, unfinished=True, actor="ann", note="") == (1000, True)
    assert await shop.redrive("shop", None, actor="ann", note="") == (1000, True)
    await shop.pause("shop", actor="ann")
    assert await shop.resume("shop") == (1000, False)
    await shop.drop("removed", None, unfinished=True, actor="ann", note="")
    assert asked.statements == [
        queries.cancel_replays,
        queries.drop_deliveries,
        queries.redrive_deliveries,
        queries.pause_destination,
        queries.resume_destination,
        queries.hasten_retries,
        queries.destination_is_known,
        queries.cancel_replays,
        queries.drop_deliveries,
    ]


async def test_an_unknown_destination_is_refused() -> None:
    nobody = Destinations(cast("OperatorQueries", Asked(known=False)), lambda: ["shop"])
    with pytest.raises(NotFoundError, match="there is no destination nobody"):
        await nobody.drop("nobody", None, unfinished=True, actor="ann", note="")

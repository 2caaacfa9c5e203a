"""The sweeps of an account take turns, so that an account in which nothing happens costs one call in each run."""

from __future__ import annotations

from webhookd.sync.settlement_sweep import SettlementSweep
from webhookd.sync.subscription_sweep import SubscriptionSweep


class Sweeps:
    """The sweep of an account's subscriptions, and then that of its settlement, unless the first one read a list."""

    def __init__(self, subscriptions: SubscriptionSweep, settlement: SettlementSweep) -> None:
        self._subscriptions = subscriptions
        self._settlement = settlement
        self._both = False  # the first run of the settlement begins only

    async def run(self) -> bool:
        """Does a part of the sweeps. Returns whether more is left, so that another run should follow at once.

        Raises the client's errors. Then the other sweep has the next run, so that it does not wait for one that fails.
        """
        left = False
        if self._both:
            self._both = False
            left = await self._subscriptions.run()
            if self._subscriptions.listed:
                return left
        try:
            return await self._settlement.run() or left
        finally:
            self._both = True

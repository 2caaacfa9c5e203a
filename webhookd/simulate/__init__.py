"""A simulator of Authorize.Net: its API on this machine, and deliveries as the provider makes them. No money, no internet.

`Simulator` starts and stops it. `Faults` makes it misbehave as the provider does at times; a seed makes the same faults again.
`Simulator.till` makes sales and all that follows them, and `story` the days of a merchant.
"""

from webhookd.simulate.books import Account, Notification, Webhook
from webhookd.simulate.clock import Clock
from webhookd.simulate.faults import Faults
from webhookd.simulate.records import Batch, Return, Rules, Subscription, Transaction
from webhookd.simulate.simulator import Simulator
from webhookd.simulate.story import DIFFERENCES, Planted, story
from webhookd.simulate.till import Till
from webhookd.simulate.wire import PERSONAL

__all__ = [
    "DIFFERENCES",
    "PERSONAL",
    "Account",
    "Batch",
    "Clock",
    "Faults",
    "Notification",
    "Planted",
    "Return",
    "Rules",
    "Simulator",
    "Subscription",
    "Till",
    "Transaction",
    "Webhook",
    "story",
]

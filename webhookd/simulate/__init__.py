"""A simulator of Authorize.Net: its API on this machine, and deliveries as the provider makes them. No money, no internet.

`Simulator` starts and stops it. `Faults` makes it misbehave as the provider does at times; a seed makes the same faults again.
"""

from webhookd.simulate.books import Account, Notification, Webhook
from webhookd.simulate.clock import Clock
from webhookd.simulate.faults import Faults
from webhookd.simulate.simulator import Simulator

__all__ = ["Account", "Clock", "Faults", "Notification", "Simulator", "Webhook"]

"""Tests of handlers: events as the provider sends them, and a trial of handlers on a transaction that is rolled back.

`from webhookd.testing import event, trial`. With pytest, name the fixtures: `pytest_plugins = ["webhookd.testing.fixtures"]`.
"""

from webhookd.event import Status
from webhookd.testing.events import MisuseError, event
from webhookd.testing.trial import DeliveryError, Handlers, Trial, trial

__all__ = ["DeliveryError", "Handlers", "MisuseError", "Status", "Trial", "event", "trial"]

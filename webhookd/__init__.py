"""webhookd receives Authorize.Net webhooks: durable before the 200, each one's effects exactly once.

Users' handler modules import these names: `from webhookd import on, Event, Permanent, Retry, Retryable`.
"""

from webhookd.errors import Permanent, Retryable
from webhookd.event import Event
from webhookd.process.handlers import on
from webhookd.process.retry import Retry

__all__ = ["Event", "Permanent", "Retry", "Retryable", "on"]

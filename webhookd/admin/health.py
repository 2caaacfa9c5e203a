"""Health: liveness (the loop turns), readiness (webhooks can be taken), and each dependency's state."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol


@functools.cache
def _version() -> str:
    return version("webhookd")  # which reads a file


class Dependency(Protocol):
    """What a health report asks of a dependency's gateway."""

    up: bool
    problem: str | None


@dataclass(slots=True)
class Health:
    """What the daemon knows of itself; `serving` from when its listeners are open, `stopping` from when shutdown begins."""

    postgresql: Dependency
    redis: Dependency
    sqs: Dependency
    serving: bool = False
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Whether webhooks can be taken: listening, PostgreSQL up with the right schema, and no shutdown begun."""
        return self.serving and self.postgresql.up and not self.stopping

    def report(self) -> dict[str, Any]:
        """JSON: status ("ok", "degraded": slower or queueing, "unavailable": refusing webhooks), and each dependency."""
        dependencies = {"postgresql": self.postgresql, "redis": self.redis, "sqs": self.sqs}
        status = "unavailable" if not self.ready else "ok" if all(d.up for d in dependencies.values()) else "degraded"
        return {
            "status": status,
            "version": _version(),
            "stopping": self.stopping,
            "dependencies": {
                name: {"up": d.up} if d.up else {"up": False, "problem": d.problem} for name, d in dependencies.items()
            },
        }

    def summary(self) -> str:
        """How things are, in a line; it holds no secret."""
        dependencies = {"PostgreSQL": self.postgresql, "Redis": self.redis, "SQS": self.sqs}
        away = ", ".join(f"{name} away" for name, of in dependencies.items() if not of.up)
        if not self.serving:
            return "starting"
        return f"{'taking webhooks' if self.ready else 'refusing webhooks'}{f': {away}' if away else ''}"

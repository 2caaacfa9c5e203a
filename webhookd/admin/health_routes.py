"""Health: liveness (the event loop runs), readiness (webhooks can be taken), and each dependency's state."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol


@functools.cache
def _version() -> str:
    return version("webhookd")  # slow, because `version` reads a file


class Dependency(Protocol):
    """The part of a dependency's gateway that a health report reads."""

    up: bool
    problem: str | None


class PostgreSQL(Dependency, Protocol):
    """The part of PostgreSQL's gateway that a health report reads.

    `refusal`: why PostgreSQL opens no new session while open sessions go on working; None if it opens sessions.
    """

    refusal: str | None


@dataclass(slots=True)
class Health:
    """The health of the daemon. `serving`: the listeners have been opened. `stopping`: shutdown has begun."""

    postgresql: PostgreSQL
    redis: Dependency
    sqs: Dependency
    serving: bool = False
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Returns whether webhooks can be taken: listeners open, PostgreSQL up with the right schema, and no shutdown begun."""
        return self.serving and self.postgresql.up and not self.stopping

    def report(self) -> dict[str, Any]:
        """Returns JSON: status ("ok", "degraded": slower or queueing, "unavailable": refusing webhooks) and each dependency."""
        problems = self._problems()
        status = "unavailable" if not self.ready else "ok" if not any(problems.values()) else "degraded"
        return {
            "status": status,
            "version": _version(),
            "stopping": self.stopping,
            "dependencies": {
                name: {"up": False, "problem": problem} if problem else {"up": True} for name, problem in problems.items()
            },
        }

    def _problems(self) -> dict[str, str | None]:
        dependencies = {"postgresql": self.postgresql, "redis": self.redis, "sqs": self.sqs}
        problems = {name: None if dependency.up else dependency.problem or "away" for name, dependency in dependencies.items()}
        return problems | {"postgresql": problems["postgresql"] or self.postgresql.refusal}

    def summary(self) -> str:
        """Returns the state of the daemon in one line that holds no secret."""
        names = {"postgresql": "PostgreSQL", "redis": "Redis", "sqs": "SQS"}
        away = ", ".join(f"{names[name]} away" for name, problem in self._problems().items() if problem)
        if not self.serving:
            return "starting"
        return f"{'taking webhooks' if self.ready else 'refusing webhooks'}{f': {away}' if away else ''}"

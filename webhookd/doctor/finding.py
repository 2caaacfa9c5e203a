"""What one check of the doctor found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended. Only `failed` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True, frozen=True)
class Finding:
    """One check: what was looked at, how it is, and what to do where it is not well."""

    check: str
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)

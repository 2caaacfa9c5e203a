"""The finding of one check of the doctor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The verdict of a check. Only `failed` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True, frozen=True)
class Finding:
    """The finding of one check: its subject, its verdict, and in `detail` the state and the remedy if something is wrong."""

    check: str
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, str]:
        """Returns the finding for `--json`."""
        return asdict(self)

"""The place of the queues: the AWS region, the setting that names the region, and the endpoint."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_OF_AWS = re.compile(r"https://sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?(?:/.*)?")


@dataclass(slots=True, frozen=True)
class Place:
    """The place of the queues. `region` is None if only a file of the AWS SDK names the region."""

    region: str | None
    source: str  # the setting that names the region
    endpoint: str | None  # WEBHOOKD_SQS_ENDPOINT_URL

    @classmethod
    def of(cls, region: str | None, endpoint: str | None) -> Place:
        """Returns the place as settings and environment name it. `region`: WEBHOOKD_SQS_REGION."""
        if region:
            return cls(region, "WEBHOOKD_SQS_REGION", endpoint)
        # botocore reads AWS_DEFAULT_REGION alone, while AWS's other SDKs, and their documentation, name AWS_REGION.
        for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if value := os.environ.get(variable):
                return cls(value, variable, endpoint)
        return cls(None, "the AWS configuration file", endpoint)

    def __str__(self) -> str:
        """Names the region with its source, and the endpoint if one is set."""
        region = f"the region {self.region} (from {self.source})" if self.region else f"the region of {self.source}"
        return region + (f" at {self.endpoint}" if self.endpoint else "")

    def another(self, queue: str) -> str | None:
        """Returns the region in the URL of a queue if the calls are signed for another region; else None."""
        match = _OF_AWS.fullmatch(queue)
        return match["region"] if match and self.region and match["region"] != self.region else None

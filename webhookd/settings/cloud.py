"""The cloud services that a destination's URL can name: a queue of SQS, a topic of SNS, or a bus of EventBridge.

Contract: the API references of SQS (CreateQueue), SNS (CreateTopic) and EventBridge (PutEvents) for the form of names and ARNs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from webhookd.settings.destinations import DestinationSettings
    from webhookd.settings.model import Settings

_REGION = r"[a-z]{2}(?:-[a-z0-9]+){2,4}"
_QUEUE_NAME = r"(?:[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)"
_QUEUE = re.compile(
    rf"sqs://(?P<name>{_QUEUE_NAME}|https?://[A-Za-z0-9.-]{{1,253}}(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9_-]+)*/{_QUEUE_NAME})"
)
_TOPIC = re.compile(rf"sns:(?P<name>arn:aws[a-z-]*:sns:(?P<region>{_REGION}):[0-9]{{12}}:[A-Za-z0-9_-]{{1,256}}(?:\.fifo)?)")
_BUS = re.compile(
    r"eventbridge://(?P<name>[A-Za-z0-9_][A-Za-z0-9._/-]{0,255}"
    rf"|arn:aws[a-z-]*:events:(?P<region>{_REGION}):[0-9]{{12}}:event-bus/[A-Za-z0-9._/-]{{1,256}})"
)
_QUEUE_OF_AWS = re.compile(rf"https://sqs\.(?P<region>{_REGION})\.(?:amazonaws\.com|amazonaws\.com\.cn|api\.aws)/.*")
_EXACT = re.compile(rf"https://sqs\.({_REGION})\.amazonaws\.com/([0-9]{{12}})/({_QUEUE_NAME})")
# Settings of requests by HTTP, which a cloud service does not get from webhookd.
_OF_HTTP = ("headers", "first_byte_timeout", "ca_file", "client_cert", "client_key", "give_up_on")


class Service(StrEnum):
    """A cloud service that takes events."""

    SQS = "sqs"
    SNS = "sns"
    EVENTBRIDGE = "eventbridge"


@dataclass(slots=True, frozen=True)
class Target:
    """A queue (name or URL), a topic (ARN) or a bus (name or ARN). `region` is None if the name holds none."""

    service: Service
    name: str
    region: str | None

    @property
    def is_fifo(self) -> bool:
        """Returns whether the queue or the topic is of the kind FIFO."""
        return self.service is not Service.EVENTBRIDGE and self.name.endswith(".fifo")

    @property
    def endpoint(self) -> str | None:
        """Returns the scheme and the host of a queue's URL; None for a name or an ARN."""
        if "://" not in self.name:
            return None
        parts = urlsplit(self.name)
        return f"{parts.scheme}://{parts.netloc}"


def target_of(url: str) -> Target | None:
    """Returns what the URL of a destination names in the cloud; None if the URL is of another kind. Raises ValueError."""
    if url.startswith("sqs:"):
        if (match := _QUEUE.fullmatch(url)) is None or not _has_port(match["name"]):
            raise ValueError("must be sqs:// and the name or the URL of a queue, such as sqs://orders")
        of_aws = _QUEUE_OF_AWS.fullmatch(match["name"])
        return Target(Service.SQS, match["name"], of_aws["region"] if of_aws else None)
    for prefix, pattern, service, how in (
        ("sns:", _TOPIC, Service.SNS, "sns: and the ARN of a topic, such as sns:arn:aws:sns:us-east-1:123456789012:orders"),
        (
            "eventbridge:",
            _BUS,
            Service.EVENTBRIDGE,
            "eventbridge:// and the name or the ARN of a bus, such as eventbridge://shop",
        ),
    ):
        if url.startswith(prefix):
            if (match := pattern.fullmatch(url)) is None:
                raise ValueError(f"must be {how}")
            return Target(service, match["name"], match["region"])
    return None


def _has_port(url: str) -> bool:
    """Returns whether the port of a URL, if there is one, is a port."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def cloud_problems(prefix: str, one: DestinationSettings, target: Target, settings: Settings) -> Iterator[str]:
    """Yields a line for each setting of a cloud destination that cannot work: the setting, what is wrong, and the remedy."""
    if "body" in one.model_fields_set and one.body == "exact":
        yield f"{prefix}BODY is exact, but a cloud service gets the envelope: remove the setting, or set it to envelope"
    for name in _OF_HTTP:
        if getattr(one, name):
            yield f"{prefix}{name.upper()} is for requests by HTTP, and {prefix}URL is {_A[target.service]}: remove one of them"
    if one.secrets and target.service is Service.EVENTBRIDGE:
        yield f"{prefix}SECRETS: an event of EventBridge has no place for a signature: remove the setting"
    where, endpoint = _endpoint(prefix, target, settings)
    if urlsplit(endpoint).scheme == "http" and not one.allow_private:
        yield in_clear(where, prefix)
    for setting, queue in (
        ("WEBHOOKD_SQS_QUEUE", settings.sqs_queue),
        ("WEBHOOKD_SQS_DEAD_LETTER_QUEUE", settings.sqs_dead_letter_queue),
    ):
        if target.service is Service.SQS and _may_be_one(target.name, queue):
            yield (
                f"{prefix}URL may be the queue of {setting}, where webhookd would get its own events back: name another queue; "
                "if it is another one of the same name, give both settings the queue's URL"
            )


def in_clear(where: str, prefix: str) -> str:
    """Returns the sentence about an address that begins with http://. `where`: the setting or the place that names it."""
    return (
        f"{where} has http://, so everybody on the way could read the events: use https://, or set "
        f"{prefix}ALLOW_PRIVATE=true if the address is in your own network"
    )


def _endpoint(prefix: str, target: Target, settings: Settings) -> tuple[str, str]:
    """Returns the setting or the variable that names the address of a service, and the address; both empty if none does."""
    if target.endpoint is not None:
        return f"{prefix}URL", target.endpoint
    if target.service is Service.SQS and settings.sqs_endpoint_url is not None:
        return "WEBHOOKD_SQS_ENDPOINT_URL", settings.sqs_endpoint_url
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":  # as the AWS SDK reads it
        return "", ""
    for variable in (f"AWS_ENDPOINT_URL_{target.service.upper()}", "AWS_ENDPOINT_URL"):  # the AWS SDK reads them in this order
        if value := os.environ.get(variable):
            return variable, value
    return "", ""


_A = {Service.SQS: "a queue of SQS", Service.SNS: "a topic of SNS", Service.EVENTBRIDGE: "a bus of EventBridge"}


def _may_be_one(one: str, other: str) -> bool:
    """Returns whether two names or URLs may be those of one queue. A queue has several hosts and paths, and one name."""
    ones = [_EXACT.fullmatch(url) for url in (one, other)]
    if all(ones):
        return ones[0].groups() == ones[1].groups()  # type: ignore[union-attr]
    return _last(one) == _last(other)


def _last(name: str) -> str:
    return unquote(name).rstrip("/").rpartition("/")[2]

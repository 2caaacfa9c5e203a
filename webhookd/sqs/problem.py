"""The sentence for each problem of SQS, SNS and EventBridge: what is wrong, in which setting or place, and the remedy.

The doctor, the log, the health and the API show this sentence. No message of AWS is shown: AWS' messages quote access keys.

Contract: the SQS API reference, "Common error types" (AccessDeniedException, ExpiredTokenException, IncompleteSignature,
InvalidClientTokenId and UnrecognizedClientException, OptInRequired, RequestExpired, ThrottlingException) and the errors of each
operation; "Signature Version 4: troubleshooting" of the AWS reference for SignatureDoesNotMatch; and RequestTimeTooSkewed, the
code of other AWS services for a clock that is wrong. The rights of operations: "Amazon SQS API permissions" of the SQS guide.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
import time
from typing import NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    ConnectTimeoutError,
    InvalidProxiesConfigError,
    NoRegionError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
)

from webhookd.errors import causes_of
from webhookd.sqs.credentials import CredentialsError
from webhookd.sqs.errors import code_of, is_missing, plain
from webhookd.sqs.place import Place

_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_DENIED = (
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "NotAuthorized",
    "NotAuthorizedForDetailType",
    "NotAuthorizedForSource",
    "UnauthorizedOperation",
)
_UNKNOWN_KEY = ("InvalidClientTokenId", "UnrecognizedClient", "InvalidAccessKeyId", "AuthFailure", "InvalidSecurity")
_SIGNATURE = ("SignatureDoesNotMatch", "InvalidSignature", "IncompleteSignature")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_THROTTLED = (
    "KMSThrottling",
    "OverLimit",
    "RequestLimitExceeded",
    "RequestThrottled",
    "Throttled",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
)
_NOT_FOUND = ("NotFound", "ResourceNotFound")
_SKEW_MINUTES = 5  # AWS refuses a signature whose time is further away from its clock


class Api(NamedTuple):
    """A service of AWS, as sentences name it."""

    name: str
    prefix: str  # of its rights
    thing: str  # the kind of what a call is about
    endpoint: str  # the setting of its address


SQS = Api("SQS", "sqs", "queue", "WEBHOOKD_SQS_ENDPOINT_URL")


def problem_of(error: BaseException, queue: str, setting: str, place: Place, api: Api = SQS) -> str:
    """Returns why a call about `queue` failed, and the remedy, in one sentence that holds no secret.

    queue: the queue's name or URL; or the name or ARN of what another service has.
    setting: the setting that names the queue.
    place: where the queue is looked for.
    api: the service.
    """
    if isinstance(error, ClientError):
        return _refused(error, queue, setting, place, api)
    if isinstance(error, CredentialsError):
        return str(error)
    return _unreachable(error, place, api)


def is_throttled(code: str) -> bool:
    """Returns whether `code` asks for fewer calls."""
    return plain(code) in _THROTTLED


def _refused(error: ClientError, queue: str, setting: str, place: Place, api: Api) -> str:
    code = code_of(error)
    short = plain(code)
    if is_missing(error) or (api is not SQS and short in _NOT_FOUND):
        return _missing(queue, setting, place, api)
    if code.upper().startswith("KMS") and short not in _THROTTLED:
        return f"{code}: give webhookd's role kms:GenerateDataKey and kms:Decrypt on the {api.thing}'s key"
    if short in _SKEWED or (short in _SIGNATURE and _minutes_away(error) is not None):
        return _skewed(error, code)
    if short in _DENIED:
        right = f"{api.prefix}:{error.operation_name.removesuffix('Batch')}"
        return (
            f"webhookd's AWS credentials lack the right {right} on the {api.thing} {queue} ({code}): allow it in the policy of "
            f"its role or user; for a {api.thing} of another account, also in the {api.thing}'s policy"
            f"{_elsewhere(queue, setting, place)}"
        )
    if short in _EXPIRED:
        return (
            f"the AWS credentials have expired ({code}): set new ones ({_KEYS}, AWS_SESSION_TOKEN), or give the machine or the "
            "pod a role, whose credentials webhookd renews"
        )
    if short in _UNKNOWN_KEY:
        return (
            f"AWS does not know the access key of webhookd ({code}): correct {_KEYS}; temporary credentials also need "
            "AWS_SESSION_TOKEN"
        )
    if short in _SIGNATURE:
        return (
            f"AWS refuses the signature of webhookd's calls ({code}): correct AWS_SECRET_ACCESS_KEY, and see that "
            f"{place.source} names the {api.thing}'s region (calls are signed for {place}){_elsewhere(queue, setting, place)}"
        )
    if short in _THROTTLED:
        return (
            f"{api.name} throttles webhookd's calls ({code}): webhookd goes on by itself; if this lasts, ask AWS for a higher "
            "quota"
        )
    if short in ("OptInRequired", "InvalidAction"):
        return (
            f"{api.name} is not available to this account in {place} ({code}): enable the region in AWS, or correct "
            f"{place.source}"
        )
    if code.isdigit():  # an answer without a code of AWS, for example a proxy's page
        return f"the answer is not one of {api.name} (HTTP {code}; {place}): check {api.endpoint} and the proxies in between"
    return (
        f"{api.name} refuses {error.operation_name} ({code}): look for this code in the {api.name} API reference; calls go to "
        f"{place}"
    )


def _missing(queue: str, setting: str, place: Place, api: Api) -> str:
    return (
        f"the {api.thing} {queue} does not exist in {place}: correct {setting} or {place.source}, or make the {api.thing} there"
        f"{_elsewhere(queue, setting, place)}"
    )


def _elsewhere(queue: str, setting: str, place: Place) -> str:
    other = place.another(queue)
    return f"; the URL in {setting} is of the region {other}, so set WEBHOOKD_SQS_REGION={other}" if other else ""


def _minutes_away(error: ClientError) -> int | None:
    """Returns the minutes from AWS' clock to this machine's, negative if it is behind; None below five, or without a date."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        theirs = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    minutes = round((time.time() - theirs) / 60)
    return minutes if abs(minutes) >= _SKEW_MINUTES else None


def _skewed(error: ClientError, code: str) -> str:
    minutes = _minutes_away(error)
    away = "wrong" if minutes is None else f"{abs(minutes)} minutes {'ahead of' if minutes > 0 else 'behind'} AWS' clock"
    return f"this machine's clock is {away}, so AWS refuses webhookd's signatures ({code}): run NTP (chrony, systemd-timesyncd)"


def _unreachable(error: BaseException, place: Place, api: Api) -> str:
    causes = causes_of(error)
    host = place.endpoint or f"{api.name}'s own address"
    settings = api.endpoint if place.endpoint else f"{place.source} (a wrong region has no address)"
    if any(isinstance(one, ProxyConnectionError | InvalidProxiesConfigError) for one in causes):
        return f"the proxy of HTTPS_PROXY or HTTP_PROXY cannot be used: correct it, or name {api.name}'s host in NO_PROXY"
    for one in causes:
        if isinstance(one, NoRegionError):
            return "no AWS region: set AWS_REGION (or WEBHOOKD_SQS_REGION)"
        if isinstance(one, ProfileNotFound | ConfigParseError):
            return f"the AWS SDK's own settings: {one}"
        if isinstance(one, socket.gaierror):
            return f"the host of {api.name} is unknown ({place}): correct {settings}, or mend the name server of this machine"
        if isinstance(one, ssl.SSLError):
            return (
                f"TLS with {api.name} fails ({one.reason or 'no reason given'}; {place}): correct the scheme or host in "
                f"{settings}, or name the CA's file in AWS_CA_BUNDLE"
            )
        if isinstance(one, ConnectionRefusedError):
            return f"nothing listens at {host}: start it, or correct {settings}"
    if any(isinstance(one, TimeoutError | ConnectTimeoutError | ReadTimeoutError) for one in causes):
        return (
            f"{api.name} has not answered in time ({place}): let the network and its firewalls lead to it, or correct "
            f"{settings}; a private subnet needs a VPC endpoint or a NAT gateway"
        )
    if any(isinstance(one, BotoCoreError | OSError) for one in causes):
        return f"the connection to {api.name} breaks ({place}): check the network and proxies in between, and {settings}"
    return f"the answer is not one of {api.name} ({place}): correct {settings}, or remove the proxy that answers instead"

"""Deliveries without a server: signatures, addresses, the meaning of answers, filters, and settings."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from tests.helpers.receivers import OTHER_SECRET, SECRET
from webhookd.deliver.addresses import RefusedAddressError, is_public, public_socket
from webhookd.deliver.answers import accepted, asked_to_wait, delay_after, is_down
from webhookd.deliver.destination import Destination, Payload, Routes, destinations_of
from webhookd.deliver.pace import Pace
from webhookd.deliver.signing import Message, envelope, headers, signature
from webhookd.errors import SettingsError
from webhookd.settings.destinations import FIELDS, DestinationSettings, secret_bytes
from webhookd.settings.sources import SECTIONS

NOW = datetime(2026, 11, 30, 12, 0, 0, 500_000, tzinfo=UTC)
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def message(body: bytes = b"{}", **more: Any) -> Message:
    return Message(ID, "default", "net.authorize.customer.created", NOW, 1, body, **more)


def destination(**settings: Any) -> Destination:
    return Destination("shop", DestinationSettings.model_validate({"url": "https://shop.example.com/hooks", **settings}))


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
def test_the_public_library_verifies_each_signature(secret: str) -> None:
    body = '{"a": "café", "b": 100.10}'.encode()
    keys = [secret_bytes(SECRET), secret_bytes(OTHER_SECRET)]
    made = headers(message(), body, at=datetime.now(UTC), keys=keys, signature_key=None)
    Webhook(secret).verify(body, made)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", made)


def test_each_secret_signs() -> None:
    one, other = secret_bytes(SECRET), secret_bytes(OTHER_SECRET)
    both = signature("id", 1, b"body", [one, other])
    assert both.split(" ") == [signature("id", 1, b"body", [one]), signature("id", 1, b"body", [other])]
    assert len(base64.b64decode(both.split(" ")[0].removeprefix("v1,"))) == 32


@pytest.mark.parametrize("origin", ["webhook", "history", "import", "synthetic"])
def test_no_synthetic_event_has_the_providers_signature(origin: str) -> None:
    keys = [secret_bytes(SECRET)]
    made = headers(message(origin=origin), b"{}", at=NOW, keys=keys, signature_key="0A" * 64)
    assert ("X-ANET-Signature" in made) == (origin != "synthetic")
    assert made["webhookd-origin"] == origin
    assert "webhook-signature" in made, "the destination's own secret signs"


def test_a_request_says_when_the_event_was_received_and_continues_its_trace() -> None:
    received = datetime(2026, 11, 30, 14, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=2)))
    sent = message(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")._replace(received_at=received)
    made = headers(sent, b"{}", at=NOW + timedelta(hours=1), keys=[], signature_key=None)
    assert made["webhookd-received-at"] == "2026-11-30T12:00:00.500000Z"
    assert json.loads(envelope(sent))["received_at"] == "2026-11-30T12:00:00.500000Z"
    assert made["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_a_secret_or_a_key_there_is_no_signature() -> None:
    made = headers(message(), b"{}", at=NOW, keys=[], signature_key=None)
    assert {"webhook-signature", "X-ANET-Signature", "traceparent"}.isdisjoint(made)
    assert made["webhook-timestamp"] == str(int(NOW.timestamp()))


def test_a_request_does_not_read_the_version_from_its_file_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it took longer than the rest of a request."""
    first = headers(message(), b"{}", at=NOW, keys=[], signature_key=None)["User-Agent"]
    monkeypatch.delattr("webhookd.deliver.signing.version")
    assert headers(message(), b"{}", at=NOW, keys=[], signature_key=None)["User-Agent"] == first


@given(event_type=st.text(max_size=400), account=st.just("default"))
def test_no_event_type_makes_another_header(event_type: str, account: str) -> None:
    odd = Message(ID, account, event_type.encode("utf-8", "replace").decode(), NOW, 1, b"{}")
    value = headers(odd, b"{}", at=NOW, keys=[], signature_key=None)["webhookd-event-type"]
    assert all("!" <= character <= "~" for character in value)


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b'{"a": 100.10, "b": 1E2}', b'{"a": 100.10, "b": 1E2}'),
        (b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}'),
        ('{"a": "café"}'.encode("latin-1"), '{"a": "café"}'.encode()),
        (b"not json", b'"not json"'),
    ],
)
def test_the_envelope_keeps_the_body_or_mends_it(body: bytes, data: bytes) -> None:
    made = envelope(message(body))
    assert made.endswith(b',"data":' + data + b"}")
    assert json.loads(made)["id"] == str(ID)


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::1",
    "168.63.129.16", "192.0.0.192", "192.88.99.1", "3fff::1", "::ffff:168.63.129.16", "2002:a83f:8110::1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_gets_no_socket(address: str) -> None:
    assert not is_public(address)
    family = 10 if ":" in address else 2
    with pytest.raises(RefusedAddressError, match="not a public address"):
        public_socket((family, 1, 6, "", (address, 443)))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_gets_a_socket(address: str) -> None:
    assert is_public(address)
    public_socket((2, 1, 6, "", ("8.8.8.8", 443))).close()


def delay(
    attempt: int = 1, *, status: int = 500, retry_after: str | None = None, give_up_on: tuple[int, ...] = ()
) -> float | None:
    asked = asked_to_wait(status, retry_after, now=NOW)
    return delay_after(attempt, most=20, status=status, asked=asked, give_up_on=give_up_on)


def test_only_2xx_is_accepted() -> None:
    assert [status for status in range(100, 600) if accepted(status)] == list(range(200, 300))


def test_the_attempts_take_about_three_days() -> None:
    days = sum(delay(attempt) or 0 for attempt in range(1, 20)) / 86_400
    assert 2.3 < days < 3.6
    assert delay(20) is None
    first = delay(1)
    assert first is not None
    assert 4 <= first <= 6


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "120", 120),
        (503, "43200", 43_200),
        (503, "99999999", 43_200),
        (503, "1" * 400, 43_200),
        (429, "Mon, 30 Nov 2026 12:02:00 GMT", 119.5),
    ],
)
def test_retry_after_is_kept_within_bounds(status: int, retry_after: str, seconds: float) -> None:
    assert delay(status=status, retry_after=retry_after) == seconds


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [
        (500, "120"),
        (503, "soon"),
        (429, ""),
        (429, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
        (429, "Mon, 30 Nov 2026 12:02:00 +99999999999999999999"),
    ],
)
def test_another_retry_after_is_not_kept(status: int, retry_after: str) -> None:
    made = delay(status=status, retry_after=retry_after)
    assert made is not None
    assert made < 10


@pytest.mark.parametrize("retry_after", ["0", "1", "Mon, 30 Nov 2020 12:02:00 GMT"])
def test_a_short_retry_after_does_not_shorten_the_schedule(retry_after: str) -> None:
    asked = sum(delay(attempt, status=429, retry_after=retry_after) or 0 for attempt in range(1, 20))
    assert asked / 86_400 > 2.3, "otherwise a receiver that limits the rate would lose the event within seconds"


def test_an_answer_about_one_event_is_no_failure_of_the_destination() -> None:
    down, up = [None, 408, 429, 500, 502, 503, 504, 599], [400, 404, 409, 410, 422]
    assert [is_down(status) for status in down] == [True] * len(down)
    assert [is_down(status) for status in up] == [False] * len(up)
    assert is_down(501, (501,)) is False, "the settings say that the status concerns the event"


def test_an_answer_that_a_proxy_may_give_shows_nothing_about_the_destination() -> None:
    assert [is_down(status) for status in (301, 302, 307, 401, 403)] == [None] * 5


def test_a_final_status_ends_the_attempts() -> None:
    assert delay(status=410) is None
    assert delay(status=404) is not None
    assert delay(status=404, give_up_on=(404,)) is None


@pytest.mark.parametrize(
    ("condition", "payload", "taken"),
    [
        ("authAmount > `100`", {"authAmount": 100.01}, True),
        ("authAmount > `100`", {"authAmount": 100}, False),
        ("authAmount == `7.67`", {"authAmount": 7.67}, True),
        ("entityName == 'transaction' && responseCode == `1`", {"entityName": "transaction", "responseCode": 1}, True),
        ("missing", {}, False),
        ("count", {"count": 0}, True),
        ("contains(missing, 'x')", {}, True),  # the filter fails: better one delivery too many
        ("ceil(to_number(id))", {"id": "1e999"}, True),  # OverflowError, which is no error of JMESPath
    ],
)
def test_a_filter_chooses_by_the_payload(condition: str, payload: dict[str, Any], taken: bool) -> None:
    body = json.dumps({"payload": payload}).encode()
    assert destination(filter=condition).takes("default", "x", Payload(body)) is taken


@given(st.binary(max_size=200))
def test_no_body_fails_the_choice(body: bytes) -> None:
    routes = Routes({"shop": destination(filter="a.b[?c > `1`] | [0]")})
    assert routes.choose("default", "x", body) in ([], ["shop"])


def test_what_a_receiver_repeats_shows_no_secret() -> None:
    one = destination(secrets=SECRET, headers="Authorization: Bearer t0ps3cret")
    assert one.hide(f"you sent Bearer t0ps3cret and {SECRET}", 2048) == "you sent *** and ***"
    for shown in (repr(one), repr(one.settings), str(one.settings.redacted())):
        assert "t0ps3cret" not in shown
        assert SECRET not in shown


@pytest.mark.parametrize(
    "repeated",
    [
        "Cannot POST /services/T00012345/t0k%2Fen456?key=t0p+secret%21",
        "no service T00012345",
        "no token t0k/en456",
        "key: t0p secret!",
        "bad token: b3arer&token",
        "bad token: b3arer&amp;token",
        "bad token: b3arer%26token",
        "YjNh signs: c2VjcmV0Oi1v",
        f"bad key: {SECRET.removeprefix('whsec_')}",
        f"bad key: {SECRET.removeprefix('whsec_').rstrip('=')}",
        "no user webhookd:p4ss:w0rd",
        "wrong password: p4ss:w0rd",
        "bad token: d2ViaG9va2Q6cDRzczp3MHJk",
    ],
)
def test_a_part_of_a_secret_that_a_receiver_repeats_is_not_shown(repeated: str) -> None:
    one = destination(
        url="https://shop.example.com/services/T00012345/t0k%2Fen456?key=t0p+secret%21",
        headers="Authorization: Bearer b3arer&token,X-Key: c2VjcmV0Oi1v,Proxy-Authorization: basic d2ViaG9va2Q6cDRzczp3MHJk",
        secrets=SECRET,
    )
    shown = one.hide(repeated, 2048)
    assert "***" in shown
    for secret in ("t0k", "T00012345", "t0p", "b3arer", "c2VjcmV0Oi1v", "p4ss", "d2ViaG", SECRET[10:20]):
        assert secret not in shown


def test_only_what_is_shown_is_searched_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    one = destination(headers="X-Key: t0ps3cret")
    assert one.hide("a" * 98 + "t0ps3cret", 100) == "a" * 98 + "**", "no part of a secret at the end is shown"
    assert one.hide("t0ps3cret" * 50, 100) == "***" * 12, "the text behind the first 100 characters is not moved forward"
    assert one.hide("a" * 100 + "t0ps3cret", 100) == "a" * 100
    assert one.hide("a" * 91 + "t0ps3cret", 100) == "a" * 91 + "***"
    pattern = Mock(wraps=one._secrets)
    monkeypatch.setattr(one, "_secrets", pattern)
    one.hide("a" * 65_536, 2048)
    (_, begin, end) = pattern.finditer.call_args.args
    assert (begin, end) == (0, 2048 + len("t0ps3cret"))


def test_an_answer_without_a_secret_is_shown_as_it_is() -> None:
    assert destination().hide("out of stock", 2048) == "out of stock"


def test_a_process_that_sends_nothing_needs_no_file_of_a_destination() -> None:
    settings = {"shop": destination(ca_file="/no/such/ca.pem").settings}
    assert list(destinations_of(settings, sends=False)) == ["shop"]
    with pytest.raises(SettingsError, match="WEBHOOKD_DESTINATIONS__SHOP__CA_FILE"):
        destinations_of(settings, sends=True)


def test_a_filter_that_fails_is_told() -> None:
    failed: list[str] = []
    routes = Routes({"shop": destination(filter="authAmount > '100'")}, failed.append)
    assert routes.choose("default", "x", b'{"payload": {"authAmount": 7}}') == ["shop"]
    assert failed == ["shop"]


def test_a_url_shows_no_path() -> None:
    settings = DestinationSettings.model_validate({"url": "https://shop.example.com:8443/hooks/t0ken?key=1"})
    assert settings.place == "https://shop.example.com:8443"
    assert "t0ken" not in repr(settings) + str(settings.redacted())


def test_the_pace_lets_a_seconds_worth_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    pace = Pace(2)
    assert pace.take(5) == 2
    assert pace.take(5) == 0
    assert pace.seconds_to_next() == 0.5
    pace.give_back(1)
    assert pace.take(5) == 1
    clock[0] += timedelta(minutes=1).total_seconds()
    assert pace.take(5) == 2
    assert Pace(None).take(5) == 5
    assert Pace(0.01).take(5) == 1


def test_the_sources_know_each_field() -> None:
    assert SECTIONS["destinations"] == FIELDS

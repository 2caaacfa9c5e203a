"""The credentials of the provider's API: how they are masked, their fingerprint, and the memory of refusals."""

from __future__ import annotations

import base64
import html
import json
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from webhookd.authorizenet.api.credentials import Credentials, fingerprint
from webhookd.authorizenet.api.errors import CredentialsRefusedError, ProviderUnavailableError, Refusal, error_of
from webhookd.authorizenet.api.operations import Feature
from webhookd.authorizenet.api.refusals import CREDENTIALS_AGAIN, MemoryRefusals
from webhookd.errors import UnavailableError
from webhookd.settings.provider import ProviderAccess

LOGIN, KEY, OTHER = "lo&gi<n>'\\+/9", "346HZ32z3fP4hTG2", "94nFq6J7b2K8cW3d"
ACCESS = ProviderAccess("default", "https://api.example.com", SecretStr(LOGIN), (SecretStr(KEY), SecretStr(OTHER)))


class Time:
    """A clock that a test moves."""

    at = 1000.0

    def now(self) -> float:
        return self.at


class Memory(MemoryRefusals):
    """A memory that can be away."""

    away = False

    def _look(self) -> None:
        if self.away:
            raise UnavailableError("postgresql", "away")

    async def read(self, fingerprint: str) -> Any:
        self._look()
        return await super().read(fingerprint)

    async def take_try(self, fingerprint: str) -> bool:
        self._look()
        return await super().take_try(fingerprint)

    async def refused(self, fingerprint: str, account: str, code: str) -> None:
        self._look()
        await super().refused(fingerprint, account, code)

    async def accepted(self, fingerprint: str) -> None:
        self._look()
        await super().accepted(fingerprint)


def dotnet(text: str) -> str:
    return "".join(f"\\u{ord(one):04X}" for one in text)


def numbered(text: str) -> str:
    return "".join(f"&#x{ord(one):x};&#{ord(one):05d};"[:6] if one.isalnum() else html.escape(one) for one in text)


WRITTEN = (
    str,
    str.upper,
    html.escape,
    lambda text: html.escape(html.escape(text)),
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: "".join(f"%{ord(one):02X}" for one in text),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(json.dumps(text))[3:-3],
    dotnet,
    numbered,
)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("secret", [LOGIN, KEY, OTHER, base64.b64encode(f"{LOGIN}:{OTHER}".encode()).decode()])
def test_a_secret_is_masked_in_whatever_way_it_is_written(secret: str, written: Any) -> None:
    credentials = Credentials(ACCESS, MemoryRefusals(Time().now), Time().now)
    shown = written(secret)
    assert credentials.mask(f"The value {shown} is invalid.") == "The value *** is invalid."
    for place in (480, 495, 10):  # around the places at which texts and codes are cut
        filler = "x" * (place - len(shown) // 2)
        for refusal in (Refusal(f"{filler[-35:]} {shown}", ""), Refusal("E00003", f"{filler} {shown} {shown}")):
            error = error_of("x", refusal, Feature.REPORTS, credentials.mask)
            told = str(error) + error.code
            assert "***" in told or len(told) < 600
            for length in range(6, len(shown)):
                assert shown[:length] not in told


def test_masking_a_text_that_is_made_to_take_long_takes_moments() -> None:
    credentials = Credentials(ACCESS, MemoryRefusals(Time().now), Time().now)
    for text in ("\\", "%25", "&amp;", "&#0", "&amp;#000000", LOGIN[:-1], KEY[:-1]):
        began = time.process_time()
        credentials.mask((text * 100_000)[:100_000])
        assert time.process_time() - began < 5


def test_other_credentials_have_another_fingerprint_and_the_order_of_the_keys_does_not_matter() -> None:
    same = [ACCESS, replace(ACCESS, keys=ACCESS.keys[::-1]), replace(ACCESS, account="eu", rate=1.0, url=ACCESS.url.upper())]
    assert len({fingerprint(one) for one in same}) == 1
    others = [
        replace(ACCESS, keys=ACCESS.keys[:1]),
        replace(ACCESS, login_id=SecretStr("other")),
        replace(ACCESS, url="https://other.example.com"),
    ]
    assert len({fingerprint(one) for one in (ACCESS, *others)}) == 4
    assert not [secret for secret in (LOGIN, KEY, OTHER) if secret in fingerprint(ACCESS)]


async def test_the_refusal_lasts_over_a_restart_and_the_try_is_for_one_process() -> None:
    clock, memory = Time(), Memory(Time().now)
    memory._now = clock.now
    first = Credentials(ACCESS, memory, clock.now)
    await first.check()
    await first.failed("E00007")
    clock.at += CREDENTIALS_AGAIN - 1
    restarted = Credentials(ACCESS, memory, clock.now)
    with pytest.raises(CredentialsRefusedError, match="next try in 1 s"):
        await restarted.check()
    assert restarted.refused is not None
    assert restarted.refused.refused_for == CREDENTIALS_AGAIN - 1
    await Credentials(replace(ACCESS, keys=ACCESS.keys[:1]), memory, clock.now).check()
    clock.at += 1
    await restarted.check()
    await first.check()
    await restarted.take_try()
    with pytest.raises(CredentialsRefusedError):
        await first.take_try()
    await restarted.accepted(OTHER, restarted.refusals_seen)
    assert (restarted.good, restarted.keys) == (True, [OTHER, KEY])
    await first.check()


async def test_without_the_memory_nothing_is_sent_and_a_refusal_is_saved_before_the_next_call() -> None:
    clock = Time()
    memory = Memory(clock.now)
    credentials = Credentials(ACCESS, memory, clock.now)
    memory.away = True
    with pytest.raises(ProviderUnavailableError, match="no call is sent") as away:
        await credentials.check()
    assert not away.value.sent
    await credentials.failed("E00007")
    clock.at += 5 * CREDENTIALS_AGAIN
    with pytest.raises(ProviderUnavailableError):
        await credentials.check()
    memory.away = False
    with pytest.raises(CredentialsRefusedError):
        await credentials.check()
    assert await memory.read(fingerprint(ACCESS)) is not None


async def test_an_answer_to_a_call_from_before_a_refusal_does_not_end_the_refusal() -> None:
    clock = Time()
    credentials = Credentials(ACCESS, MemoryRefusals(clock.now), clock.now)
    seen = credentials.refusals_seen
    await credentials.failed("E00007")
    await credentials.accepted(KEY, seen)
    assert not credentials.good
    with pytest.raises(CredentialsRefusedError):
        await credentials.check()

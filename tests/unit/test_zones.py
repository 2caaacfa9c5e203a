"""Tests of the time zone of an account."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from webhookd.authorizenet.zones import _WINDOWS, account_zone, likely_zone, zone_of


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("America/Los_Angeles", ZoneInfo("America/Los_Angeles")),
        (" Pacific Standard Time ", ZoneInfo("America/Los_Angeles")),
        ("us mountain standard time", ZoneInfo("America/Phoenix")),
        ("UTC", UTC),
        ("Coordinated Universal Time", UTC),
    ],
)
def test_a_name_of_the_iana_or_of_windows_is_understood(name: str, zone: object) -> None:
    assert zone_of(name) == zone


@pytest.mark.parametrize(
    "name", [None, "", " ", "Pacific", "PST maybe", "(GMT-08:00) Pacific Time", "../etc/passwd", "a\0b", "x" * 9999]
)
def test_a_name_that_is_neither_gives_no_zone(name: str | None) -> None:
    assert zone_of(name) is None


def test_each_zone_of_the_table_is_known_to_the_system() -> None:
    assert all(zone_of(name) is not None for name in _WINDOWS)


def test_the_zone_of_an_account_is_the_providers_or_else_that_of_the_settings_or_else_pacific_time() -> None:
    eastern, tokyo, pacific = (ZoneInfo(name) for name in ("America/New_York", "Asia/Tokyo", "America/Los_Angeles"))
    for named, given, zone in (
        ("Eastern Standard Time", "Asia/Tokyo", eastern),
        ("EST maybe", "Asia/Tokyo", tokyo),
        (None, "Asia/Tokyo", tokyo),
    ):
        assert account_zone(named, given) == (zone, named if zone == eastern else given)
        assert likely_zone(named, given) == zone
    for name in (None, "", "EST maybe", "../etc/passwd"):
        assert account_zone(name, None) is None
        assert likely_zone(name, None) == pacific

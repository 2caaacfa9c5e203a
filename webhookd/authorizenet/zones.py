"""The time zone of an account, by the name that the provider gives. The spelling of the names is not known for certain.

The provider may use a name of the IANA, such as America/Los_Angeles, or one of Windows, such as Pacific Standard Time. A name
that is neither gives no zone: a report on a guess would put transactions on the wrong day.
"""

from __future__ import annotations

from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

# Contract: Unicode CLDR, windowsZones.xml: the zone of each name's territory 001. The names of all countries in which the
# provider has merchants, and of their neighbours.
_WINDOWS = {
    "Hawaiian Standard Time": "Pacific/Honolulu",
    "Alaskan Standard Time": "America/Anchorage",
    "Pacific Standard Time": "America/Los_Angeles",
    "US Mountain Standard Time": "America/Phoenix",
    "Mountain Standard Time": "America/Denver",
    "Central Standard Time": "America/Chicago",
    "Canada Central Standard Time": "America/Regina",
    "Eastern Standard Time": "America/New_York",
    "US Eastern Standard Time": "America/Indiana/Indianapolis",
    "Atlantic Standard Time": "America/Halifax",
    "SA Western Standard Time": "America/La_Paz",
    "Newfoundland Standard Time": "America/St_Johns",
    "GMT Standard Time": "Europe/London",
    "Greenwich Standard Time": "Atlantic/Reykjavik",
    "W. Europe Standard Time": "Europe/Berlin",
    "Romance Standard Time": "Europe/Paris",
    "Central Europe Standard Time": "Europe/Budapest",
    "Central European Standard Time": "Europe/Warsaw",
    "E. Europe Standard Time": "Europe/Chisinau",
    "FLE Standard Time": "Europe/Kiev",  # codespell:ignore fle
    "GTB Standard Time": "Europe/Bucharest",
    "W. Australia Standard Time": "Australia/Perth",
    "AUS Central Standard Time": "Australia/Darwin",
    "Cen. Australia Standard Time": "Australia/Adelaide",
    "E. Australia Standard Time": "Australia/Brisbane",
    "AUS Eastern Standard Time": "Australia/Sydney",
    "Tasmania Standard Time": "Australia/Hobart",
    "West Pacific Standard Time": "Pacific/Port_Moresby",
    "New Zealand Standard Time": "Pacific/Auckland",
}
_BY_NAME = {name.casefold(): zone for name, zone in _WINDOWS.items()}
_UTC = frozenset({"utc", "etc/utc", "coordinated universal time"})


def zone_of(name: str | None) -> tzinfo | None:
    """Returns the zone that a name means; None if the name, or the system's file of the zone, is not known."""
    text = (name or "").strip()
    if text.casefold() in _UTC:
        return UTC
    try:
        return ZoneInfo(_BY_NAME.get(text.casefold(), text))
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return None


def account_zone(named: str | None, given: str | None) -> tuple[tzinfo, str] | None:
    """Returns the zone of an account with its name; None if neither name means a zone.

    named: as the provider names the zone. given: a zone of the settings, for use if the provider's name means none.
    """
    for name in (named, given):
        if name is not None and (zone := zone_of(name)) is not None:
            return zone, name
    return None


def likely_zone(named: str | None, given: str | None) -> tzinfo:
    """As `account_zone`; Pacific time, the provider's own, if the zone is not known."""
    found = account_zone(named, given)
    return found[0] if found else zone_of("America/Los_Angeles") or UTC

"""Each condition holds and ends at its limit, for a merchant of 20 webhooks a day and for one of 50 a second."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from tests.deploy.promql import rules
from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.conditions import Counts, Deaths, Facts, Key, Provider, Replica, Rhythm, evaluate, lasting
from webhookd.settings import Settings

DAY, HOUR = 86_400.0, 3_600.0
# The counts of the two merchants in a window of 3, 15, 30 minutes, 1 hour and 6 hours, and six hours a week ago.
SMALL = Counts(m3=0, m15=0, m30=1, h1=2, h6=8, hours=5, week_ago=8)
BIG = Counts(m3=9_000, m15=45_000, m30=90_000, h1=180_000, h6=1_080_000, hours=6, week_ago=1_080_000)
KEY = Key("eu", "abc", known=30 * DAY, unused=60.0)
WELL = Facts(
    now=datetime(2026, 3, 2, tzinfo=UTC),
    counted=30 * DAY,
    keys=[KEY],
    rhythms={"eu": Rhythm(silence=60, bound=90_000)},
    replicas=[Replica(), Replica(certificate=30 * DAY)],
)
MERCHANTS = pytest.mark.parametrize("usual", [SMALL, BIG], ids=["20 a day", "50 a second"])


def facts(usual: Counts, **more: Counts | object) -> Facts:
    """Returns the facts of a merchant; counts by measure and account in `counts`."""
    counts = {("authentic", "eu"): usual, ("accepted", "eu"): usual}
    given = more.pop("counts", {})
    assert isinstance(given, dict)
    return replace(WELL, counts=counts | given, **more)  # type: ignore[arg-type]


def names(found: Facts) -> set[str]:
    return {finding.name for finding in evaluate(found)}


@MERCHANTS
def test_nothing_holds_on_a_usual_day(usual: Counts) -> None:
    assert names(facts(usual)) == set()


@pytest.mark.parametrize(
    ("usual", "put_off", "holds"),
    [
        (SMALL, 1, True),  # the only webhook of these minutes
        (replace(SMALL, m3=1), 1, True),
        (BIG, 400, False),
        (BIG, 600, True),
        (BIG, 0, False),
    ],
)
def test_answers_503_count_as_a_share_of_all(usual: Counts, put_off: int, holds: bool) -> None:
    found = facts(usual, counts={("put_off", ""): Counts(m3=put_off)})
    assert ("webhooks_put_off" in names(found)) is holds
    assert CONDITIONS["webhooks_put_off"].lasts == 300


@pytest.mark.parametrize("phase", range(0, 60, 5))
def test_a_webhook_that_is_never_taken_is_an_alert_of_a_small_merchant(phase: int) -> None:
    """The provider sends it at once, and after 3, 6 and 9 minutes. A count belongs to the whole minute of its report."""
    tries = [phase + at for at in (0, 180, 360, 540)]
    longest = lasts = 0
    for now in range(phase, 1_500, 15):
        steps = [at // 60 * 60 for at in tries if at <= now]
        counts = Counts(m3=sum(at > now - 180 for at in steps), m15=sum(at > now - 900 for at in steps))
        lasts = lasts + 15 if "webhooks_put_off" in names(replace(WELL, counts={("put_off", ""): counts})) else 0
        longest = max(longest, lasts)
    assert longest > CONDITIONS["webhooks_put_off"].lasts


@MERCHANTS
def test_one_webhook_that_could_not_be_stored_is_enough(usual: Counts) -> None:
    assert names(facts(usual, counts={("not_stored", ""): Counts(m15=1)})) == {"webhooks_not_stored"}


@pytest.mark.parametrize(
    ("mismatches", "silence", "holds"),
    [
        (Counts(m30=6, h6=6, hours=1), 100_000, True),  # and no authentic webhook for longer than usual
        (Counts(m30=6, h6=6, hours=1), 80_000, False),  # a stranger's burst, while authentic ones come
        (Counts(m30=5, h6=5, hours=1), 100_000, False),
        (Counts(m30=1, h6=3, hours=3), 10_801, True),  # a small merchant with a wrong key
        (Counts(m30=1, h6=3, hours=3), 10_799, False),
        (Counts(m30=1, h6=2, hours=2), 10_801, False),
    ],
)
@MERCHANTS
def test_forged_signatures_alone_are_no_alert(usual: Counts, mismatches: Counts, silence: float, holds: bool) -> None:
    found = facts(usual, counts={("mismatch", "eu"): mismatches}, rhythms={"eu": Rhythm(silence, 90_000)})
    assert ("signatures_refused" in names(found)) is holds


def test_an_account_that_never_had_an_authentic_webhook_has_an_alert_of_its_signatures() -> None:
    found = replace(WELL, rhythms={}, counts={("mismatch", "eu"): Counts(m30=6, h6=6, hours=1)})
    assert names(found) == {"signatures_refused"}
    other = replace(WELL, rhythms={}, counts={("mismatch", "unknown"): Counts(m30=600, h6=600, hours=6)})
    assert names(other) == set(), "a path that names no account"


@pytest.mark.parametrize(
    ("silence", "authentic", "holds"),
    [
        (90_001, replace(SMALL, h6=0), True),
        (89_999, replace(SMALL, h6=0), False),
        (6 * HOUR, replace(BIG, m3=0, h6=0), True),  # a week ago there were many at this time
        (6 * HOUR, replace(SMALL, h6=0, week_ago=50), False),
        (6 * HOUR, replace(SMALL, h6=0, week_ago=51), True),
    ],
)
def test_a_pause_longer_than_the_rhythm_or_where_many_came_a_week_ago(silence: float, authentic: Counts, holds: bool) -> None:
    found = facts(authentic, rhythms={"eu": Rhythm(silence, 90_000)})
    assert ("no_webhooks" in names(found)) is holds
    assert "no_webhooks" not in names(replace(found, keys=[])), "an account that the settings no longer have"


@pytest.mark.parametrize(
    ("usual", "deaths", "holds"),
    [
        (SMALL, Deaths(m15=1, h6=1, waiting=1), {"dead_events"}),
        (SMALL, Deaths(m15=0, h6=0, waiting=1), {"dead_events"}),  # it died long ago, and nobody has acted
        (SMALL, Deaths(m15=1, h6=5, waiting=5), {"dead_events", "many_dead_events"}),  # more than half of eight
        (BIG, Deaths(m15=11, h6=11, waiting=11), {"dead_events"}),
        (BIG, Deaths(m15=451, h6=451, waiting=451), {"dead_events", "many_dead_events"}),  # more than one in a hundred
        (SMALL, Deaths(m15=11, h6=11, waiting=11), {"dead_events", "many_dead_events"}),
    ],
)
def test_dead_events_are_a_ticket_and_many_of_them_a_page(usual: Counts, deaths: Deaths, holds: set[str]) -> None:
    assert names(facts(usual, deaths={"eu": deaths})) == holds


@pytest.mark.parametrize(
    ("hours", "deaths", "holds"),
    [
        (0.2, Deaths(m15=12, h6=12, waiting=12), False),
        (0.3, Deaths(m15=12, h6=12, waiting=12), True),
        (5.9, Deaths(m15=0, h6=3, waiting=3), False),
        (6.1, Deaths(m15=0, h6=3, waiting=3), True),
    ],
)
def test_deaths_are_no_large_part_while_the_events_are_not_yet_counted(hours: float, deaths: Deaths, holds: bool) -> None:
    """An upgrade begins the counts with nothing, and the deaths of before it are known."""
    upgraded = replace(WELL, counted=hours * HOUR, deaths={"eu": deaths}, counts={("accepted", "eu"): Counts(m15=1, h6=4)})
    assert ("many_dead_events" in names(upgraded)) is holds


@pytest.mark.parametrize(
    ("other", "holds"),
    [
        (Key("eu", "new", known=2.1 * DAY, unused=None), True),
        (Key("eu", "new", known=1.9 * DAY, unused=None), False),
        (Key("eu", "new", known=30 * DAY, unused=2.1 * DAY), True),
        (Key("eu", "new", known=30 * DAY, unused=1.9 * DAY), False),
        (Key("us", "new", known=30 * DAY, unused=None), False),  # an account that has no webhooks at all
    ],
)
def test_a_key_is_unused_if_another_one_of_its_account_works(other: Key, holds: bool) -> None:
    assert ("key_unused" in names(facts(SMALL, keys=[KEY, other]))) is holds


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({"replicas": [Replica(("postgresql",)), Replica()]}, {"postgresql_away"}),
        ({"replicas": [Replica(("sqs", "redis")), Replica()]}, {"sqs_away", "redis_away"}),
        ({"replicas": [Replica(certificate=13 * DAY)]}, {"certificate_ends"}),
        ({"replicas": [Replica(certificate=15 * DAY)]}, set()),
        (
            {"replicas": [Replica(certificate=1 * DAY), Replica(certificate=80 * DAY)]},
            {"certificate_ends", "certificate_ends_soon"},
        ),
        ({"replicas": []}, set()),
        ({"overdue": 1_801.0}, {"events_stuck"}),
        ({"overdue": 1_799.0}, set()),
        ({"partitions_ahead": 13 * DAY}, {"partitions_missing"}),
        ({"partitions_ahead": 15 * DAY}, set()),
        ({"bytes": 11, "largest": 10}, {"database_large"}),
        ({"bytes": 10, "largest": 10}, set()),
        ({"bytes": 10**15}, set()),  # only the operator knows the disk
        ({"replicas": [Replica(), Replica(stuck=1)]}, {"handlers_stuck"}),
        ({"failing": {"shop": 7.0}}, {"destination_fails"}),
    ],
)
@MERCHANTS
def test_the_other_conditions_hold_beyond_their_limits(usual: Counts, changed: dict[str, object], holds: set[str]) -> None:
    assert names(facts(usual, **changed)) == holds


@pytest.mark.parametrize(
    ("provider", "holds"),
    [
        (Provider("eu"), set()),
        (Provider("eu", refused=True, uncompared=9_000), {"credentials_refused"}),  # the cause alone
        (Provider("eu", uncompared=7_201), {"provider_unreachable"}),
        (Provider("eu", uncompared=7_199), set()),
        (Provider("eu", webhook="inactive"), {"webhook_not_ok"}),
        (Provider("eu", webhook="missing"), {"webhook_not_ok"}),
        (Provider("eu", webhook="url"), {"webhook_not_ok"}),
        (Provider("eu", webhook="event_types"), {"webhook_not_ok"}),
        (Provider("eu", webhook="doubled"), {"webhook_doubled"}),
        (Provider("eu", webhook="unknown"), {"webhook_not_ok"}),
        (Provider("eu", webhook=None), set()),
        (Provider("eu", webhook="unknown", refused=True), {"credentials_refused"}),  # the cause alone
        (Provider("eu", webhook="unknown", uncompared=7_201), {"provider_unreachable"}),
        (Provider("eu", days=2, oldest=date(2026, 2, 27), missing=3), {"day_not_whole"}),
        (
            Provider("eu", refused=True, webhook="inactive", days=1, oldest=date(2026, 2, 27)),
            {"credentials_refused", "webhook_not_ok", "day_not_whole"},
        ),
    ],
)
@MERCHANTS
def test_each_fault_of_the_providers_side_is_a_condition(usual: Counts, provider: Provider, holds: set[str]) -> None:
    found = evaluate(facts(usual, providers=[Provider("us"), provider]))
    assert {finding.name for finding in found} == holds
    assert {finding.subject for finding in found} <= {"eu"}


def test_however_seldom_the_history_is_compared_no_alert_fires_between_two_comparisons() -> None:
    (most,) = [one.le for one in Settings.model_fields["gap_every"].metadata if hasattr(one, "le")]
    assert names(replace(WELL, providers=[Provider("eu", uncompared=1.5 * most)])) == set()


def test_the_detail_of_a_condition_of_the_providers_side_says_what_to_do() -> None:
    provider = Provider("eu", webhook="url", days=2, oldest=date(2026, 2, 27), missing=3)
    assert [finding.detail for finding in evaluate(replace(WELL, providers=[provider]))] == [
        "The webhook of the account eu sends to another URL. Run `webhookd provider check`.",
        "Days of the account eu that are not whole: 2, from 2026-02-27. Missing: 3.",
    ]


def test_a_condition_that_an_alert_of_prometheus_has_has_its_severity_and_its_time() -> None:
    found: dict[str, list[str]] = {}
    for rule in rules():
        if rule.alert:
            found.setdefault(rule.alert.lower(), []).append(rule.severity)
    for condition in CONDITIONS.values():
        section = condition.guide.partition("#")[2]
        if condition.name != "database_large":
            assert condition.severity in found[section], condition


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (61, "1 minute 1 second"), (7_200, "2 hours"), (90_061, "1 day 1 hour"), (-5, "0 seconds")],
)
def test_lengths_of_time_are_for_people(seconds: float, text: str) -> None:
    assert lasting(seconds) == text

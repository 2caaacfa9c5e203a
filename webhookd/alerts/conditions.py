"""The evaluation of the conditions that webhookd reports without Prometheus.

The thresholds are those of the alerts in `deploy/prometheus/webhookd.rules.yml`: a share of an account's events, over minutes
for many and over hours for few. So they hold for 20 events a day and for 50 a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from webhookd.alerts.catalogue import CONDITIONS, Condition

_DAY = 86_400.0
_LONGEST_OVERDUE = 1_800.0  # seconds; with the default settings, an event that fails every time is dead within 22 minutes
_PARTITIONS = 14 * _DAY  # seconds that the partitions must reach ahead; webhookd makes them four weeks ahead
_WEEK = 7 * _DAY
_UNUSED = 2 * _DAY  # seconds; during a rotation, the provider's old key lives for one day
_LONGEST_UNCOMPARED = 7_200.0  # seconds; WEBHOOKD_GAP_EVERY is an hour at most
_WEBHOOKS = {
    "inactive": "is inactive, so Authorize.Net sends nothing. Run `webhookd provider setup`",
    "missing": "is not registered, so Authorize.Net sends nothing. Run `webhookd provider setup`",
    "url": "sends to another URL. Run `webhookd provider check`",
    "event_types": "has lost event types, and nobody sends events of these. Run `webhookd provider check`, which names them",
    "unknown": "is not known, so it may get nothing. Run `webhookd provider check`",
}  # what is wrong with a webhook, by its state


@dataclass(slots=True, frozen=True)
class Finding:
    """A condition that holds now.

    `subject`: what the condition is about, empty for the installation. `detail`: a sentence without secrets.
    """

    name: str
    subject: str
    detail: str

    @property
    def condition(self) -> Condition:
        """Returns the condition."""
        return CONDITIONS[self.name]


@dataclass(slots=True, frozen=True)
class Counts:
    """Counts of one measure over windows that end now. `hours`: of the last six hours, those in which anything was counted."""

    m3: int = 0
    m15: int = 0
    m30: int = 0
    h1: int = 0
    h6: int = 0
    hours: int = 0
    week_ago: int = 0


@dataclass(slots=True, frozen=True)
class Deaths:
    """The number of an account's dead events: of those that died within 15 minutes, within six hours, and of all."""

    m15: int
    h6: int
    waiting: int


@dataclass(slots=True, frozen=True)
class Rhythm:
    """The seconds since the last authentic webhook of an account, and the seconds that a pause may last."""

    silence: float
    bound: float


@dataclass(slots=True, frozen=True)
class Key:
    """A Signature Key of the settings: the seconds since it was first seen, and since it was used (None if never)."""

    account: str
    fingerprint: str
    known: float
    unused: float | None


@dataclass(slots=True, frozen=True)
class Provider:
    """The provider's side of an account, as far as it is known.

    refused: whether the provider refuses the credentials. uncompared: the seconds since a comparison with the history ended.
    webhook: the state of the webhook; None if nobody looks at it.
    days: the number of days that are over and not whole, `oldest` the first of them.
    missing: the notifications of these days that the ledger lacks.
    unreconciled: the number of settlement days that should be green and are not, `unreconciled_from` the first of them.
    """

    account: str
    refused: bool = False
    uncompared: float = 0.0
    webhook: str | None = "ok"
    days: int = 0
    oldest: date | None = None
    missing: int = 0
    unreconciled: int = 0
    unreconciled_from: date | None = None


@dataclass(slots=True, frozen=True)
class Replica:
    """The state that a replica reports.

    `certificate`: the seconds until its certificate ends, None if it has none. `stuck`: handlers that were cancelled and go on.
    """

    away: tuple[str, ...] = ()
    certificate: float | None = None
    stuck: int = 0


_NONE = Counts()


@dataclass(slots=True, frozen=True)
class Facts:
    """Everything that the conditions look at.

    `largest`: the bytes that the database may take, None for any size. `counted`: the seconds for which there are counts.
    """

    now: datetime
    overdue: float = 0.0
    partitions_ahead: float = 4 * _WEEK
    bytes: int = 0
    largest: int | None = None
    counted: float = 0.0
    counts: Mapping[tuple[str, str], Counts] = field(default_factory=dict)  # by measure and account
    deaths: Mapping[str, Deaths] = field(default_factory=dict)
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    keys: Sequence[Key] = ()
    replicas: Sequence[Replica] = ()
    providers: Sequence[Provider] = ()
    failing: Mapping[str, float] = field(default_factory=dict)  # destinations, with the seconds for which the circuit is open

    def count(self, measure: str, account: str = "") -> Counts:
        """Returns the counts of a measure."""
        return self.counts.get((measure, account), _NONE)

    @property
    def accounts(self) -> list[str]:
        """Returns the accounts of the receivers' settings."""
        return sorted({key.account for key in self.keys})


def evaluate(facts: Facts) -> list[Finding]:
    """Returns the conditions that hold now. A condition fires when it has held for its time `lasts`."""
    return [*_dependencies(facts), *_receiving(facts), *_accounts(facts), *_providers(facts), *_upkeep(facts)]


def _dependencies(facts: Facts) -> Iterator[Finding]:
    for name in ("postgresql", "sqs", "redis"):
        if away := sum(name in replica.away for replica in facts.replicas):
            yield Finding(f"{name}_away", "", f"Replicas that cannot use it: {away} of {len(facts.replicas)}.")
    ends = [replica.certificate for replica in facts.replicas if replica.certificate is not None]
    for days, condition in ((14, "certificate_ends"), (2, "certificate_ends_soon")):
        if ends and min(ends) < days * _DAY:
            yield Finding(condition, "", f"The certificate expires in {lasting(min(ends))}.")


def _receiving(facts: Facts) -> Iterator[Finding]:
    put_off = facts.count("put_off")
    authentic = [facts.count("authentic", account) for measure, account in facts.counts if measure == "authentic"]
    many, few = sum(counts.m3 for counts in authentic), sum(counts.m15 for counts in authentic)
    if put_off.m3 > 0.05 * (put_off.m3 + many):
        detail = f"Webhooks answered 503 within three minutes: {put_off.m3}, and {many} answered 200."
        yield Finding("webhooks_put_off", "", detail)
    elif put_off.m15 > 2 and put_off.m15 > few:  # a small merchant: the provider sends one webhook every three minutes
        detail = f"Webhooks answered 503 within 15 minutes: {put_off.m15}, and {few} answered 200."
        yield Finding("webhooks_put_off", "", detail)
    if refused := facts.count("not_stored").m15:
        detail = f"Webhooks of the last 15 minutes that webhookd could not store, although PostgreSQL answers: {refused}."
        yield Finding("webhooks_not_stored", "", detail)


def _accounts(facts: Facts) -> Iterator[Finding]:
    for account in facts.accounts:
        rhythm = facts.rhythms.get(account)
        silent = rhythm is None or rhythm.silence > rhythm.bound
        mismatches = facts.count("mismatch", account)
        # The provider sends a notification four times in nine minutes. Anyone can send a forged one.
        if (mismatches.m30 > 5 and silent) or (mismatches.hours > 2 and (rhythm is None or rhythm.silence > 10_800)):
            detail = f"Webhooks of the account {account} within six hours whose signature is not valid: {mismatches.h6}."
            yield Finding("signatures_refused", account, detail)
        authentic = facts.count("authentic", account)
        if rhythm is not None and (silent or (authentic.h6 == 0 and authentic.week_ago > 50)):
            detail = (
                f"The last authentic webhook of the account {account} came {lasting(rhythm.silence)} ago, which is unusual."
            )
            yield Finding("no_webhooks", account, detail)
    for account, deaths in sorted(facts.deaths.items()):
        accepted = facts.count("accepted", account)
        detail = f"Dead events of the account {account} that wait for somebody to redrive or discard them: {deaths.waiting}."
        yield Finding("dead_events", account, detail)
        # A part of all events is known only if the events were counted for as long: not in the first hours of this release.
        minutes = facts.counted > 900 and deaths.m15 > 10 and deaths.m15 > 0.01 * accepted.m15
        hours = facts.counted > 6 * 3_600 and deaths.h6 > 2 and deaths.h6 > 0.5 * accepted.h6
        if minutes or hours:
            detail = f"Events of the account {account} that died within six hours: {deaths.h6}, a large part of all its events."
            yield Finding("many_dead_events", account, detail)
    yield from _unused(facts.keys)


def _unused(keys: Iterable[Key]) -> Iterator[Finding]:
    """Yields the keys that were set for two days and not used, in accounts that have webhooks."""
    keys = list(keys)
    live = {key.account for key in keys if key.unused is not None and key.unused < _DAY}
    for key in keys:
        if key.account in live and key.known > _UNUSED and (key.unused is None or key.unused > _UNUSED):
            detail = f"The key {key.fingerprint} of the account {key.account} has verified no webhook for two days."
            yield Finding("key_unused", f"{key.account} {key.fingerprint}", detail)


def _providers(facts: Facts) -> Iterator[Finding]:
    for one in facts.providers:
        account = one.account
        if one.refused:
            detail = f"Authorize.Net refuses the API credentials of the account {account}, so nobody knows what is missing."
            yield Finding("credentials_refused", account, detail)
        elif one.uncompared > _LONGEST_UNCOMPARED:
            detail = f"The account {account} has not been compared with Authorize.Net's history for {lasting(one.uncompared)}."
            yield Finding("provider_unreachable", account, detail)
        unseen = one.webhook == "unknown" and (one.refused or one.uncompared > _LONGEST_UNCOMPARED)  # the cause alone
        if not unseen and (what := _WEBHOOKS.get(one.webhook or "")):
            yield Finding("webhook_not_ok", account, f"The webhook of the account {account} {what}.")
        if one.webhook == "doubled":
            detail = f"Each event of the account {account} comes more than once. Run `webhookd provider check`."
            yield Finding("webhook_doubled", account, detail)
        if one.oldest is not None:
            detail = f"Days of the account {account} that are not whole: {one.days}, from {one.oldest}. Missing: {one.missing}."
            yield Finding("day_not_whole", account, detail)
        if one.unreconciled_from is not None:
            detail = (
                f"Settlement days of the account {account} that differ or are not known: {one.unreconciled}, from "
                f"{one.unreconciled_from}. Run `webhookd reconcile --from {one.unreconciled_from}`."
            )
            yield Finding("day_not_reconciled", account, detail)


def _upkeep(facts: Facts) -> Iterator[Finding]:
    if facts.overdue > _LONGEST_OVERDUE:
        yield Finding("events_stuck", "", f"The oldest event that waits for no retry has waited for {lasting(facts.overdue)}.")
    if stuck := sum(replica.stuck for replica in facts.replicas):
        yield Finding("handlers_stuck", "", f"Handlers that were cancelled and have not ended: {stuck}.")
    for name, seconds in sorted(facts.failing.items()):
        yield Finding("destination_fails", name, f"The destination {name} has got only probes for {lasting(seconds)}.")
    if facts.partitions_ahead < _PARTITIONS:
        detail = f"The partitions of bodies and audit trail reach {lasting(facts.partitions_ahead)} ahead."
        yield Finding("partitions_missing", "", detail)
    if facts.largest is not None and facts.bytes > facts.largest:
        detail = f"The database takes {facts.bytes:,} bytes, more than WEBHOOKD_ALERT_DATABASE_BYTES ({facts.largest:,})."
        yield Finding("database_large", "", detail)


def lasting(seconds: float) -> str:
    """Returns a length of time for people, in its two largest units."""
    left = max(int(seconds), 0)
    parts = []
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        number, left = divmod(left, length)
        if number:
            parts.append(f"{number} {name}" + ("" if number == 1 else "s"))
    return " ".join(parts[:2]) or "0 seconds"

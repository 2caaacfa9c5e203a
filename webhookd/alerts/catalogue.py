"""The fixed list of the conditions that webhookd reports without Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Page: users lose by every minute. Ticket: it waits for the morning."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(slots=True, frozen=True)
class Condition:
    """A condition. `when`: what must hold, in words. `lasts`: the seconds for which it must hold before it fires.

    `guide`: the address of the section of the guide that says what to do. `view`: the dashboard's view that helps.
    """

    name: str
    severity: Severity
    summary: str
    guide: str
    when: str
    lasts: float = 0.0
    view: str = ""


_PAGE, _TICKET = Severity.PAGE, Severity.TICKET
_LIST = (
    Condition(
        "postgresql_away",
        _PAGE,
        "webhookd has no PostgreSQL",
        "/guide/runbook-storage#webhookdpostgresqldown",
        "a replica cannot use PostgreSQL, or gets no new session",
        120,
    ),
    Condition(
        "sqs_away",
        _TICKET,
        "webhookd has no SQS",
        "/guide/runbook-queue#webhookdsqsdown",
        "a replica cannot use SQS",
        300,
    ),
    Condition(
        "redis_away",
        _TICKET,
        "webhookd has no Redis",
        "/guide/runbook-storage#webhookdredisdown",
        "a replica cannot use Redis",
        900,
    ),
    Condition(
        "webhooks_put_off",
        _PAGE,
        "Webhooks are answered 503",
        "/guide/runbook-receiving#webhookdanswers503",
        "more than 5 % of the webhooks of three minutes are answered 503; or more than two, and more than half, of 15 minutes",
        300,
    ),
    Condition(
        "webhooks_not_stored",
        _PAGE,
        "Webhooks are answered 503, but not for lack of capacity",
        "/guide/runbook-receiving#webhookdnotstored",
        "within 15 minutes, PostgreSQL answered and did not store a webhook, or webhookd made a mistake",
    ),
    Condition(
        "signatures_refused",
        _PAGE,
        "No webhook of an account has a valid signature",
        "/guide/runbook-keys#webhookdsignaturesrefused",
        "more than five wrong signatures within 30 minutes while the account is silent for longer than usual, or some in three "
        "of six hours and no authentic webhook for three",
        view="refused",
    ),
    Condition(
        "no_webhooks",
        _PAGE,
        "No webhooks come",
        "/guide/runbook-receiving#webhookdnowebhooks",
        "an account is silent for longer than its rhythm makes likely, or for six hours in which more than 50 came a week ago",
        300,
        "events",
    ),
    Condition(
        "key_unused",
        _TICKET,
        "A signature key is not used",
        "/guide/runbook-keys#webhookdkeyunused",
        "a key has been set and unused for two days, while another key of the account is in use",
        3600,
    ),
    Condition(
        "certificate_ends",
        _TICKET,
        "The public listener's certificate expires within two weeks",
        "/guide/runbook-keys#webhookdcertificateends",
        "webhookd's own certificate expires within two weeks",
        3600,
    ),
    Condition(
        "certificate_ends_soon",
        _PAGE,
        "The public listener's certificate expires within two days",
        "/guide/runbook-keys#webhookdcertificateends",
        "webhookd's own certificate expires within two days",
    ),
    Condition(
        "events_stuck",
        _PAGE,
        "Events are not processed",
        "/guide/runbook-handlers#webhookdeventsstuck",
        "an event that waits for no retry has been unfinished for 30 minutes",
        300,
        "events",
    ),
    Condition(
        "dead_events",
        _TICKET,
        "Events are dead",
        "/guide/runbook-dead#webhookddeadevents",
        "the account has dead events that nobody has redriven or discarded",
        view="dead-letters",
    ),
    Condition(
        "many_dead_events",
        _PAGE,
        "Many events of an account are dead",
        "/guide/runbook-dead#webhookddeadevents",
        "more than ten deaths within 15 minutes, and more than 1 % of the accepted events; or more than two within six hours, "
        "and more than half",
        view="dead-letters",
    ),
    Condition(
        "handlers_stuck",
        _TICKET,
        "A handler does not end",
        "/guide/runbook-handlers#webhookdhandlersstuck",
        "a handler that webhookd cancelled has not ended",
        view="events",
    ),
    Condition(
        "destination_fails",
        _TICKET,
        "A destination fails",
        "/guide/runbook-destinations#webhookddestinationfails",
        "the circuit of a destination is open, and deliveries wait for it",
        900,
    ),
    Condition(  # webhooks still come, and nothing is lost while they do
        "credentials_refused",
        _TICKET,
        "Authorize.Net refuses the API credentials of an account",
        "/guide/runbook-provider#webhookdcredentialsrefused",
        "Authorize.Net refuses the API Login ID or the Transaction Keys of an account",
        view="provider",
    ),
    Condition(  # no webhook comes; the history has the events, but late, and none of a type that the webhook lacks
        "webhook_not_ok",
        _PAGE,
        "Authorize.Net does not send the webhooks of an account",
        "/guide/runbook-provider#webhookdwebhooknotok",
        "the account's webhook is inactive, is not registered, sends to another URL, has lost event types, or cannot be seen",
        600,
        "provider",
    ),
    Condition(  # the second copy of an event is a duplicate, so only load is wasted
        "webhook_doubled",
        _TICKET,
        "Two webhooks of an account lead to one URL",
        "/guide/runbook-provider#webhookdwebhookdoubled",
        "more than one active webhook of the account has webhookd's URL",
        3600,
        "provider",
    ),
    Condition(  # webhookd tries again by itself; what is still missing after hours needs a person, but not at night
        "day_not_whole",
        _TICKET,
        "The events of a day are not complete",
        "/guide/runbook-provider#webhookddaynotwhole",
        "of the last 14 days, one that is over is missing notifications, has unreadable ones, or is not known",
        6 * 3600,
        "provider",
    ),
    Condition(  # money that somebody must look for, but not at night
        "day_not_reconciled",
        _TICKET,
        "A settlement day does not agree with Authorize.Net's books",
        "/guide/runbook-reconcile#webhookddaynotreconciled",
        "of the last 14 settlement days, one that has been over for three days has differences or is not known",
        3600,
        "provider",
    ),
    Condition(  # as with the credentials
        "provider_unreachable",
        _TICKET,
        "Nothing is compared with Authorize.Net's history",
        "/guide/runbook-provider#webhookdproviderunreachable",
        "no comparison of an account's history has ended for two hours, although its credentials are not refused. It also "
        "fires if no replica asks Authorize.Net for the account any more, for three days: the credentials may be removed",
        view="provider",
    ),
    Condition(
        "partitions_missing",
        _TICKET,
        "Partitions are not made",
        "/guide/runbook-storage#webhookdpartitionmissing",
        "the partitions of bodies and audit trail reach less than 14 days ahead",
        900,
    ),
    Condition(
        "database_large",
        _TICKET,
        "The database is large",
        "/guide/alerts#the-size-of-the-database",
        "the database takes more than `WEBHOOKD_ALERT_DATABASE_BYTES`",
        900,
    ),
)
CONDITIONS = {condition.name: condition for condition in _LIST}

-- The timeline: one row a transaction, subscription, customer and payment profile, folded from events in any order.

-- A register is [at, rank, value]: two integers and a text. The greater one of two wins; that is a total order, so that
-- any order of arrival, with any repetition, ends in the same facts. Texts compare by code point (COLLATE "C"), because
-- the database's own collation may differ between servers, and change under an upgrade. In PL/pgSQL, which plans the query
-- once a connection; a function in SQL would plan it at every call.
CREATE FUNCTION webhookd.fold(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(name, register), '{}')
        FROM (
            SELECT DISTINCT ON (name) name, register
            FROM (SELECT * FROM jsonb_each(a) UNION ALL SELECT * FROM jsonb_each(b)) AS facts (name, register)
            ORDER BY
                name,
                (register ->> 0)::bigint DESC,
                (register ->> 1)::integer DESC,
                (register ->> 2) COLLATE "C" DESC
        ) AS newest
    );
END
$function$;
COMMENT ON FUNCTION webhookd.fold(jsonb, jsonb) IS
    'Merges two sets of facts, {"name": [at, rank, value]}: for each name, the greater register. Commutative, associative, idempotent.';

-- Generated columns need an immutable conversion, which the cast from text to timestamptz is not. In two steps, since the
-- arithmetic is in floating point, where only whole seconds and small fractions are exact.
CREATE FUNCTION webhookd.instant(microseconds text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT (
        timestamp 'epoch'
        + microseconds::bigint / 1000000 * interval '1 second'
        + microseconds::bigint % 1000000 * interval '1 microsecond'
    ) AT TIME ZONE 'UTC'
$function$;
COMMENT ON FUNCTION webhookd.instant(text) IS 'The instant so many microseconds after 1970-01-01 UTC.';

-- A sale that the provider held is captured by the approval: no further event comes. So two facts together imply a third.
-- The ranks are higher by one, so that a captured state is greater than the approved state of the same instant.
CREATE FUNCTION webhookd.settle(facts jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
DECLARE
    approved CONSTANT jsonb := facts -> 'approved_amount';
    rank     integer;
BEGIN
    IF approved IS NULL OR NOT facts ? 'captures_when_approved' THEN
        RETURN facts;
    END IF;
    rank := (approved ->> 1)::integer + 1;
    RETURN webhookd.fold(facts, jsonb_build_object(
        'state', jsonb_build_array(approved -> 0, rank, 'captured'),
        'captured_at', jsonb_build_array(approved -> 0, rank, approved ->> 0),
        'captured_amount', jsonb_build_array(approved -> 0, rank, approved ->> 2)
    ));
END
$function$;
COMMENT ON FUNCTION webhookd.settle(jsonb) IS
    'Adds to a transaction''s facts what they imply together: a sale that was held is captured when it is approved.';

CREATE TABLE webhookd.transactions (
    account            text  NOT NULL,
    transaction_id     text  NOT NULL,
    facts              jsonb NOT NULL,
    state              text        GENERATED ALWAYS AS (facts -> 'state' ->> 2) STORED,
    kind               text        GENERATED ALWAYS AS (coalesce(facts -> 'kind' ->> 2, 'charge')) STORED,
    requested_amount   numeric     GENERATED ALWAYS AS ((facts -> 'requested_amount' ->> 2)::numeric) STORED,
    authorized_amount  numeric     GENERATED ALWAYS AS ((facts -> 'authorized_amount' ->> 2)::numeric) STORED,
    captured_amount    numeric     GENERATED ALWAYS AS ((facts -> 'captured_amount' ->> 2)::numeric) STORED,
    refunded_amount    numeric     GENERATED ALWAYS AS ((facts -> 'refunded_amount' ->> 2)::numeric) STORED,
    authorized_at      timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'authorized_at' ->> 2)) STORED,
    held_at            timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'held_at' ->> 2)) STORED,
    approved_at        timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'approved_at' ->> 2)) STORED,
    declined_at        timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'declined_at' ->> 2)) STORED,
    captured_at        timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'captured_at' ->> 2)) STORED,
    voided_at          timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'voided_at' ->> 2)) STORED,
    refunded_at        timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'refunded_at' ->> 2)) STORED,
    response_code      integer     GENERATED ALWAYS AS ((facts -> 'response_code' ->> 2)::integer) STORED,
    auth_code          text        GENERATED ALWAYS AS (facts -> 'auth_code' ->> 2) STORED,
    avs_response       text        GENERATED ALWAYS AS (facts -> 'avs_response' ->> 2) STORED,
    invoice_number     text        GENERATED ALWAYS AS (facts -> 'invoice_number' ->> 2) STORED,
    merchant_reference text        GENERATED ALWAYS AS (facts -> 'merchant_reference' ->> 2) STORED,
    fraud_filters      jsonb       GENERATED ALWAYS AS ((facts -> 'fraud_filters' ->> 2)::jsonb) STORED,
    first_event_at     timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'first_event_at' ->> 2)) STORED,
    last_event_at      timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_event_at' ->> 2)) STORED,
    last_event_type    text        GENERATED ALWAYS AS (facts -> 'last_event_type' ->> 2) STORED,
    last_failure_at    timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_failure_at' ->> 2)) STORED,
    last_failure_type  text        GENERATED ALWAYS AS (facts -> 'last_failure_type' ->> 2) STORED,
    last_failure_code  integer     GENERATED ALWAYS AS ((facts -> 'last_failure_code' ->> 2)::integer) STORED,
    PRIMARY KEY (account, transaction_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE webhookd.transactions IS 'Where each transaction stands, by its newest event; a refund is a transaction of its own.';
COMMENT ON COLUMN webhookd.transactions.facts IS 'What events said, {"name": [at in microseconds since 1970, rank, value]}; every other column is read from it. A value of null erases.';
COMMENT ON COLUMN webhookd.transactions.requested_amount IS 'What the payment or refund asked for, whatever became of it.';
COMMENT ON COLUMN webhookd.transactions.authorized_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN webhookd.transactions.captured_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN webhookd.transactions.refunded_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN webhookd.transactions.last_event_type IS 'The newest event that counts. A void or a capture that failed does not: see last_failure_type.';
COMMENT ON COLUMN webhookd.transactions.last_failure_at IS 'When a void or a capture of this transaction last failed; it left the transaction as it was.';
COMMENT ON COLUMN webhookd.transactions.last_failure_type IS 'The type of the event that reported the failure.';
COMMENT ON COLUMN webhookd.transactions.last_failure_code IS 'Its responseCode; NULL if it was no number.';
COMMENT ON COLUMN webhookd.transactions.state IS 'authorized, held, approved, captured, refunded, declined, error or voided; NULL where no event told.';
COMMENT ON COLUMN webhookd.transactions.kind IS 'charge or refund.';
COMMENT ON COLUMN webhookd.transactions.fraud_filters IS 'The provider''s fraudList: [{"fraudFilter": …, "fraudAction": …}].';

CREATE TABLE webhookd.subscriptions (
    account                     text  NOT NULL,
    subscription_id             text  NOT NULL,
    facts                       jsonb NOT NULL,
    name                        text        GENERATED ALWAYS AS (facts -> 'name' ->> 2) STORED,
    amount                      numeric     GENERATED ALWAYS AS ((facts -> 'amount' ->> 2)::numeric) STORED,
    status                      text        GENERATED ALWAYS AS (facts -> 'status' ->> 2) STORED,
    customer_profile_id         text        GENERATED ALWAYS AS (facts -> 'customer_profile_id' ->> 2) STORED,
    payment_profile_id          text        GENERATED ALWAYS AS (facts -> 'payment_profile_id' ->> 2) STORED,
    shipping_address_id         text        GENERATED ALWAYS AS (facts -> 'shipping_address_id' ->> 2) STORED,
    last_failure_transaction_id text        GENERATED ALWAYS AS (facts -> 'last_failure_transaction_id' ->> 2) STORED,
    last_failure_error          text        GENERATED ALWAYS AS (facts -> 'last_failure_error' ->> 2) STORED,
    last_failure_at             timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_failure_at' ->> 2)) STORED,
    first_event_at              timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'first_event_at' ->> 2)) STORED,
    last_event_at               timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_event_at' ->> 2)) STORED,
    last_event_type             text        GENERATED ALWAYS AS (facts -> 'last_event_type' ->> 2) STORED,
    PRIMARY KEY (account, subscription_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE webhookd.subscriptions IS 'Where each subscription stands, by its newest event.';
COMMENT ON COLUMN webhookd.subscriptions.facts IS 'As in transactions.';
COMMENT ON COLUMN webhookd.subscriptions.status IS 'active, expired, suspended, canceled or terminated, or what else the provider says, in lower case.';
COMMENT ON COLUMN webhookd.subscriptions.last_failure_at IS 'When the failed payment was submitted; where that was not told, the date of the event.';

CREATE TABLE webhookd.customers (
    account              text  NOT NULL,
    customer_profile_id  text  NOT NULL,
    facts                jsonb NOT NULL,
    state                text        GENERATED ALWAYS AS (facts -> 'state' ->> 2) STORED,
    merchant_customer_id text        GENERATED ALWAYS AS (facts -> 'merchant_customer_id' ->> 2) STORED,
    payment_profile_ids  jsonb       GENERATED ALWAYS AS ((facts -> 'payment_profile_ids' ->> 2)::jsonb) STORED,
    first_event_at       timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'first_event_at' ->> 2)) STORED,
    last_event_at        timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_event_at' ->> 2)) STORED,
    last_event_type      text        GENERATED ALWAYS AS (facts -> 'last_event_type' ->> 2) STORED,
    PRIMARY KEY (account, customer_profile_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE webhookd.customers IS 'Customer profiles, by their newest event; ids only, no names or addresses.';
COMMENT ON COLUMN webhookd.customers.facts IS 'As in transactions.';
COMMENT ON COLUMN webhookd.customers.state IS 'active or deleted.';
COMMENT ON COLUMN webhookd.customers.payment_profile_ids IS 'The newest list that a customer event gave, ["id", …]; events of payment profiles do not change it.';

CREATE TABLE webhookd.payment_profiles (
    account             text  NOT NULL,
    payment_profile_id  text  NOT NULL,
    facts               jsonb NOT NULL,
    state               text        GENERATED ALWAYS AS (facts -> 'state' ->> 2) STORED,
    customer_profile_id text        GENERATED ALWAYS AS (facts -> 'customer_profile_id' ->> 2) STORED,
    customer_type       text        GENERATED ALWAYS AS (facts -> 'customer_type' ->> 2) STORED,
    first_event_at      timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'first_event_at' ->> 2)) STORED,
    last_event_at       timestamptz GENERATED ALWAYS AS (webhookd.instant(facts -> 'last_event_at' ->> 2)) STORED,
    last_event_type     text        GENERATED ALWAYS AS (facts -> 'last_event_type' ->> 2) STORED,
    PRIMARY KEY (account, payment_profile_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE webhookd.payment_profiles IS 'Payment profiles of customers, by their newest event; no card or bank data.';
COMMENT ON COLUMN webhookd.payment_profiles.facts IS 'As in transactions.';
COMMENT ON COLUMN webhookd.payment_profiles.state IS 'active or deleted.';

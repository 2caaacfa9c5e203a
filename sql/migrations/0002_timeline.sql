-- The timeline: one row for each transaction, subscription, customer and payment profile, folded from events in any order.

-- A fact has a time, a rank and a value: two integers, and a text or null. Of two facts with the same name, the greater fact stays. The
-- order of facts is total. So any order of arrival, with any repetition, ends in the same facts.
-- Most facts of an entity come with one event, and have the time and the rank of that event. So facts are stored in groups: [[time, rank,
-- {name: value, …}], …]. The greatest time and rank come first, and each name is in one group only. Groups take a third of the bytes that
-- a time and a rank for each fact would take.
-- Texts compare by code point (COLLATE "C"), because the database's own collation may differ between servers and may change with an
-- upgrade.
-- The function is in PL/pgSQL, which plans the query once for each connection. A function in SQL would plan the query at every call.
CREATE FUNCTION webhookd.fold(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_array(at, rank, facts) ORDER BY at DESC, rank DESC), '[]')
        FROM (
            SELECT at, rank, jsonb_object_agg(name, value) AS facts
            FROM (
                SELECT DISTINCT ON (name) (part ->> 0)::bigint AS at, (part ->> 1)::integer AS rank, name, value
                FROM jsonb_array_elements(a || b) AS parts (part), jsonb_each(part -> 2) AS fact (name, value)
                ORDER BY name, at DESC, rank DESC, value #>> '{}' COLLATE "C" DESC
            ) AS newest
            GROUP BY at, rank
        ) AS groups
    );
END
$function$;
COMMENT ON FUNCTION webhookd.fold(jsonb, jsonb) IS
    'Merges two sets of facts, [[time, rank, {name: value}]]. Of two facts with the same name, the greater fact stays. Commutative, '
    'associative, idempotent.';

-- If the provider held a sale, the approval captures the sale, and no further event comes. So two facts together imply a third fact. The
-- implied facts have a rank that is higher by one. So a captured state is greater than the approved state of the same instant.
CREATE FUNCTION webhookd.settle(facts jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
DECLARE
    approved CONSTANT jsonb := jsonb_path_query_first(facts, 'strict $[*] ? (exists(@[2].approved_amount))');
BEGIN
    IF approved IS NULL OR NOT jsonb_path_exists(facts, '$[*][2].captures_when_approved') THEN
        RETURN facts;
    END IF;
    RETURN webhookd.fold(facts, jsonb_build_array(jsonb_build_array(
        approved -> 0,
        (approved ->> 1)::integer + 1,
        jsonb_build_object('state', 'captured', 'captured_at', approved ->> 0, 'captured_amount', approved -> 2 -> 'approved_amount')
    )));
END
$function$;
COMMENT ON FUNCTION webhookd.settle(jsonb) IS
    'Adds the facts that an entity''s facts imply together: a held sale is captured when it is approved.';

CREATE TABLE webhookd.timeline (
    entity_name text  NOT NULL,
    account     text  NOT NULL,
    entity_id   text  NOT NULL,
    facts       jsonb NOT NULL,
    PRIMARY KEY (entity_name, account, entity_id)
) WITH (fillfactor = 90);
COMMENT ON TABLE webhookd.timeline IS
    'The facts that events reported about each entity. To read them, use the views transactions, subscriptions, customers and '
    'payment_profiles.';
COMMENT ON COLUMN webhookd.timeline.entity_name IS 'transaction, subscription, customerProfile or customerPaymentProfile.';
COMMENT ON COLUMN webhookd.timeline.facts IS
    'Facts in groups: [[time in microseconds since 1970, rank, {name: value}]]. A value of null erases an older value.';

-- Converts microseconds to a time, in two steps. The arithmetic is in floating point, where only whole seconds and small fractions are
-- exact.
CREATE FUNCTION webhookd.instant(microseconds text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT (
        timestamp 'epoch'
        + microseconds::bigint / 1000000 * interval '1 second'
        + microseconds::bigint % 1000000 * interval '1 microsecond'
    ) AT TIME ZONE 'UTC'
$function$;
COMMENT ON FUNCTION webhookd.instant(text) IS 'The instant that is the given number of microseconds after 1970-01-01 UTC.';

-- PostgreSQL puts the body of this function in place of the call. So a query computes only the columns that it reads.
CREATE FUNCTION webhookd.value_of(facts jsonb, fact jsonpath) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT jsonb_path_query_first(facts, fact) #>> '{}'
$function$;
COMMENT ON FUNCTION webhookd.value_of(jsonb, jsonpath) IS
    'The value of a fact, for example value_of(facts, ''$[*][2].state''). NULL if the fact does not exist or was erased.';

CREATE VIEW webhookd.transactions AS
SELECT
    account,
    entity_id AS transaction_id,
    webhookd.value_of(facts, '$[*][2].state') AS state,
    coalesce(webhookd.value_of(facts, '$[*][2].kind'), 'charge') AS kind,
    webhookd.value_of(facts, '$[*][2].requested_amount')::numeric AS requested_amount,
    webhookd.value_of(facts, '$[*][2].authorized_amount')::numeric AS authorized_amount,
    webhookd.value_of(facts, '$[*][2].captured_amount')::numeric AS captured_amount,
    webhookd.value_of(facts, '$[*][2].refunded_amount')::numeric AS refunded_amount,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].authorized_at')) AS authorized_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].held_at')) AS held_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].approved_at')) AS approved_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].declined_at')) AS declined_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].captured_at')) AS captured_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].voided_at')) AS voided_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].refunded_at')) AS refunded_at,
    webhookd.value_of(facts, '$[*][2].response_code')::integer AS response_code,
    webhookd.value_of(facts, '$[*][2].auth_code') AS auth_code,
    webhookd.value_of(facts, '$[*][2].avs_response') AS avs_response,
    webhookd.value_of(facts, '$[*][2].invoice_number') AS invoice_number,
    webhookd.value_of(facts, '$[*][2].merchant_reference') AS merchant_reference,
    webhookd.value_of(facts, '$[*][2].fraud_filters')::jsonb AS fraud_filters,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].first_event_at')) AS first_event_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_event_at')) AS last_event_at,
    webhookd.value_of(facts, '$[*][2].last_event_type') AS last_event_type,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_failure_at')) AS last_failure_at,
    webhookd.value_of(facts, '$[*][2].last_failure_type') AS last_failure_type,
    webhookd.value_of(facts, '$[*][2].last_failure_code')::integer AS last_failure_code
FROM webhookd.timeline
WHERE entity_name = 'transaction';
COMMENT ON VIEW webhookd.transactions IS
    'The state of each transaction, according to its newest event. A refund is a transaction of its own.';
COMMENT ON COLUMN webhookd.transactions.requested_amount IS 'The amount that the payment or the refund asked for, whatever happened later.';
COMMENT ON COLUMN webhookd.transactions.authorized_amount IS
    'NULL while the transaction is held, and after a refusal or a void. So no sum counts the amount.';
COMMENT ON COLUMN webhookd.transactions.captured_amount IS
    'NULL while the transaction is held, and after a refusal or a void. So no sum counts the amount.';
COMMENT ON COLUMN webhookd.transactions.refunded_amount IS
    'NULL while the transaction is held, and after a refusal or a void. So no sum counts the amount.';
COMMENT ON COLUMN webhookd.transactions.last_event_type IS
    'The type of the newest event that counts. A void or a capture that failed does not count: see last_failure_type.';
COMMENT ON COLUMN webhookd.transactions.last_failure_at IS
    'When a void or a capture of this transaction last failed. The failure left the transaction unchanged.';
COMMENT ON COLUMN webhookd.transactions.last_failure_type IS 'The type of the event that reported the failure.';
COMMENT ON COLUMN webhookd.transactions.last_failure_code IS 'The responseCode of the failure. NULL if the responseCode was not a number.';
COMMENT ON COLUMN webhookd.transactions.state IS
    'authorized, held, approved, captured, refunded, declined, error or voided. NULL if no event reported a state.';
COMMENT ON COLUMN webhookd.transactions.kind IS 'charge or refund.';
COMMENT ON COLUMN webhookd.transactions.fraud_filters IS 'The provider''s fraudList: [{"fraudFilter": …, "fraudAction": …}].';

CREATE VIEW webhookd.subscriptions AS
SELECT
    account,
    entity_id AS subscription_id,
    webhookd.value_of(facts, '$[*][2].name') AS name,
    webhookd.value_of(facts, '$[*][2].amount')::numeric AS amount,
    webhookd.value_of(facts, '$[*][2].status') AS status,
    webhookd.value_of(facts, '$[*][2].customer_profile_id') AS customer_profile_id,
    webhookd.value_of(facts, '$[*][2].payment_profile_id') AS payment_profile_id,
    webhookd.value_of(facts, '$[*][2].shipping_address_id') AS shipping_address_id,
    webhookd.value_of(facts, '$[*][2].last_failure_transaction_id') AS last_failure_transaction_id,
    webhookd.value_of(facts, '$[*][2].last_failure_error') AS last_failure_error,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_failure_at')) AS last_failure_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].first_event_at')) AS first_event_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_event_at')) AS last_event_at,
    webhookd.value_of(facts, '$[*][2].last_event_type') AS last_event_type
FROM webhookd.timeline
WHERE entity_name = 'subscription';
COMMENT ON VIEW webhookd.subscriptions IS 'The state of each subscription, according to its newest event.';
COMMENT ON COLUMN webhookd.subscriptions.status IS
    'active, expired, suspended, canceled or terminated, or any other status that the provider reports, in lower case.';
COMMENT ON COLUMN webhookd.subscriptions.last_failure_at IS
    'When the failed payment was submitted. If the event did not report this time: the date of the event.';

CREATE VIEW webhookd.customers AS
SELECT
    account,
    entity_id AS customer_profile_id,
    webhookd.value_of(facts, '$[*][2].state') AS state,
    webhookd.value_of(facts, '$[*][2].merchant_customer_id') AS merchant_customer_id,
    webhookd.value_of(facts, '$[*][2].payment_profile_ids')::jsonb AS payment_profile_ids,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].first_event_at')) AS first_event_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_event_at')) AS last_event_at,
    webhookd.value_of(facts, '$[*][2].last_event_type') AS last_event_type
FROM webhookd.timeline
WHERE entity_name = 'customerProfile';
COMMENT ON VIEW webhookd.customers IS 'Customer profiles, according to their newest events. Ids only: no names or addresses.';
COMMENT ON COLUMN webhookd.customers.state IS 'active or deleted.';
COMMENT ON COLUMN webhookd.customers.payment_profile_ids IS
    'The newest list that a customer event reported, ["id", …]. Events of payment profiles do not change the list.';

CREATE VIEW webhookd.payment_profiles AS
SELECT
    account,
    entity_id AS payment_profile_id,
    webhookd.value_of(facts, '$[*][2].state') AS state,
    webhookd.value_of(facts, '$[*][2].customer_profile_id') AS customer_profile_id,
    webhookd.value_of(facts, '$[*][2].customer_type') AS customer_type,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].first_event_at')) AS first_event_at,
    webhookd.instant(webhookd.value_of(facts, '$[*][2].last_event_at')) AS last_event_at,
    webhookd.value_of(facts, '$[*][2].last_event_type') AS last_event_type
FROM webhookd.timeline
WHERE entity_name = 'customerPaymentProfile';
COMMENT ON VIEW webhookd.payment_profiles IS 'Payment profiles of customers, according to their newest events. No card or bank data.';
COMMENT ON COLUMN webhookd.payment_profiles.state IS 'active or deleted.';

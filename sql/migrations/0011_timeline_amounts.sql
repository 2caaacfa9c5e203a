-- The timeline: requested amounts, failed follow-ups, and sales that an approval captures.
-- depends: 0010_trace

-- migrate: apply

-- A sale that the provider held is captured by the approval: no further event comes. So two facts together imply a third.
-- The ranks are higher by one, so that a captured state is greater than the approved state of the same instant.
CREATE FUNCTION webhookd_settle(facts jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $function$
DECLARE
    approved CONSTANT jsonb := facts -> 'approved_amount';
    rank     integer;
BEGIN
    IF approved IS NULL OR NOT facts ? 'captures_when_approved' THEN
        RETURN facts;
    END IF;
    rank := (approved ->> 1)::integer + 1;
    RETURN webhookd_fold(facts, jsonb_build_object(
        'state', jsonb_build_array(approved -> 0, rank, 'captured'),
        'captured_at', jsonb_build_array(approved -> 0, rank, approved ->> 0),
        'captured_amount', jsonb_build_array(approved -> 0, rank, approved ->> 2)
    ));
END
$function$;
COMMENT ON FUNCTION webhookd_settle(jsonb) IS
    'Adds to a transaction''s facts what they imply together: a sale that was held is captured when it is approved.';

-- Plain columns that a trigger fills: a generated column would rewrite the table while nobody can use it.
CREATE FUNCTION webhookd_settle_transaction() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    NEW.facts := webhookd_settle(NEW.facts);
    NEW.requested_amount := (NEW.facts -> 'requested_amount' ->> 2)::numeric;
    NEW.last_failure_at := webhookd_instant(NEW.facts -> 'last_failure_at' ->> 2);
    NEW.last_failure_type := NEW.facts -> 'last_failure_type' ->> 2;
    NEW.last_failure_code := (NEW.facts -> 'last_failure_code' ->> 2)::integer;
    RETURN NEW;
END
$function$;

ALTER TABLE transactions
    ADD COLUMN requested_amount numeric,
    ADD COLUMN last_failure_at timestamptz,
    ADD COLUMN last_failure_type text,
    ADD COLUMN last_failure_code integer;
CREATE TRIGGER settle BEFORE INSERT OR UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION webhookd_settle_transaction();

COMMENT ON COLUMN transactions.facts IS 'What events said, {"name": [at in microseconds since 1970, rank, value]}; every other column is read from it. A value of null erases.';
COMMENT ON COLUMN transactions.requested_amount IS 'What the payment or refund asked for, whatever became of it. NULL in rows of release 0.2 until their next event.';
COMMENT ON COLUMN transactions.authorized_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN transactions.captured_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN transactions.refunded_amount IS 'NULL while held, and after a refusal or a void: it counts in no sum.';
COMMENT ON COLUMN transactions.last_event_type IS 'The newest event that counts. A void or a capture that failed does not: see last_failure_type.';
COMMENT ON COLUMN transactions.last_failure_at IS 'When a void or a capture of this transaction last failed; it left the transaction as it was.';
COMMENT ON COLUMN transactions.last_failure_type IS 'The type of the event that reported the failure.';
COMMENT ON COLUMN transactions.last_failure_code IS 'Its responseCode; NULL if it was no number.';

-- migrate: rollback

DROP TRIGGER settle ON transactions;
ALTER TABLE transactions
    DROP COLUMN requested_amount, DROP COLUMN last_failure_at, DROP COLUMN last_failure_type, DROP COLUMN last_failure_code;
DROP FUNCTION webhookd_settle_transaction();
DROP FUNCTION webhookd_settle(jsonb);

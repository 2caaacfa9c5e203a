-- name: provider_refusal(fingerprint)^
-- Returns the refusal of these credentials, with durations in seconds; no row if the provider did not refuse them.
SELECT
    code,
    extract(epoch FROM now() - since)::float8 AS refused_for,
    greatest(0, extract(epoch FROM until - now()))::float8 AS next_try_in
FROM webhookd.provider_refusals
WHERE fingerprint = :fingerprint;

-- name: take_provider_try(fingerprint, seconds)$
-- Takes the try that is due, and puts the next one off by `seconds`. Returns true; nothing if no try is due, or another replica took it.
UPDATE webhookd.provider_refusals
SET until = now() + make_interval(secs => :seconds)
WHERE fingerprint = :fingerprint AND until <= now()
RETURNING true;

-- name: note_provider_refusal(fingerprint, account, code, seconds)!
-- Notes that the provider refuses these credentials. The next try is due after `seconds`.
INSERT INTO webhookd.provider_refusals AS r (fingerprint, account, code, until)
VALUES (:fingerprint, :account, :code, now() + make_interval(secs => :seconds))
ON CONFLICT (fingerprint) DO UPDATE SET
    account = excluded.account, code = excluded.code, until = greatest(r.until, excluded.until);

-- name: drop_provider_refusal(fingerprint)!
-- Notes that the provider accepts these credentials. Also drops the refusals of credentials that nobody has tried for a week.
WITH gone AS MATERIALIZED (
    SELECT fingerprint FROM webhookd.provider_refusals
    WHERE fingerprint = :fingerprint OR until < now() - interval '7 days'
    ORDER BY fingerprint FOR UPDATE
)
DELETE FROM webhookd.provider_refusals r USING gone WHERE r.fingerprint = gone.fingerprint;

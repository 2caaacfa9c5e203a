-- Events that an operator has put back.
-- depends: 0003_duties

-- migrate: apply

ALTER TABLE events ADD COLUMN redriven_at timestamptz;
COMMENT ON COLUMN events.redriven_at IS 'When a dead event was last put back by an operator: it is sent after fresh ones, and its age counts from here.';

DROP INDEX events_unfinished;
-- For how long the oldest unfinished event has been so, without a scan.
CREATE INDEX events_unfinished ON events (coalesce(redriven_at, received_at)) WHERE status IN ('received', 'queued', 'retrying');

CREATE FUNCTION webhookd_dead(
    ids uuid[], event_types text[], account text, reason text, since timestamptz, until timestamptz, discarded boolean
) RETURNS SETOF events
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT e.*
    FROM events e
    WHERE e.status = 'dead'
        AND (ids IS NULL OR e.id = ANY(ids))
        AND (event_types IS NULL OR e.event_type LIKE ANY(event_types))
        AND (webhookd_dead.account IS NULL OR e.account = webhookd_dead.account)
        AND (
            reason IS NULL OR position(lower(reason) IN lower(coalesce(e.dead_reason, ''))) > 0
            OR position(lower(reason) IN lower(coalesce(e.last_error, ''))) > 0
        )
        AND e.finished_at >= coalesce(since, '-infinity') AND e.finished_at <= coalesce(until, 'infinity')
        AND (discarded IS NULL OR (e.discarded_at IS NOT NULL) = discarded)
$function$;
COMMENT ON FUNCTION webhookd_dead(uuid[], text[], text, text, timestamptz, timestamptz, boolean) IS
    'Dead events; NULL stands for any. `event_types` are patterns for LIKE, `reason` is a part of the reason or of the last error, `since` and `until` bound the death.';

-- migrate: rollback

DROP FUNCTION webhookd_dead(uuid[], text[], text, text, timestamptz, timestamptz, boolean);
DROP INDEX events_unfinished;
CREATE INDEX events_unfinished ON events (received_at) WHERE status IN ('received', 'queued', 'retrying');
ALTER TABLE events DROP COLUMN redriven_at;

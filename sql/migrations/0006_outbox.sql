-- What an operator has put back is found apart from what is fresh, so that neither is read past to reach the other.
-- depends: 0005_retention

-- migrate: apply

CREATE INDEX events_redriven ON events (status, send_after)
    WHERE status IN ('received', 'queued', 'retrying') AND redriven_at IS NOT NULL;
DROP INDEX events_outbox;
-- The outbox ('received') and what was sent long ago and has not ended ('queued', 'retrying'), in the order of being due.
CREATE INDEX events_outbox ON events (status, send_after)
    WHERE status IN ('received', 'queued', 'retrying') AND redriven_at IS NULL;

-- migrate: rollback

DROP INDEX events_outbox;
CREATE INDEX events_outbox ON events (status, send_after) WHERE status IN ('received', 'queued', 'retrying');
DROP INDEX events_redriven;

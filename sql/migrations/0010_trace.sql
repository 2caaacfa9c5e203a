-- An event's place in its trace, so that whoever sends or works on it later goes on with that.
-- depends: 0009_search

-- migrate: apply

ALTER TABLE events ADD COLUMN traceparent text;
COMMENT ON COLUMN events.traceparent IS 'The span of the webhook''s receipt, as W3C Trace Context writes it; NULL where the receiver did not trace.';

-- migrate: rollback

ALTER TABLE events DROP COLUMN traceparent;

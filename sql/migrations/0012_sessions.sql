-- Sessions of the dashboard that were ended before their time, for every replica.
-- depends: 0011_timeline_amounts

-- migrate: apply

CREATE TABLE ended_sessions (
    id         uuid        PRIMARY KEY,
    kept_until timestamptz NOT NULL
);
CREATE INDEX ended_sessions_kept ON ended_sessions (kept_until);
COMMENT ON COLUMN ended_sessions.kept_until IS 'From then on the session''s own time is over, and nobody need remember it.';

-- migrate: rollback

DROP TABLE ended_sessions;

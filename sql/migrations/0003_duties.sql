-- What one replica at a time does for all of them; and dead events that an operator has let go.
-- depends: 0002_timeline

-- migrate: apply

-- A duty is taken for a while, and falls to another replica when its holder does not take it again in time.
CREATE TABLE duties (
    name       text        PRIMARY KEY,
    holder     uuid        NOT NULL,
    held_until timestamptz NOT NULL
);

ALTER TABLE events ADD COLUMN discarded_at timestamptz;
COMMENT ON COLUMN events.discarded_at IS 'When an operator let this dead event go: it has no copy in the dead-letter queue, and retention may remove it.';

-- migrate: rollback

ALTER TABLE events DROP COLUMN discarded_at;
DROP TABLE duties;

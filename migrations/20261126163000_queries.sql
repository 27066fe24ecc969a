-- Query subscriptions: what the log tells of declared fields, how a filter reads a field, and which queries there are.
SET LOCAL lock_timeout = '10s';

-- The declared fields before and after, as the hub's `FieldChange` spells them: enough to tell from this row alone whether an
-- entity came into a query, changed in it or left it. Null in what was written before, or by a node before.
ALTER TABLE changes ADD COLUMN fields text;

-- The number that JSON spells so, else null. The exponent is bounded, so the cast never fails.
CREATE FUNCTION filter_number(value text) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(value) <= 1024
             AND value COLLATE "C" ~ '^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$'
        THEN value::numeric END
$$;

-- The moment that RFC 3339 spells so, in seconds since 1970, else null. By hand: a cast to timestamptz takes more than that,
-- fails on the rest, and counts in microseconds.
CREATE FUNCTION filter_time(value text) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    p    text[] := regexp_match(value COLLATE "C", '^([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})'
                                '(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))$');
    y    integer := p[1];
    m    integer := p[2];
    d    integer := p[3];
    last integer := CASE WHEN m IN (4, 6, 9, 11) THEN 30
                         WHEN m <> 2 THEN 31
                         WHEN y % 4 = 0 AND (y % 100 <> 0 OR y % 400 = 0) THEN 29
                         ELSE 28 END;
BEGIN
    IF p IS NULL OR y < 1 OR m NOT BETWEEN 1 AND 12 OR d NOT BETWEEN 1 AND last OR p[4]::int > 23 OR p[5]::int > 59
        OR p[6]::int > 59 OR p[9]::int > 23 OR p[10]::int > 59
    THEN
        RETURN NULL;
    END IF;
    RETURN (make_date(y, m, d) - DATE '1970-01-01')::numeric * 86400 + p[4]::int * 3600 + p[5]::int * 60 + p[6]::int
        + COALESCE(('0.' || p[7])::numeric, 0)
        - COALESCE((p[8] || '1')::int * (p[9]::int * 3600 + p[10]::int * 60), 0);
END $$;

-- Who may listen to which query. The id is a hash of kind and filter: users who ask the same share a channel, and each has a
-- row of their own.
CREATE TABLE queries (
    id         text COLLATE "C" NOT NULL,
    "user"     text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    filter     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- To the hour or so: every use would be a write.
    used_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, "user")
);
CREATE INDEX queries_user ON queries ("user", created_at);
CREATE INDEX queries_used ON queries (used_at);

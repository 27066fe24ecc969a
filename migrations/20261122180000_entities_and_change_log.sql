-- Entities, their change log and its streams, Mirrors, leases and quarantine.
SET LOCAL lock_timeout = '10s';

CREATE FUNCTION new_epoch() RETURNS text LANGUAGE sql VOLATILE
    RETURN left(replace(gen_random_uuid()::text, '-', ''), 16);

CREATE TABLE kinds (
    name       text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,40}$'),
    source     text NOT NULL CHECK (source IN ('mirrored', 'local')),
    mirror     text,
    -- Declared fields as dotted paths: what may be filtered by, and whose earlier values the log keeps.
    fields     text[] NOT NULL DEFAULT '{}',
    schema     json,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The row that orders the writers of a kind. `at` never goes back, so days follow offsets whatever the clock does.
CREATE TABLE streams (
    name  text COLLATE "C" PRIMARY KEY,
    epoch text NOT NULL DEFAULT new_epoch(),
    top   bigint NOT NULL DEFAULT 0 CHECK (top >= 0),
    at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20);

CREATE TABLE entities (
    kind          text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    revision      bigint NOT NULL,
    "offset"      bigint NOT NULL,
    op            text NOT NULL,
    at            timestamptz NOT NULL,
    by            text NOT NULL,
    version       text COLLATE "C",
    -- Of the content without the version's own fields.
    hash          bytea,
    -- The raw text as received, checked before it comes here; null when purged: the row is then a tombstone.
    doc           text,
    size          integer NOT NULL,
    -- Declared path -> its scalar as text: equality is by text, so nothing passes through a float.
    fields        jsonb NOT NULL DEFAULT '{}',
    -- The entity's name in channels, where the id itself cannot be one.
    key           text COLLATE "C",
    trashed_at    timestamptz,
    missing_since timestamptz,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX entities_newest ON entities (kind, "offset" DESC);
CREATE INDEX entities_version ON entities (kind, version, id) WHERE version IS NOT NULL;
CREATE INDEX entities_fields ON entities USING gin (fields jsonb_path_ops);
CREATE UNIQUE INDEX entities_key ON entities (kind, key) WHERE key IS NOT NULL;

CREATE TABLE changes (
    kind     text COLLATE "C" NOT NULL,
    "offset" bigint NOT NULL,
    day      date NOT NULL,
    id       text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    op       text NOT NULL,
    at       timestamptz NOT NULL,
    by       text NOT NULL,
    changed  text[] NOT NULL,
    -- Earlier values of declared fields; json, because jsonb would refuse some numbers.
    before   json,
    -- Only up to the size that a publication carries.
    doc      text,
    -- Bytes of doc, so that a read is bounded without fetching it.
    size     integer NOT NULL,
    trace    text,
    PRIMARY KEY (kind, "offset", day)
) PARTITION BY RANGE (day);
CREATE INDEX changes_entity ON changes (kind, id, revision, day);
-- A missing partition must never stop writing; maintain_changes() moves what landed here to where it belongs.
CREATE TABLE changes_default PARTITION OF changes DEFAULT;

-- lz4 costs a fraction of pglz; a server built without it keeps its default.
DO $$ BEGIN
    ALTER TABLE entities ALTER COLUMN doc SET COMPRESSION lz4;
    ALTER TABLE changes ALTER COLUMN doc SET COMPRESSION lz4;
    ALTER TABLE changes_default ALTER COLUMN doc SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    owner      text NOT NULL,
    term       bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE mirrors (
    name              text COLLATE "C" PRIMARY KEY,
    kind              text COLLATE "C" NOT NULL REFERENCES kinds (name),
    cursor            text,
    snapshot_complete boolean NOT NULL DEFAULT false,
    gap               boolean NOT NULL DEFAULT false,
    newest_version    text COLLATE "C",
    -- Of the lease under which it is written: an older term writes nothing.
    term              bigint NOT NULL,
    status            json NOT NULL DEFAULT '{}',
    objects           bigint NOT NULL DEFAULT 0,
    changed           bigint NOT NULL DEFAULT 0,
    unchanged         bigint NOT NULL DEFAULT 0,
    stale             bigint NOT NULL DEFAULT 0,
    quarantined       bigint NOT NULL DEFAULT 0,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);

CREATE TABLE quarantine (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mirror      text COLLATE "C" NOT NULL,
    reason      text NOT NULL,
    detail      text NOT NULL,
    id          text COLLATE "C",
    -- What came, cut to a limit; bytes is what it was.
    raw         bytea NOT NULL,
    bytes       bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz
);
CREATE INDEX quarantine_mirror ON quarantine (mirror, number DESC);

-- Which database this is. When it answers otherwise, it went back in time or is a copy, and every past is lost.
CREATE TABLE database_identity (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    system_identifier text NOT NULL,
    timeline          bigint NOT NULL,
    since             timestamptz NOT NULL DEFAULT now()
);

-- True when the identity changed: every stream has a new epoch then. The timeline is that of the WAL being written: a
-- promoted server's control file tells the old one until its first checkpoint.
CREATE FUNCTION check_database_identity() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    system text := (SELECT system_identifier::text FROM pg_control_system());
    line   bigint := ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint;
BEGIN
    IF EXISTS (SELECT FROM database_identity d WHERE d.system_identifier = system AND d.timeline = line) THEN
        RETURN false;
    END IF;
    INSERT INTO database_identity (system_identifier, timeline) VALUES (system, line) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN false;
    END IF;
    -- Of several nodes that notice, the one that gets here first renews.
    UPDATE database_identity d SET system_identifier = system, timeline = line, since = now()
        WHERE d.system_identifier <> system OR d.timeline <> line;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE streams SET epoch = new_epoch();
    RETURN true;
END $$;

-- Makes the partitions from today to `ahead` days on, empties the default one, drops those wholly older than `keep` days.
-- Never waits long for a lock: what cannot be done now is done by the next run.
CREATE FUNCTION maintain_changes(ahead integer, keep integer, today date) RETURNS TABLE (made integer, dropped integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    d    date;
    part text;
BEGIN
    made := 0;
    dropped := 0;
    -- One node at a time; another's run is as good as ours.
    IF NOT pg_try_advisory_xact_lock(hashtext('maintain_changes')) THEN
        RETURN NEXT;
        RETURN;
    END IF;
    PERFORM set_config('lock_timeout', '2s', true);
    FOR d IN
        SELECT today + n FROM generate_series(0, ahead) n UNION SELECT DISTINCT c.day FROM changes_default c ORDER BY 1
    LOOP
        part := 'changes_' || to_char(d, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        BEGIN
            -- Made beside and attached: this lets writers of other partitions through.
            EXECUTE format('CREATE TABLE %I (LIKE changes INCLUDING ALL)', part);
            EXECUTE format('WITH moved AS (DELETE FROM changes_default WHERE day = %L RETURNING *) '
                           'INSERT INTO %I SELECT * FROM moved', d, part);
            EXECUTE format('ALTER TABLE changes ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part, d, d + 1);
            made := made + 1;
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'changes'::regclass AND c.relname ~ '^changes_\d{8}$' ORDER BY c.relname
    LOOP
        EXIT WHEN to_date(right(part, 8), 'YYYYMMDD') >= today - keep;
        BEGIN
            EXECUTE format('DROP TABLE %I', part);
            dropped := dropped + 1;
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
    END LOOP;
    RETURN NEXT;
END $$;

SELECT maintain_changes(7, 36500, (now() AT TIME ZONE 'UTC')::date);

-- A dump that is restored into the same cluster, or a copy of the database in it, keeps the system identifier and the
-- timeline. The database and the table of the streams are then other objects: they belong to the identity.
SET LOCAL lock_timeout = '10s';

ALTER TABLE database_identity ADD COLUMN place text NOT NULL DEFAULT '';

CREATE OR REPLACE FUNCTION check_database_identity() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    system text := (SELECT system_identifier::text FROM pg_control_system());
    line   bigint := ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint;
    here   text := (SELECT d.oid || '.' || 'streams'::regclass::oid FROM pg_database d WHERE d.datname = current_database());
BEGIN
    IF EXISTS (SELECT FROM database_identity d
               WHERE d.system_identifier = system AND d.timeline = line AND d.place = here) THEN
        RETURN false;
    END IF;
    INSERT INTO database_identity (system_identifier, timeline, place) VALUES (system, line, here) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN false;
    END IF;
    -- Known from before places were: the same database.
    UPDATE database_identity d SET place = here
        WHERE d.system_identifier = system AND d.timeline = line AND d.place = '';
    IF FOUND THEN
        RETURN false;
    END IF;
    -- Of several nodes that notice, the one that gets here first renews.
    UPDATE database_identity d SET system_identifier = system, timeline = line, place = here, since = now()
        WHERE d.system_identifier <> system OR d.timeline <> line OR d.place <> here;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE streams SET epoch = new_epoch();
    RETURN true;
END $$;

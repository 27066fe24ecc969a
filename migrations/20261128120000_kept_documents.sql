-- Documents of local kinds that are larger than what a publication carries, so that each revision can be shown and restored. They
-- end with the row's partition; nothing that reads the log for publishing looks at them.
SET LOCAL lock_timeout = '10s';

-- As with the other documents: a server built without lz4 keeps its default.
DO $$ BEGIN
    ALTER TABLE changes ADD COLUMN large text COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    ALTER TABLE changes ADD COLUMN large text;
END $$;

-- A node of before this column that purges does not know it: what is destroyed is destroyed whoever does it.
CREATE FUNCTION forget_large() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE changes SET large = NULL
        WHERE kind = NEW.kind AND id = NEW.id AND revision < NEW.revision AND large IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_large AFTER INSERT ON changes FOR EACH ROW WHEN (NEW.op = 'purge') EXECUTE FUNCTION forget_large();

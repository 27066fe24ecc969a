-- Documents of local kinds that are larger than what a publication carries, so that each revision can be shown and restored. They
-- end with the row's partition; nothing that reads the log for publishing looks at them.
SET LOCAL lock_timeout = '10s';

ALTER TABLE changes ADD COLUMN large text;
DO $$ BEGIN
    ALTER TABLE changes ALTER COLUMN large SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

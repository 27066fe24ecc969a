-- Lists sorted by declared fields: what they are sorted by, and the key by which places in them are sealed.
SET LOCAL lock_timeout = '10s';

-- Declared path -> as what it is read: text, number or time. For each there is an index, which nodes make in the background.
ALTER TABLE kinds ADD COLUMN sorts json NOT NULL DEFAULT '{}';

-- A text as it stands in the Ukrainian alphabet, capital letters as small ones, with the letters of Russian where a reader looks for
-- them: each letter becomes one of a run of the private use area, so bytes are in the alphabet's order whatever the database's own is,
-- and no upgrade of a system's library changes what an index holds. Cut, for an entry of an index has its limit.
CREATE FUNCTION sort_text(value text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN translate(left(value, 200),
        'ABCDEFGHIJKLMNOPQRSTUVWXYZ' || 'абвгґдеєёжзиіїыйклмнопрстуфхцчшщъьэюя' || 'АБВГҐДЕЄЁЖЗИІЇЫЙКЛМНОПРСТУФХЦЧШЩЪЬЭЮЯ' || '’ʼ`',
        'abcdefghijklmnopqrstuvwxyz'
        || E'\ue000\ue001\ue002\ue003\ue004\ue005\ue006\ue007\ue008\ue009\ue00a\ue00b\ue00c\ue00d\ue00e\ue00f\ue010\ue011\ue012\ue013\ue014\ue015\ue016\ue017\ue018\ue019\ue01a\ue01b\ue01c\ue01d\ue01e\ue01f\ue020\ue021\ue022\ue023\ue024'
        || E'\ue000\ue001\ue002\ue003\ue004\ue005\ue006\ue007\ue008\ue009\ue00a\ue00b\ue00c\ue00d\ue00e\ue00f\ue010\ue011\ue012\ue013\ue014\ue015\ue016\ue017\ue018\ue019\ue01a\ue01b\ue01c\ue01d\ue01e\ue01f\ue020\ue021\ue022\ue023\ue024' || '''''''');

-- The index of a sorted field.
CREATE FUNCTION sort_index(kind text, field text, sort text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'entities_by_' || left(md5(kind || chr(31) || field || chr(31) || sort), 16);

-- Secrets of the cluster that need no rotation: whoever reads the database has what they protect.
CREATE TABLE cluster_secrets (
    name   text COLLATE "C" PRIMARY KEY,
    secret bytea NOT NULL
);
-- Two random identifiers: 244 bits of chance.
INSERT INTO cluster_secrets (name, secret) VALUES ('cursors', sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

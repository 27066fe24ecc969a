-- Kinds that are declared over REST, and the versions of every declaration.
SET LOCAL lock_timeout = '10s';

ALTER TABLE kinds
    -- Who has the say: the configuration of the nodes, or the API.
    ADD COLUMN origin text NOT NULL DEFAULT 'configuration' CHECK (origin IN ('configuration', 'api')),
    -- As it was declared; fields and sorts stand in columns as well, for the statements that go by them. json: a schema is kept as written.
    ADD COLUMN declaration json NOT NULL DEFAULT '{}',
    ADD COLUMN version bigint NOT NULL DEFAULT 0,
    -- Nothing was ever kept there.
    DROP COLUMN schema;

-- By which version writers of the stream have to write; null: by their configuration. It stands here because this row orders them: who has
-- waited for it sees what was declared meanwhile.
ALTER TABLE streams ADD COLUMN declaration bigint;

CREATE TABLE declarations (
    kind        text COLLATE "C" NOT NULL REFERENCES kinds (name),
    version     bigint NOT NULL,
    declaration json NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    by          text NOT NULL,
    PRIMARY KEY (kind, version)
);

-- The words of the texts that a kind declares, its name before each: made by the program, which knows the languages.
ALTER TABLE entities ADD COLUMN words tsvector;

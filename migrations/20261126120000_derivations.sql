-- How far the rows of a kind carry what its declared fields ask for: a field that is declared later has to be derived from
-- the documents that are there, and until then a filter on it would leave out what it should find.
SET LOCAL lock_timeout = '10s';

CREATE TABLE derivations (
    kind        text COLLATE "C" PRIMARY KEY,
    -- What the node that started last declares.
    declared    text[] NOT NULL,
    -- What every row of the kind carries.
    derived     text[] NOT NULL,
    -- Batches by nodes that declare something else: what they wrote has to be derived again.
    strays      bigint NOT NULL DEFAULT 0,
    -- The pass under way: behind which id it goes on, and the strays when it began.
    pass_after  text COLLATE "C",
    pass_strays bigint
);
INSERT INTO derivations (kind, declared, derived) SELECT name, fields, fields FROM kinds;

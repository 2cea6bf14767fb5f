-- One of everything that a schema can hold: what snapshots, hashes and clones are tried on.
CREATE SCHEMA "Odd Schema"; CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('sad','ok','hap''py');
CREATE DOMAIN shop.email AS text CHECK (VALUE ~ '@') CONSTRAINT len CHECK (length(VALUE) < 200);
CREATE DOMAIN shop.email2 AS shop.email NOT NULL DEFAULT 'a@b';
CREATE TYPE shop.addr AS (street text, p point, zip varchar(5));
CREATE TYPE shop.fr AS RANGE (subtype = float8);
CREATE SEQUENCE shop.free_seq AS int INCREMENT 5 CACHE 3 CYCLE;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated := now(); RETURN NEW; END $$;
CREATE FUNCTION shop.norm(t text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT lower(t) $$;
CREATE TABLE shop.customer (
  id bigint GENERATED ALWAYS AS IDENTITY (START 100) PRIMARY KEY,
  mail shop.email UNIQUE, m shop.mood DEFAULT 'ok', a shop.addr, tags text[] DEFAULT '{}', doc json, docb jsonb,
  "Quoted ""name""" int DEFAULT 3, "größe_🐘" numeric(8,2) CHECK ("größe_🐘" > 0),
  c63_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa int,
  first text COLLATE "C", last varchar(40), full_name text GENERATED ALWAYS AS (first || ' ' || last) STORED,
  updated timestamptz DEFAULT now(), old_ref int, dropped int, pt point, d date, "user" int, xs xml
);
ALTER TABLE shop.customer DROP COLUMN dropped;
ALTER TABLE shop.customer ALTER COLUMN docb SET STORAGE EXTERNAL, ALTER COLUMN d SET STATISTICS 77, ALTER COLUMN d SET (n_distinct=5);
ALTER TABLE shop.customer SET (fillfactor=80, toast.autovacuum_enabled=false);
COMMENT ON TABLE shop.customer IS 'customers; of ours'; COMMENT ON COLUMN shop.customer.d IS 'it''s';
CREATE INDEX ON shop.customer (lower(first), d DESC) INCLUDE (last) WHERE old_ref IS NOT NULL;
CREATE UNIQUE INDEX "Üx" ON shop.customer (shop.norm(last));
CREATE TRIGGER touch BEFORE UPDATE OF first, last ON shop.customer FOR EACH ROW WHEN (OLD.first IS DISTINCT FROM NEW.first) EXECUTE FUNCTION shop.touch();
CREATE TRIGGER touch2 AFTER INSERT ON shop.customer FOR EACH STATEMENT EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.customer DISABLE TRIGGER touch2;
CREATE TABLE shop."order" (id serial, cust bigint REFERENCES shop.customer ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, at timestamp, qty smallint NOT NULL, PRIMARY KEY (id), span tstzrange,
  EXCLUDE USING gist (span WITH &&), bad int);
ALTER TABLE shop."order" ADD CONSTRAINT nv CHECK (qty > 0) NOT VALID;
ALTER TABLE shop."order" ADD CONSTRAINT fk_nv FOREIGN KEY (bad) REFERENCES shop."order" NOT VALID;
COMMENT ON CONSTRAINT nv ON shop."order" IS 'c';
CREATE VIEW shop.v1 WITH (security_barrier) AS SELECT c.id, c.first, o.qty, row_number() OVER (PARTITION BY c.id ORDER BY o.at) rn FROM shop.customer c JOIN shop."order" o ON o.cust = c.id WHERE o.at > '2020-01-01';
CREATE VIEW "Odd Schema"."V two" AS SELECT id, first || 'x' AS "f x", (SELECT max(qty) FROM shop."order" x WHERE x.cust = v1.id) FROM shop.v1;
CREATE MATERIALIZED VIEW shop.mv AS SELECT "f x", count(*) n FROM "Odd Schema"."V two" GROUP BY 1;
CREATE UNIQUE INDEX ON shop.mv ("f x");
CREATE VIEW shop.upd AS SELECT id, last FROM shop.customer WHERE last IS NOT NULL WITH CHECK OPTION;
CREATE FUNCTION shop.upd_t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER io INSTEAD OF INSERT ON shop.upd FOR EACH ROW EXECUTE FUNCTION shop.upd_t();
CREATE FUNCTION shop.rowf(c shop.customer) RETURNS text LANGUAGE sql AS $$ SELECT c.first $$;
CREATE PROCEDURE shop.proc(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
CREATE AGGREGATE shop.mysum(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY; ALTER TABLE shop.customer FORCE ROW LEVEL SECURITY;
CREATE POLICY p1 ON shop.customer AS RESTRICTIVE FOR SELECT USING (old_ref > 0 AND EXISTS (SELECT 1 FROM shop."order" o WHERE o.cust = customer.id));
CREATE POLICY p2 ON shop.customer FOR INSERT WITH CHECK (last = current_user);
CREATE STATISTICS shop.st (dependencies, ndistinct) ON first, d FROM shop.customer;
CREATE RULE r1 AS ON DELETE TO shop."order" WHERE OLD.qty > 5 DO ALSO INSERT INTO shop."order"(qty) VALUES (OLD.qty);
CREATE TABLE shop.part (id int, d date NOT NULL, note text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
CREATE TABLE shop.part_1 PARTITION OF shop.part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE shop.part_d PARTITION OF shop.part DEFAULT;
CREATE INDEX ON shop.part (note);
CREATE TRIGGER ptrg AFTER INSERT ON shop.part FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE TABLE shop.refs_part (a int, b date, FOREIGN KEY (a, b) REFERENCES shop.part);
CREATE TABLE shop.parent (x int, y text CONSTRAINT yy CHECK (y <> '')); CREATE TABLE shop.child (z int) INHERITS (shop.parent);
CREATE UNLOGGED TABLE public.u (k text PRIMARY KEY, v int);
ALTER TABLE public.u REPLICA IDENTITY FULL;
CREATE PUBLICATION pub FOR TABLE shop.customer;
CREATE OPERATOR shop.=== (LEFTARG=int, RIGHTARG=int, FUNCTION=int4eq);
CREATE TABLE public.nokey (a int);
CREATE VIEW public.vx AS SELECT a FROM public.nokey WHERE a OPERATOR(shop.===) 1;

-- Schema 1 of Lodge's state. All names are bytes: text of PostgreSQL has no zero bytes.
CREATE SCHEMA IF NOT EXISTS lodge;
CREATE TABLE lodge.schema (version integer NOT NULL);
CREATE SEQUENCE lodge.version;

CREATE TABLE lodge.namespace (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE,
    keys bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE lodge.entry (
    namespace bigint NOT NULL REFERENCES lodge.namespace,
    bucket bytea NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    version bigint NOT NULL,
    -- Milliseconds since 1970.
    expires bigint,
    PRIMARY KEY (namespace, bucket, key)
) WITH (fillfactor = 80);
CREATE INDEX entry_expires ON lodge.entry (namespace, expires) WHERE expires IS NOT NULL;

CREATE TABLE lodge.lock (
    namespace bigint NOT NULL REFERENCES lodge.namespace,
    name bytea NOT NULL,
    holder bytea NOT NULL,
    token bigint NOT NULL,
    expires bigint NOT NULL,
    PRIMARY KEY (namespace, name)
) WITH (fillfactor = 80);

CREATE FUNCTION lodge.now() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Takes turns with all others that write this key, until the transaction ends.
CREATE FUNCTION lodge.turn(kind text, namespace bigint, bucket bytea, key bytea) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(
        hashtextextended(kind || namespace || ':' || encode(bucket, 'hex') || ':' || encode(key, 'hex'), 7305))
$$;

-- Removes up to some entries that have expired, and returns how many. Skips those that others write at this moment.
CREATE FUNCTION lodge.sweep(wanted bigint, most integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    swept bigint;
    freed bigint;
BEGIN
    WITH expired AS (
        SELECT bucket, key FROM lodge.entry WHERE namespace = wanted AND expires <= lodge.now()
        LIMIT most FOR UPDATE SKIP LOCKED
    ), removed AS (
        DELETE FROM lodge.entry USING expired
        WHERE entry.namespace = wanted AND entry.bucket = expired.bucket AND entry.key = expired.key
        RETURNING length(entry.bucket) + length(entry.key) + length(entry.value) AS size
    )
    SELECT count(*), coalesce(sum(size), 0) INTO swept, freed FROM removed;
    IF swept > 0 THEN
        UPDATE lodge.namespace SET keys = keys - swept, bytes = bytes - freed WHERE number = wanted;
    END IF;
    RETURN swept;
END $$;

-- One write. The status is done, stale, not-a-number, overflow, keys or bytes; the last two with what is in use. `before` is set
-- if the condition is not true and for removals, `after` if the change was made.
CREATE FUNCTION lodge.write(
    wanted bigint, the_bucket bytea, the_key bytea,
    condition text, expected_version bigint, expected_value bytea,
    change text, payload bytea, delta bigint, expiry text, ttl bigint,
    most_keys bigint, most_bytes bigint,
    OUT status text, OUT used bigint,
    OUT before_value bytea, OUT before_version bigint, OUT before_expires bigint,
    OUT after_value bytea, OUT after_version bigint, OUT after_expires bigint
) LANGUAGE plpgsql AS $$
DECLARE
    stored lodge.entry;
    is_stored boolean;
    is_live boolean;
    holds boolean;
    digits text;
    amount numeric := 0;
    more_keys bigint;
    more_bytes bigint;
    names bigint := length(the_bucket) + length(the_key);
    clock bigint;
BEGIN
    PERFORM lodge.turn('entry', wanted, the_bucket, the_key);
    SELECT * INTO stored FROM lodge.entry
        WHERE namespace = wanted AND bucket = the_bucket AND key = the_key FOR UPDATE;
    is_stored := FOUND;
    clock := lodge.now();
    is_live := is_stored AND (stored.expires IS NULL OR clock < stored.expires);
    holds := CASE condition
        WHEN 'always' THEN true
        WHEN 'absent' THEN NOT is_live
        WHEN 'version' THEN is_live AND stored.version = expected_version
        WHEN 'value' THEN is_live AND stored.value = expected_value
        ELSE is_live AND stored.version = expected_version AND stored.value = expected_value
    END;
    IF is_live AND (NOT holds OR change = 'remove') THEN
        before_value := stored.value;
        before_version := stored.version;
        before_expires := stored.expires;
    END IF;
    IF NOT holds THEN
        status := 'stale';
        RETURN;
    END IF;
    status := 'done';

    IF change = 'remove' THEN
        IF is_stored THEN
            DELETE FROM lodge.entry WHERE namespace = wanted AND bucket = the_bucket AND key = the_key;
            UPDATE lodge.namespace SET keys = keys - 1, bytes = bytes - names - length(stored.value)
                WHERE number = wanted;
        END IF;
        RETURN;
    END IF;

    IF change = 'add' THEN
        IF is_live THEN
            digits := encode(stored.value, 'escape');
            IF length(stored.value) > 20 OR digits !~ '^(0|-?[1-9][0-9]*)$' THEN
                status := 'not-a-number';
                RETURN;
            END IF;
            amount := digits::numeric;
            IF amount NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
                status := 'not-a-number';
                RETURN;
            END IF;
        END IF;
        amount := amount + delta;
        IF amount NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
            status := 'overflow';
            RETURN;
        END IF;
        after_value := convert_to(amount::text, 'UTF8');
    ELSE
        after_value := payload;
    END IF;
    after_expires := CASE
        WHEN change = 'add' OR expiry = 'keep' THEN CASE WHEN is_live THEN stored.expires END
        WHEN expiry = 'after' THEN clock + ttl
    END;

    -- What others count at the same time is seen: the row is locked until the end.
    more_keys := CASE WHEN is_stored THEN 0 ELSE 1 END;
    more_bytes := length(after_value) + CASE WHEN is_stored THEN -length(stored.value) ELSE names END;
    WHILE more_keys <> 0 OR more_bytes <> 0 LOOP
        UPDATE lodge.namespace SET keys = keys + more_keys, bytes = bytes + more_bytes
            WHERE number = wanted AND (more_keys <= 0 OR keys + more_keys <= most_keys)
                AND (more_bytes <= 0 OR bytes + more_bytes <= most_bytes);
        EXIT WHEN FOUND;
        -- The own entry is locked, so it is not skipped by others, but could be swept here.
        IF is_stored AND NOT is_live THEN
            DELETE FROM lodge.entry WHERE namespace = wanted AND bucket = the_bucket AND key = the_key;
            UPDATE lodge.namespace SET keys = keys - 1, bytes = bytes - names - length(stored.value)
                WHERE number = wanted;
            is_stored := false;
            more_keys := 1;
            more_bytes := length(after_value) + names;
        ELSIF lodge.sweep(wanted, 64) = 0 THEN
            SELECT CASE WHEN more_keys > 0 AND keys + more_keys > most_keys THEN 'keys' ELSE 'bytes' END,
                    CASE WHEN more_keys > 0 AND keys + more_keys > most_keys THEN keys ELSE bytes END
                INTO status, used FROM lodge.namespace WHERE number = wanted;
            after_value := NULL;
            RETURN;
        END IF;
    END LOOP;

    after_version := nextval('lodge.version');
    INSERT INTO lodge.entry VALUES (wanted, the_bucket, the_key, after_value, after_version, after_expires)
        ON CONFLICT (namespace, bucket, key) DO UPDATE
        SET value = excluded.value, version = excluded.version, expires = excluded.expires;
    -- The caller has the value of a put.
    IF change = 'put' THEN
        after_value := NULL;
    END IF;
    -- Nobody else removes what has expired. Writes with a TTL remove a little more than they add.
    IF after_expires IS NOT NULL AND random() < 0.1 THEN
        PERFORM lodge.sweep(wanted, 32);
    END IF;
END $$;

-- One attempt to acquire a lock. The status is held with the token, busy with milliseconds, or locks with what is in use.
CREATE FUNCTION lodge.attempt(
    wanted bigint, the_name bytea, the_holder bytea, lease bigint, most bigint, OUT status text, OUT amount bigint
) LANGUAGE plpgsql AS $$
DECLARE
    held lodge.lock;
    is_stored boolean;
    clock bigint;
BEGIN
    PERFORM lodge.turn('lock', wanted, ''::bytea, the_name);
    SELECT * INTO held FROM lodge.lock WHERE namespace = wanted AND name = the_name FOR UPDATE;
    is_stored := FOUND;
    clock := lodge.now();
    IF is_stored AND clock < held.expires THEN
        IF held.holder <> the_holder THEN
            status := 'busy';
            amount := held.expires - clock;
            RETURN;
        END IF;
        UPDATE lodge.lock SET expires = clock + lease WHERE namespace = wanted AND name = the_name;
        status := 'held';
        amount := held.token;
        RETURN;
    END IF;
    IF NOT is_stored THEN
        DELETE FROM lodge.lock USING (
            SELECT name FROM lodge.lock WHERE namespace = wanted AND expires <= clock LIMIT 16 FOR UPDATE SKIP LOCKED
        ) AS expired WHERE lock.namespace = wanted AND lock.name = expired.name;
        SELECT count(*) INTO amount FROM lodge.lock WHERE namespace = wanted AND expires > clock;
        IF amount >= most THEN
            status := 'locks';
            RETURN;
        END IF;
    END IF;
    amount := nextval('lodge.version');
    INSERT INTO lodge.lock VALUES (wanted, the_name, the_holder, amount, clock + lease)
        ON CONFLICT (namespace, name) DO UPDATE
        SET holder = excluded.holder, token = excluded.token, expires = excluded.expires;
    status := 'held';
END $$;

INSERT INTO lodge.schema VALUES (1);

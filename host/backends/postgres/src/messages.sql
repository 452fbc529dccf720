-- The tables of messages, version 1. The first operation on messages creates them; hosts that know none of them use the rest.
DO $lodge$ BEGIN
PERFORM pg_advisory_xact_lock(7305, 2);
IF to_regclass('lodge.messages') IS NOT NULL THEN
    RETURN;
END IF;
CREATE TABLE lodge.messages (version integer NOT NULL);

-- When a host has used messages last, in milliseconds since 1970 as all times.
CREATE TABLE lodge.awake (at bigint NOT NULL);

CREATE TABLE lodge.consumer (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE,
    max_deliver integer NOT NULL,
    dead_letter text,
    most_messages bigint NOT NULL,
    most_bytes bigint NOT NULL,
    messages bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    seen bigint NOT NULL
) WITH (fillfactor = 50);

-- Patterns by their first tokens, as far as these are no wildcards.
CREATE TABLE lodge.pattern (
    place text NOT NULL,
    pattern text NOT NULL,
    consumer bigint NOT NULL,
    PRIMARY KEY (place, pattern, consumer)
);
CREATE INDEX pattern_consumer ON lodge.pattern (consumer);

-- The hosts that receive for a consumer, and until when that is known.
CREATE TABLE lodge.receiver (
    consumer bigint NOT NULL,
    host bytea NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (consumer, host)
);

-- A message of a consumer. It is delivered when it is due; while it is leased, that is the end of the lease.
CREATE TABLE lodge.message (
    number bigint PRIMARY KEY,
    consumer bigint NOT NULL,
    id text NOT NULL,
    published bigint NOT NULL,
    due bigint NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    lease bigint,
    size bigint NOT NULL,
    subject text NOT NULL,
    -- The subject at which it died before.
    origin text,
    reply_to text,
    headers bytea NOT NULL,
    body bytea NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX message_due ON lodge.message (consumer, due, number);
CREATE INDEX message_published ON lodge.message (consumer, published);
CREATE INDEX message_lease ON lodge.message (consumer, due) WHERE lease IS NOT NULL;

CREATE TABLE lodge.dead_message (
    number bigint PRIMARY KEY,
    consumer bigint NOT NULL,
    id text NOT NULL,
    published bigint NOT NULL,
    died bigint NOT NULL,
    attempt integer NOT NULL,
    fault text NOT NULL,
    size bigint NOT NULL,
    subject text NOT NULL,
    origin text,
    reply_to text,
    headers bytea NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX dead_message_consumer ON lodge.dead_message (consumer, number);

-- Consumers whose subscription has ended, and whose messages are not all removed.
CREATE TABLE lodge.ended (consumer bigint PRIMARY KEY);

-- What a pattern or a subject is whom by.
CREATE FUNCTION lodge.place(tokens text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN split_part(tokens, '.', 1) IN ('*', '>') THEN '*'
        WHEN split_part(tokens, '.', 2) IN ('*', '>') THEN split_part(tokens, '.', 1) || '.*'
        WHEN split_part(tokens, '.', 2) = '' THEN split_part(tokens, '.', 1)
        ELSE split_part(tokens, '.', 1) || '.' || split_part(tokens, '.', 2)
    END
$$;

-- Tokens have letters, digits, `-` and `_`, so a pattern needs no other escapes.
CREATE FUNCTION lodge.fits(pattern text, subject text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT subject ~ ('^' || replace(replace(replace(pattern, '.', '[.]'), '*', '[^.]+'), '>', '.+') || '$')
$$;

-- Time in which no host runs does not count as absence of a consumer. Called before anything is locked.
CREATE FUNCTION lodge.note() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    clock bigint := lodge.now();
    last bigint;
BEGIN
    SELECT at INTO last FROM lodge.awake;
    IF abs(clock - last) < 60000 THEN
        RETURN;
    END IF;
    UPDATE lodge.awake SET at = clock WHERE at = last;
    IF FOUND AND clock - last > 600000 THEN
        PERFORM FROM lodge.consumer ORDER BY number FOR NO KEY UPDATE;
        UPDATE lodge.consumer SET seen = seen + clock - last;
    END IF;
END $$;

-- The consumers of a subject.
CREATE FUNCTION lodge.consumers(the_subject text, absence bigint) RETURNS bigint[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(DISTINCT number), '{}')
    FROM lodge.pattern JOIN lodge.consumer ON number = consumer
    WHERE place = ANY (ARRAY[lodge.place(the_subject), split_part(the_subject, '.', 1) || '.*', '*'])
        AND lodge.fits(pattern, the_subject) AND seen > lodge.now() - absence
$$;

-- Stores a message for consumers whose rows are locked, or for none of them. The status is done with how many there are, or
-- messages or bytes with what is in use and the limit.
CREATE FUNCTION lodge.store(
    whom bigint[], the_id text, the_time bigint, the_subject text, the_origin text, the_reply text, the_headers bytea,
    the_body bytea, OUT status text, OUT amount bigint, OUT most bigint
) LANGUAGE plpgsql AS $$
DECLARE
    more bigint := length(the_subject) + length(the_headers) + length(the_body);
    clock bigint := lodge.now();
BEGIN
    SELECT 'messages', messages, most_messages INTO status, amount, most
        FROM lodge.consumer WHERE number = ANY (whom) AND messages >= most_messages LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT 'bytes', bytes, most_bytes INTO status, amount, most
        FROM lodge.consumer WHERE number = ANY (whom) AND bytes + more > most_bytes LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    UPDATE lodge.consumer SET messages = messages + 1, bytes = bytes + more WHERE number = ANY (whom);
    INSERT INTO lodge.message (number, consumer, id, published, due, size, subject, origin, reply_to, headers, body)
        SELECT nextval('lodge.version'), consumer.number, the_id, the_time, clock, more,
            the_subject, the_origin, the_reply, the_headers, the_body
        FROM lodge.consumer WHERE number = ANY (whom);
    GET DIAGNOSTICS amount = ROW_COUNT;
    status := 'done';
END $$;

-- Publishes a message. The status is as that of lodge.store; `names` are the consumers.
CREATE FUNCTION lodge.publish(
    the_id text, the_subject text, the_reply text, the_headers bytea, the_body bytea, absence bigint,
    OUT status text, OUT amount bigint, OUT most bigint, OUT names bytea[]
) LANGUAGE plpgsql AS $$
DECLARE
    whom bigint[];
BEGIN
    PERFORM lodge.note();
    whom := lodge.consumers(the_subject, absence);
    -- All who lock several take them in this order. One whose subscription has ended meanwhile is not among them.
    PERFORM FROM lodge.consumer WHERE number = ANY (whom) ORDER BY number FOR NO KEY UPDATE;
    SELECT stored.status, stored.amount, stored.most INTO status, amount, most
        FROM lodge.store(whom, the_id, lodge.now(), the_subject, NULL, the_reply, the_headers, the_body) AS stored;
    IF status = 'done' THEN
        SELECT array_agg(name) INTO names FROM lodge.consumer WHERE number = ANY (whom);
    END IF;
END $$;

-- Ends the life of a message: it goes to the dead-letter subject once, or is kept apart. Its row is locked.
CREATE FUNCTION lodge.bury(keeper lodge.consumer, gone lodge.message, fault text, absence bigint, most_dead bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    letters text := CASE WHEN gone.origin IS NULL THEN keeper.dead_letter END;
    whom bigint[] := '{}';
    stored record;
BEGIN
    IF letters IS NOT NULL THEN
        whom := lodge.consumers(letters, absence);
    END IF;
    PERFORM FROM lodge.consumer WHERE number = ANY (whom || keeper.number) ORDER BY number FOR NO KEY UPDATE;
    DELETE FROM lodge.message WHERE number = gone.number;
    UPDATE lodge.consumer SET messages = messages - 1, bytes = bytes - gone.size WHERE number = keeper.number;
    -- Its subscription has ended meanwhile.
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF letters IS NOT NULL THEN
        SELECT * INTO stored FROM lodge.store(
            whom, gone.id, gone.published, letters, gone.subject, gone.reply_to, gone.headers, gone.body);
        -- Without a consumer, or without room, it is kept where it died.
        IF stored.status = 'done' AND stored.amount > 0 THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO lodge.dead_message VALUES (
        nextval('lodge.version'), gone.consumer, gone.id, gone.published, lodge.now(), gone.attempt, fault,
        gone.size, gone.subject, gone.origin, gone.reply_to, gone.headers, gone.body);
    DELETE FROM lodge.dead_message WHERE consumer = keeper.number AND number <= (
        SELECT max(number) FROM (
            SELECT number, row_number() OVER latest AS place, sum(size) OVER latest AS bytes
            FROM lodge.dead_message WHERE consumer = keeper.number WINDOW latest AS (ORDER BY number DESC)
        ) AS kept WHERE place > most_dead OR bytes > keeper.most_bytes);
END $$;

-- Removes some of the messages of ended subscriptions, and returns how many there were.
CREATE FUNCTION lodge.discard(most bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    removed bigint;
    more bigint;
    gone bigint;
BEGIN
    SELECT consumer INTO gone FROM lodge.ended LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    DELETE FROM lodge.message WHERE number IN (SELECT number FROM lodge.message WHERE consumer = gone LIMIT most);
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM lodge.dead_message
        WHERE number IN (SELECT number FROM lodge.dead_message WHERE consumer = gone LIMIT most - removed);
    GET DIAGNOSTICS more = ROW_COUNT;
    removed := removed + more;
    IF removed < most THEN
        DELETE FROM lodge.ended WHERE consumer = gone;
        removed := greatest(removed, 1);
    END IF;
    RETURN removed;
END $$;

-- Ends the subscription of a consumer. Nothing is stored for it from now on; its messages are removed by lodge.discard.
CREATE FUNCTION lodge.finish(gone bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM lodge.consumer WHERE number = gone;
    DELETE FROM lodge.pattern WHERE consumer = gone;
    DELETE FROM lodge.receiver WHERE consumer = gone;
    INSERT INTO lodge.ended VALUES (gone) ON CONFLICT DO NOTHING;
END $$;

-- Says that a host receives for a consumer.
CREATE FUNCTION lodge.present(the_name bytea, the_host bytea, presence bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    own bigint;
    clock bigint := lodge.now();
BEGIN
    UPDATE lodge.consumer SET seen = clock WHERE name = the_name RETURNING number INTO own;
    IF FOUND THEN
        DELETE FROM lodge.receiver WHERE consumer = own AND until <= clock;
        INSERT INTO lodge.receiver VALUES (own, the_host, clock + presence)
            ON CONFLICT (consumer, host) DO UPDATE SET until = excluded.until;
    END IF;
END $$;

-- Creates or changes a subscription. The status is done, or consumers with how many there are.
CREATE FUNCTION lodge.subscribe(
    the_name bytea, the_host bytea, presence bigint, the_patterns text[], deliveries integer, letters text,
    more_messages bigint, more_bytes bigint, most bigint, absence bigint, OUT status text, OUT amount bigint
) LANGUAGE plpgsql AS $$
DECLARE
    own bigint;
BEGIN
    PERFORM lodge.note();
    PERFORM lodge.turn('consumers', 0, ''::bytea, ''::bytea);
    PERFORM lodge.finish(number) FROM lodge.consumer WHERE name <> the_name AND seen <= lodge.now() - absence;
    SELECT number INTO own FROM lodge.consumer WHERE name = the_name;
    IF NOT FOUND THEN
        SELECT count(*) INTO amount FROM lodge.consumer;
        IF amount >= most THEN
            status := 'consumers';
            RETURN;
        END IF;
    END IF;
    INSERT INTO lodge.consumer (name, max_deliver, dead_letter, most_messages, most_bytes, seen)
        VALUES (the_name, deliveries, letters, more_messages, more_bytes, lodge.now())
        ON CONFLICT (name) DO UPDATE SET max_deliver = excluded.max_deliver, dead_letter = excluded.dead_letter,
            most_messages = excluded.most_messages, most_bytes = excluded.most_bytes, seen = excluded.seen
        RETURNING number INTO own;
    DELETE FROM lodge.pattern WHERE consumer = own AND pattern <> ALL (the_patterns);
    INSERT INTO lodge.pattern SELECT lodge.place(wanted), wanted, own FROM unnest(the_patterns) AS wanted
        ON CONFLICT DO NOTHING;
    PERFORM lodge.present(the_name, the_host, presence);
    status := 'done';
END $$;

-- Ends a subscription, unless there is none or another host receives for it.
CREATE FUNCTION lodge.unsubscribe(the_name bytea, the_host bytea) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    own bigint;
BEGIN
    PERFORM lodge.turn('consumers', 0, ''::bytea, ''::bytea);
    SELECT number INTO own FROM lodge.consumer WHERE name = the_name FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM lodge.receiver WHERE consumer = own AND (host = the_host OR until <= lodge.now());
    IF EXISTS (SELECT FROM lodge.receiver WHERE consumer = own) THEN
        RETURN false;
    END IF;
    PERFORM lodge.finish(own);
    RETURN true;
END $$;

-- Leases messages that are due. The last row has the number 0 and is no message: it has how many have died instead, in how many
-- milliseconds the next one is due, and whether it is known for long that this host receives. Without a subscription there are no rows.
CREATE FUNCTION lodge.receive(
    the_name bytea, the_host bytea, presence bigint, most bigint, lease_time bigint, enough bigint, absence bigint,
    most_dead bigint
) RETURNS TABLE (
    number bigint, lease bigint, attempt integer, age bigint, id text, subject text, origin text, reply_to text,
    headers bytea, body bytea, dead bigint, next bigint, known boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    keeper lodge.consumer;
    one lodge.message;
    clock bigint := lodge.now();
    total bigint := 0;
    buried bigint := 0;
    leased bigint;
BEGIN
    PERFORM lodge.note();
    SELECT * INTO keeper FROM lodge.consumer WHERE name = the_name;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR one IN
        SELECT * FROM lodge.message WHERE consumer = keeper.number AND due <= clock ORDER BY due, number LIMIT most
        FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN total >= enough;
        IF one.attempt >= keeper.max_deliver THEN
            PERFORM lodge.bury(keeper, one, 'unsettled', absence, most_dead);
            buried := buried + 1;
            CONTINUE;
        END IF;
        leased := nextval('lodge.version');
        UPDATE lodge.message SET due = clock + lease_time, lease = leased, attempt = attempt + 1
            WHERE number = one.number;
        total := total + one.size;
        RETURN QUERY SELECT one.number, leased, one.attempt + 1, greatest(clock - one.published, 0), one.id,
            one.subject, one.origin, one.reply_to, one.headers, one.body, 0::bigint, NULL::bigint, true;
    END LOOP;
    -- Others have locked what is still due, and settle it at this moment.
    RETURN QUERY SELECT 0::bigint, 0::bigint, 0, 0::bigint, '', '', NULL, NULL, ''::bytea, ''::bytea, buried,
        (SELECT min(due) - clock FROM lodge.message WHERE consumer = keeper.number AND due > clock),
        EXISTS (SELECT FROM lodge.receiver
            WHERE consumer = keeper.number AND host = the_host AND until - clock > presence * 2 / 3);
END $$;

-- Settles a message: done, again after a pause, or dead. Returns done, dead or stale.
CREATE FUNCTION lodge.settle(
    the_name bytea, the_number bigint, the_lease bigint, kind text, pause bigint, uncounted integer, fault text,
    absence bigint, most_dead bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    keeper lodge.consumer;
    settled lodge.message;
    freed bigint;
    counted integer;
BEGIN
    SELECT * INTO keeper FROM lodge.consumer WHERE name = the_name;
    IF kind = 'done' THEN
        DELETE FROM lodge.message WHERE number = the_number AND lease = the_lease AND consumer = keeper.number
            RETURNING size INTO freed;
        IF NOT FOUND THEN
            RETURN 'stale';
        END IF;
        UPDATE lodge.consumer SET messages = messages - 1, bytes = bytes - freed WHERE number = keeper.number;
        RETURN 'done';
    END IF;
    SELECT * INTO settled FROM lodge.message
        WHERE number = the_number AND lease = the_lease AND consumer = keeper.number FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'stale';
    END IF;
    counted := greatest(settled.attempt - uncounted, 0);
    IF kind = 'dead' OR counted >= keeper.max_deliver THEN
        PERFORM lodge.bury(keeper, settled, fault, absence, most_dead);
        RETURN 'dead';
    END IF;
    UPDATE lodge.message SET due = lodge.now() + pause, attempt = counted, lease = NULL WHERE number = the_number;
    RETURN 'done';
END $$;

-- Retries dead messages or removes them: one, or all. The status is done with how many, or messages or bytes with what is in
-- use and the limit if there is room for none.
CREATE FUNCTION lodge.end_dead(
    the_name bytea, place bigint, again boolean, OUT status text, OUT amount bigint, OUT most bigint
) LANGUAGE plpgsql AS $$
DECLARE
    own bigint;
    gone lodge.dead_message;
    stored record;
    done bigint := 0;
BEGIN
    SELECT number INTO own FROM lodge.consumer WHERE name = the_name FOR NO KEY UPDATE;
    FOR gone IN
        SELECT * FROM lodge.dead_message WHERE consumer = own AND (place IS NULL OR number = place) ORDER BY number
    LOOP
        IF again THEN
            SELECT * INTO stored FROM lodge.store(ARRAY[own], gone.id, gone.published, gone.subject, gone.origin,
                gone.reply_to, gone.headers, gone.body);
            IF stored.status <> 'done' AND done = 0 THEN
                status := stored.status;
                amount := stored.amount;
                most := stored.most;
                RETURN;
            END IF;
            EXIT WHEN stored.status <> 'done';
        END IF;
        DELETE FROM lodge.dead_message WHERE number = gone.number;
        done := done + 1;
    END LOOP;
    status := 'done';
    amount := done;
END $$;

INSERT INTO lodge.awake VALUES (lodge.now());
INSERT INTO lodge.messages VALUES (1);
END $lodge$

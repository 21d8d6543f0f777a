"""The tables and functions in PostgreSQL, and the statements that use them.

- ``geventws_channels`` has one row for each channel with a history: the epoch and the number of its
  latest message. Every publisher updates this row, so that the ids of a channel rise in the order
  of the commits. The epoch is the time when the row was created, in microseconds. If the tables
  are lost, ids of the old epoch are not taken for new ids.
  ``first`` is the number of the oldest message that is kept.
- ``geventws_messages`` has the stored messages, by ``id`` of the channel and number. The channel 0
  has large messages that are not kept; their numbers are random.
- ``geventws_answers`` has answers to the question how many sockets a process has in a channel.
- ``geventws_rooms`` has one row for each channel with members: the version of its entries
  (:mod:`.members`), and the time when the last lease ends. Who changes the entries locks this row.
  ``geventws_entries`` has the entries, and ``geventws_leases`` the number of the latest update of
  each process, and the end of its lease.

All tables are unlogged: publishing does not wait for the disk, and a crash of the server empties
them. A regular restart does not. ``ALTER TABLE geventws_channels SET LOGGED``, and the same for
``geventws_messages``, changes that; both must be changed together.

The tables are created on first use. If the role must not create tables, an administrator executes
the statements that this command prints::

    python -c "from geventws.broadcast.postgresql_schema import SCHEMA; print(SCHEMA)"
"""

from __future__ import annotations

#: The key of the advisory lock that every listening connection shares: the counted processes.
LISTENER_LOCK = 0x6765766C

SCHEMA = """\
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_channels (
    name bytea PRIMARY KEY,
    id bigint GENERATED ALWAYS AS IDENTITY,
    epoch bigint NOT NULL,
    last bigint NOT NULL,
    first bigint NOT NULL,
    previous_first bigint NOT NULL DEFAULT 1,
    expires double precision NOT NULL,
    has_messages boolean NOT NULL,
    cleanup_minute bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS geventws_channels_cleanup
    ON geventws_channels (has_messages, cleanup_minute);
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_messages (
    channel bigint NOT NULL,
    number bigint NOT NULL,
    body bytea NOT NULL,
    stored timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (channel, number)
);
ALTER TABLE geventws_messages ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_answers (
    request bigint NOT NULL,
    pid integer NOT NULL,
    sockets bigint NOT NULL,
    stored timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (request, pid)
);
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_rooms (
    channel bytea PRIMARY KEY,
    version bigint NOT NULL,
    expires double precision NOT NULL
);
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_leases (
    channel bytea NOT NULL,
    process text NOT NULL,
    number bigint NOT NULL,
    expires double precision NOT NULL,
    PRIMARY KEY (channel, process)
);
CREATE UNLOGGED TABLE IF NOT EXISTS geventws_entries (
    channel bytea NOT NULL,
    process text NOT NULL,
    number bigint NOT NULL,
    version bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (channel, process, number)
);

CREATE OR REPLACE FUNCTION geventws_clean() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_minute bigint := extract(epoch FROM clock_timestamp()) / 60;
BEGIN
    WITH expired AS (
        SELECT c.name, c.id FROM geventws_channels c
        WHERE c.has_messages AND c.cleanup_minute < v_minute
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), deleted AS (
        DELETE FROM geventws_messages m USING expired e WHERE m.channel = e.id
    )
    UPDATE geventws_channels c
    SET has_messages = false, first = c.last + 1, cleanup_minute = c.cleanup_minute + 1440
    FROM expired e WHERE c.name = e.name;
    DELETE FROM geventws_channels WHERE name IN (
        SELECT c.name FROM geventws_channels c
        WHERE NOT c.has_messages AND c.cleanup_minute < v_minute
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
    DELETE FROM geventws_messages
    WHERE channel = 0 AND stored < clock_timestamp() - interval '1 minute';
    DELETE FROM geventws_answers WHERE stored < clock_timestamp() - interval '1 minute';
    WITH expired AS (
        SELECT r.channel FROM geventws_rooms r
        WHERE r.expires < v_minute * 60 - 60 LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), entries AS (
        DELETE FROM geventws_entries n USING expired e WHERE n.channel = e.channel
    ), leases AS (
        DELETE FROM geventws_leases l USING expired e WHERE l.channel = e.channel
    )
    DELETE FROM geventws_rooms r USING expired e WHERE r.channel = e.channel;
END $$;

CREATE OR REPLACE FUNCTION geventws_publish(
    p_notify text, p_name bytea, p_body bytea, p_size bigint, p_ttl double precision
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now double precision := extract(epoch FROM clock_timestamp());
    -- A payload has less than 8,000 bytes. Base64 takes 1.36 times the bytes of name and body, and
    -- the other fields take less than 60 bytes.
    v_inline boolean := octet_length(p_name) + octet_length(p_body) <= 5800;
    v_name text := encode(p_name, 'base64');
    v_channel bigint := 0;
    v_epoch bigint;
    v_number bigint;
    v_previous bigint;
    v_first bigint;
    v_id text;
BEGIN
    IF p_size > 0 THEN
        INSERT INTO geventws_channels AS c
            (name, epoch, last, first, expires, has_messages, cleanup_minute)
        VALUES (p_name, v_now * 1000000, 1, 1, v_now + p_ttl, true, (v_now + p_ttl) / 60)
        ON CONFLICT (name) DO UPDATE SET
            last = c.last + 1,
            previous_first = c.first,
            first = CASE WHEN c.expires < v_now THEN c.last + 1
                    ELSE greatest(c.first, c.last + 2 - p_size) END,
            expires = excluded.expires,
            has_messages = true,
            cleanup_minute = excluded.cleanup_minute
        RETURNING c.id, c.epoch, c.last, c.previous_first, c.first
            INTO v_channel, v_epoch, v_number, v_previous, v_first;
        v_id := v_epoch || '-' || v_number;
        -- The lower limit keeps the scan away from rows that wait for VACUUM.
        DELETE FROM geventws_messages
        WHERE channel = v_channel AND number >= v_previous AND number < v_first;
    ELSIF NOT v_inline THEN
        v_number := floor(random() * 9e18);
    END IF;
    IF v_number IS NOT NULL THEN
        INSERT INTO geventws_messages AS m (channel, number, body)
        VALUES (v_channel, v_number, p_body)
        ON CONFLICT (channel, number) DO UPDATE SET body = excluded.body, stored = excluded.stored;
        IF random() < 0.005 THEN
            PERFORM geventws_clean();
        END IF;
    END IF;
    PERFORM pg_notify(p_notify, CASE
        WHEN v_inline THEN
            'm ' || coalesce(v_id, '-') || ' ' || v_name || ' ' || encode(p_body, 'base64')
        ELSE
            'r ' || coalesce(v_id, '-') || ' ' || v_name || ' ' || v_channel || ':' || v_number
        END);
    RETURN v_id;
END $$;

CREATE OR REPLACE FUNCTION geventws_join(p_names bytea[], p_ttl double precision)
RETURNS TABLE (r_name bytea, r_epoch bigint, r_last bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_now double precision := extract(epoch FROM clock_timestamp());
BEGIN
    INSERT INTO geventws_channels
        (name, epoch, last, first, expires, has_messages, cleanup_minute)
    SELECT n, v_now * 1000000, 0, 1, v_now + p_ttl, false, (v_now + p_ttl) / 60
    FROM unnest(p_names) n
    WHERE NOT EXISTS (SELECT FROM geventws_channels c WHERE c.name = n)
    ORDER BY n
    ON CONFLICT (name) DO NOTHING;
    RETURN QUERY SELECT c.name, c.epoch, c.last FROM geventws_channels c
    WHERE c.name = ANY (p_names);
END $$;

CREATE OR REPLACE FUNCTION geventws_update_members(
    p_notify text, p_name bytea, p_process text, p_base bigint, p_number bigint,
    p_lease double precision, p_known bigint, p_has_entries boolean,
    p_removed bigint[], p_added bigint[], p_texts bytea[]
) RETURNS TABLE (r_version bigint, r_id text, r_text text) LANGUAGE plpgsql AS $$
DECLARE
    v_now double precision := extract(epoch FROM clock_timestamp());
    v_before bigint;
    v_version bigint;
    v_expires double precision;
    v_stored bigint;
    v_removed text;
    v_added text;
    v_change text;
BEGIN
    -- This locks the row.
    INSERT INTO geventws_rooms AS r VALUES (p_name, v_now * 1000000, v_now)
    ON CONFLICT (channel) DO UPDATE SET version = r.version
    RETURNING r.version, r.expires INTO v_before, v_expires;
    IF v_expires < v_now THEN
        DELETE FROM geventws_entries n WHERE n.channel = p_name;
        DELETE FROM geventws_leases l WHERE l.channel = p_name;
        v_before := v_now * 1000000;
    END IF;
    SELECT l.number INTO v_stored FROM geventws_leases l
    WHERE l.channel = p_name AND l.process = p_process;
    IF p_base = 0 AND p_number <= coalesce(v_stored, 0)
            OR p_base <> 0 AND p_base <> coalesce(v_stored, 0) THEN
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM geventws_leases l
        WHERE p_base <> 0 AND l.channel = p_name AND l.expires < v_now AND l.process <> p_process
        RETURNING l.process
    ), removed AS (
        DELETE FROM geventws_entries n WHERE n.channel = p_name AND (
            n.process = p_process AND (
                n.number = ANY (p_removed) OR p_base = 0 AND n.number <> ALL (p_added))
            OR n.process IN (SELECT gone.process FROM gone))
        RETURNING n.process, n.number
    )
    SELECT string_agg(E'\\n-' || removed.process || ':' || removed.number, '')
    INTO v_removed FROM removed;
    WITH added AS (
        INSERT INTO geventws_entries
        SELECT p_name, p_process, it.number, v_before + 1, convert_from(it.body, 'UTF8')
        FROM unnest(p_added, p_texts) AS it (number, body)
        ON CONFLICT DO NOTHING RETURNING number, body
    )
    SELECT string_agg(
        E'\\n+' || p_process || ':' || added.number || ' ' || added.body, '' ORDER BY added.number)
    INTO v_added FROM added;
    v_change := coalesce(v_removed, '') || coalesce(v_added, '');
    v_version := v_before + CASE WHEN v_change = '' THEN 0 ELSE 1 END;
    IF p_has_entries THEN
        INSERT INTO geventws_leases VALUES (p_name, p_process, p_number, v_now + p_lease)
        ON CONFLICT (channel, process) DO UPDATE
        SET number = excluded.number, expires = excluded.expires;
    ELSE
        DELETE FROM geventws_leases l WHERE l.channel = p_name AND l.process = p_process;
    END IF;
    UPDATE geventws_rooms r SET version = v_version, expires = v_now + p_lease
    WHERE r.channel = p_name;
    IF v_change <> '' THEN
        v_change := 'v ' || encode(p_name, 'base64') || ' ' || v_version || v_change;
        -- A payload has less than 8,000 bytes.
        PERFORM pg_notify(p_notify, CASE WHEN octet_length(v_change) < 8000 THEN v_change
            ELSE 'v ' || encode(p_name, 'base64') || ' ' || v_version END);
    END IF;
    -- The first row has an id if the entries follow.
    RETURN QUERY SELECT v_version, CASE WHEN p_known <> v_before THEN '' END, NULL::text;
    IF p_known <> v_before THEN
        RETURN QUERY SELECT n.version, n.process || ':' || n.number, n.body
        FROM geventws_entries n WHERE n.channel = p_name;
    END IF;
END $$;
"""

#: In one transaction. PostgreSQL does not create a table twice at the same time without an error.
CREATE = "SELECT pg_advisory_xact_lock(1734702711); " + SCHEMA
PUBLISH = "SELECT geventws_publish($1, $2, $3, $4, $5)"
JOIN = "SELECT r_name, r_epoch, r_last FROM geventws_join($1, $2)"
CLEAN = "SELECT geventws_clean()"
#: The version, and then the entries if another version is known. Nothing if the update is refused.
UPDATE_MEMBERS = """
SELECT r_version, r_id, r_text
FROM geventws_update_members($1, $2, $3, $4, $5, $6, nullif($7::bigint, -1), $8, $9, $10, $11)
"""
READ_MEMBERS = """
SELECT n.version, n.process || ':' || n.number, n.body
FROM geventws_entries n JOIN geventws_rooms r USING (channel)
WHERE r.channel = $1 AND r.expires >= extract(epoch FROM clock_timestamp())
"""
#: The messages after an id of the channel's epoch, or all messages for another id.
READ = """
SELECT c.name, c.epoch, c.last, m.number, m.body
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS since (name, epoch, number)
JOIN geventws_channels c ON c.name = since.name
LEFT JOIN geventws_messages m ON m.channel = c.id AND m.number <= c.last
    AND m.number >= greatest(c.first, CASE
        WHEN c.epoch = since.epoch AND since.number <= c.last THEN since.number + 1 ELSE 0 END)
    AND c.expires >= extract(epoch FROM clock_timestamp())
ORDER BY c.name, m.number
"""
READ_BODIES = """
SELECT m.channel, m.number, m.body
FROM unnest($1::bigint[], $2::bigint[]) AS wanted (channel, number)
JOIN geventws_messages m USING (channel, number)
"""
LOCK_LISTENER = "SELECT pg_backend_pid(), pg_try_advisory_lock_shared($1, 0)"
#: The processes with a listening connection to this database. Each role can read ``pg_locks``.
LISTENERS = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND classid = $1::bigint AND objid = 0 AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
NOTIFY = "SELECT pg_notify($1, $2)"
ANSWER = """
INSERT INTO geventws_answers (request, pid, sockets)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) ON CONFLICT DO NOTHING
"""
READ_ANSWERS = "SELECT pid, sockets FROM geventws_answers WHERE request = $1"

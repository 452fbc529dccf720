//! The statements of all operations. They are prepared once per connection.

use tokio_postgres::types::ToSql;

/// Parameters of a statement.
pub(crate) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// A statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Namespace,
    Get,
    GetMany,
    Write,
    List,
    Buckets,
    Usage,
    Attempt,
    Renew,
    Release,
}

/// All statements, in the order of their declaration, with their texts.
pub(crate) const ALL: [(Statement, &str); 10] = [
    // The update returns the number of a namespace that exists.
    (
        Statement::Namespace,
        "INSERT INTO lodge.namespace (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name \
         RETURNING number",
    ),
    (
        Statement::Get,
        "SELECT value, version, expires FROM lodge.entry WHERE namespace = $1 AND bucket = $2 AND key = $3 \
         AND (expires IS NULL OR expires > lodge.now())",
    ),
    // Values are left out if they exceed the limit together.
    (
        Statement::GetMany,
        "SELECT place, CASE WHEN total <= $4 THEN value END, version, expires, total FROM ( \
         SELECT place, value, version, expires, sum(length(value)) OVER ()::bigint AS total \
         FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY AS asked (bucket, key, place) \
         JOIN lodge.entry ON entry.namespace = $1 AND entry.bucket = asked.bucket AND entry.key = asked.key \
         WHERE expires IS NULL OR expires > lodge.now()) AS found",
    ),
    // A value that was removed is not sent.
    (
        Statement::Write,
        "SELECT status, used, CASE WHEN status = 'stale' THEN before_value END, before_version, before_expires, \
         after_value, after_version, after_expires \
         FROM lodge.write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    ),
    (
        Statement::List,
        "SELECT key FROM lodge.entry WHERE namespace = $1 AND bucket = $2 AND key >= $3 AND key > $4 AND key < $5 \
         AND (expires IS NULL OR expires > lodge.now()) ORDER BY key LIMIT $6",
    ),
    // Each step finds the next name in the index, however many keys the bucket has.
    (
        Statement::Buckets,
        "WITH RECURSIVE found (bucket) AS ( \
         (SELECT bucket FROM lodge.entry WHERE namespace = $1 AND bucket > $2 ORDER BY bucket LIMIT 1) \
         UNION ALL \
         SELECT (SELECT entry.bucket FROM lodge.entry WHERE namespace = $1 AND entry.bucket > found.bucket \
         ORDER BY entry.bucket LIMIT 1) \
         FROM found WHERE found.bucket IS NOT NULL) \
         SELECT bucket FROM found WHERE bucket IS NOT NULL LIMIT $3",
    ),
    (Statement::Usage, "SELECT keys, bytes FROM lodge.namespace WHERE number = $1"),
    (Statement::Attempt, "SELECT status, amount FROM lodge.attempt($1, $2, $3, $4, $5)"),
    (
        Statement::Renew,
        "UPDATE lodge.lock SET expires = lodge.now() + $4 \
         WHERE namespace = $1 AND name = $2 AND holder = $3 AND expires > lodge.now() RETURNING 1",
    ),
    (
        Statement::Release,
        "DELETE FROM lodge.lock WHERE namespace = $1 AND name = $2 AND holder = $3 AND expires > lodge.now() RETURNING 1",
    ),
];

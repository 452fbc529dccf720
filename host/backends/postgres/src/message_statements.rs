//! The statements of messages. A connection prepares them with the first operation on messages, and creates the tables then, so
//! that a user of the database who may create none can still use the rest.

use lodge_remote::LinkFailure;
use lodge_state::Error;
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::failure::{failed, get, unexpected};
use crate::statements::Parameters;

/// The tables, which this version of Lodge knows up to [`VERSION`].
const SCHEMA: &str = include_str!("messages.sql");
const VERSION: i32 = 1;

/// A statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageStatement {
    Subscribe,
    Unsubscribe,
    Discard,
    Present,
    Publish,
    Receive,
    Settle,
    Status,
    Dead,
    EndDead,
}

/// All statements, in the order of their declaration, with their texts.
const ALL: [(MessageStatement, &str); 10] = [
    (
        MessageStatement::Subscribe,
        "SELECT status, amount FROM lodge.subscribe($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    ),
    (MessageStatement::Unsubscribe, "SELECT lodge.unsubscribe($1, $2)"),
    (MessageStatement::Discard, "SELECT lodge.discard($1)"),
    (MessageStatement::Present, "SELECT lodge.present($1, $2, $3)"),
    (MessageStatement::Publish, "SELECT status, amount, most, names FROM lodge.publish($1, $2, $3, $4, $5, $6)"),
    (
        MessageStatement::Receive,
        "SELECT id, subject, origin, reply_to, headers, body, number, lease, attempt, age, dead, next, known \
         FROM lodge.receive($1, $2, $3, $4, $5, $6, $7, $8)",
    ),
    (MessageStatement::Settle, "SELECT lodge.settle($1, $2, $3, $4, $5, $6, $7, $8, $9)"),
    (
        MessageStatement::Status,
        "SELECT messages, bytes, \
         (SELECT count(*) FROM lodge.message WHERE consumer = number_of AND lease IS NOT NULL AND due > lodge.now()), \
         (SELECT count(*) FROM lodge.dead_message WHERE consumer = number_of), \
         (SELECT lodge.now() - min(published) FROM lodge.message WHERE consumer = number_of) \
         FROM (SELECT number AS number_of, messages, bytes FROM lodge.consumer WHERE name = $1) AS found",
    ),
    // Those after a place, as many as are enough, or the one at a place.
    (
        MessageStatement::Dead,
        "SELECT id, subject, origin, reply_to, headers, body, number, died, attempt, fault FROM ( \
         SELECT *, sum(size) OVER (ORDER BY number) - size AS before FROM ( \
         SELECT * FROM lodge.dead_message WHERE consumer = (SELECT number FROM lodge.consumer WHERE name = $1) \
         AND number > $2 AND ($3::bigint IS NULL OR number = $3) ORDER BY number LIMIT $4 \
         ) AS page) AS found WHERE before < $5::bigint ORDER BY number",
    ),
    (MessageStatement::EndDead, "SELECT status, amount, most FROM lodge.end_dead($1, $2, $3)"),
];

/// The statements of a connection, once they are prepared.
#[derive(Default)]
pub(crate) struct MessageStatements(OnceCell<Vec<tokio_postgres::Statement>>);

impl MessageStatements {
    /// Runs a statement on the connection that these belong to, and returns its rows.
    pub(crate) async fn all(
        &self,
        client: &Client,
        statement: MessageStatement,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, LinkFailure> {
        let prepared = self.0.get_or_try_init(|| prepare(client)).await?;
        let prepared = prepared.get(statement as usize).ok_or_else(unexpected)?;
        client.query(prepared, parameters).await.map_err(|error| failed(&error))
    }
}

/// Creates what is missing, and prepares all statements.
async fn prepare(client: &Client) -> Result<Vec<tokio_postgres::Statement>, LinkFailure> {
    match client.query_opt("SELECT version FROM lodge.messages", &[]).await {
        Ok(Some(row)) => {
            let version: i32 = get(&row, 0)?;
            if version > VERSION {
                return Err(Error::unavailable(format!(
                    "its tables for messages have version {version}, and this version of Lodge knows up to {VERSION}: use the \
                     later version of Lodge"
                ))
                .into());
            }
        }
        Ok(None) => return Err(unexpected().into()),
        // Other operations use the connection at the same time: so this is one statement, and a transaction by itself.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            client.batch_execute(SCHEMA).await.map_err(|error| failed(&error))?;
        }
        Err(error) => return Err(failed(&error)),
    }
    let mut statements = Vec::new();
    for (_, text) in ALL {
        statements.push(client.prepare(text).await.map_err(|error| failed(&error))?);
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_in_order() {
        assert!(ALL.iter().enumerate().all(|(index, (statement, _))| index == *statement as usize));
    }
}

//! Runs statements on one connection: `/SERVICE/INTERFACE/DATABASE?STATEMENT|STATEMENT…`, percent-encoded. Responds with the columns, the
//! number of rows and the first of the last one as text, and with status 500 and the error if there is one. Interfaces: `sync` and
//! `async`; `hoard` makes results until there is an error.

use wasip3::http::types::{ErrorCode, Request, Response};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        path: ["../kit/wit/spin-sqlite@3.1.0"],
        inline: "
        package lodge:sqlite3;

        world sqlite3 {
            import spin:sqlite/sqlite@3.1.0;
        }
    ",
        generate_all,
    });
}

use bindings::spin::sqlite::sqlite::{Connection, Error, RowResult};

use percent_encoding::percent_decode_str;

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let statements = percent_decode_str(query).decode_utf8().unwrap();
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        let result = match parts[..] {
            ["sync", database] => with_sync(database, &statements).map_err(|error| format!("{error:?}")),
            ["hoard", database] => hoard(database, &statements).await.map_err(|error| format!("{error:?}")),
            ["async", database] => with_async(database, &statements).await.map_err(|error| format!("{error:?}")),
            _ => Err(format!("no operation: {path}")),
        };
        Ok(kit3::result(result))
    }
}

fn text(columns: &[String], rows: &[RowResult], rowid: i64, changes: u64) -> String {
    let first = rows.first().map(|row| format!("{:?}", row.values)).unwrap_or_default();
    format!("{} {} {first} {rowid} {changes}", columns.join(","), rows.len())
}

fn with_sync(database: &str, statements: &str) -> Result<String, Error> {
    let connection = Connection::open(database)?;
    let mut last = String::new();
    for statement in statements.split('|') {
        let result = connection.execute(statement, &[])?;
        last = text(&result.columns, &result.rows, connection.last_insert_rowid(), connection.changes());
    }
    Ok(last)
}

/// Makes results whose rows are not read until there is an error, and one after they are dropped.
async fn hoard(database: &str, statement: &str) -> Result<String, Error> {
    let connection = Connection::open_async(database.into()).await?;
    let (execute, mut open) = (|| connection.execute_async(statement.into(), Vec::new()), Vec::new());
    let error = loop {
        match execute().await {
            Ok(result) => open.push(result),
            Err(error) => break error,
        }
    };
    drop(open);
    Ok(format!("{error:?} {}", execute().await.is_ok()))
}

async fn with_async(database: &str, statements: &str) -> Result<String, Error> {
    let connection = Connection::open_async(database.into()).await?;
    let mut last = String::new();
    for statement in statements.split('|') {
        let (columns, rows, end) = connection.execute_async(statement.into(), Vec::new()).await?;
        let rows = rows.collect().await;
        end.await?;
        let (rowid, changes) = (connection.last_insert_rowid_async().await, connection.changes_async().await);
        last = text(&columns, &rows, rowid, changes);
    }
    Ok(last)
}

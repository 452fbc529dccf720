//! Runs statements on one connection: `/SERVICE/INTERFACE/DATABASE?STATEMENT|STATEMENT…`, percent-encoded. Responds with the columns, the
//! number of rows and the first of the last one as text, and with status 500 and the error if there is one. Interfaces: `sync` and
//! `async`.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        inline: "
        package lodge:sqlite3;

        world sqlite3 {
            import spin:sqlite/sqlite@3.1.0;
        }

        package spin:sqlite@3.1.0 {
            interface sqlite {
                resource connection {
                    open: static func(database: string) -> result<connection, error>;
                    open-async: static async func(database: string) -> result<connection, error>;
                    execute: func(statement: string, parameters: list<value>) -> result<query-result, error>;
                    execute-async: async func(statement: string, parameters: list<value>)
                        -> result<tuple<list<string>, stream<row-result>, future<result<_, error>>>, error>;
                    last-insert-rowid: func() -> s64;
                    last-insert-rowid-async: async func() -> s64;
                    changes: func() -> u64;
                    changes-async: async func() -> u64;
                }
                variant error { no-such-database, access-denied, invalid-connection, database-full, io(string) }
                record query-result { columns: list<string>, rows: list<row-result> }
                record row-result { values: list<value> }
                variant value { integer(s64), real(f64), text(string), blob(list<u8>), null }
            }
        }
    ",
        generate_all,
    });
}

use bindings::spin::sqlite::sqlite::{Connection, Error, RowResult};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let statements = decode(query);
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        let result = match parts[..] {
            ["sync", database] => with_sync(database, &statements).map_err(|error| format!("{error:?}")),
            ["async", database] => with_async(database, &statements).await.map_err(|error| format!("{error:?}")),
            _ => Err(format!("no operation: {path}")),
        };
        let (status, text) = result.map_or_else(|error| (500, error), |text| (200, text));
        let (mut to, body) = wit_stream::new();
        let (end, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
        response.set_status_code(status).unwrap();
        spawn_local(async move {
            to.write_all(text.into_bytes()).await;
            drop((to, end));
        });
        Ok(response)
    }
}

fn decode(query: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
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

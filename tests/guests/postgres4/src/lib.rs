//! Uses databases of PostgreSQL through `spin:postgres@4.2.0`: `/SERVICE/OPERATION/DATABASE?ARGUMENT`, percent-encoded. Responds with status 500
//! and the error if there is one.
//!
//! * `run`: statements between `|`, of which those with `!` are executed. Responds with the columns and the rows of the last one.
//! * `types`: a value of each type, there and back, by both functions. Responds with their number.
//! * `many`: the statement sixteen times at once. Responds with the numbers of rows.
//! * `unread`: the statement until its results are refused, since none is read; then it reads one, and runs the statement again.
//! * `sent`: a parameter of 4 MB until that is refused, since nothing is awaited. Responds with how often it was not.
//! * `abandon`: begins to execute the statement, drops that once the server runs it, and waits until the server does not any more.
//! * `builder`: a connection by a builder with the certificate `ARGUMENT`.

use std::future::{Future, poll_fn};
use std::task::Poll;

use wasip3::http::types::{ErrorCode, Request, Response};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        path: ["../kit/wit/spin-postgres@4.2.0"],
        inline: "
        package lodge:postgres4;

        world postgres4 {
            import spin:postgres/postgres@4.2.0;
        }
    ",
        generate_all,
    });
}

use bindings::spin::postgres::postgres::{
    Column, Connection, ConnectionBuilder, DbValue, Error, Interval, ParameterValue, RangeBoundKind,
};

use percent_encoding::percent_decode_str;

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let argument = percent_decode_str(query).decode_utf8().unwrap();
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        let [operation, database] = parts[..] else { return Ok(kit3::result(Err(format!("no operation: {path}")))) };
        let result = respond(operation, database, &argument).await;
        Ok(kit3::result(result.map_err(|error| format!("{error:?}"))))
    }
}

async fn respond(operation: &str, database: &str, argument: &str) -> Result<String, Error> {
    if operation == "builder" {
        let builder = ConnectionBuilder::new(database);
        if !argument.is_empty() {
            builder.set_ca_root(argument)?;
        }
        builder.build()?.execute("SELECT 1", &[])?;
        return statements(&builder.build_async().await?, "SELECT 1 AS one").await;
    }
    let connection = Connection::open_async(database.into()).await?;
    match operation {
        "run" => statements(&connection, argument).await,
        "types" => types(&connection).await,
        "many" => {
            let query = |_| connection.query_async(argument.into(), Vec::new());
            let mut counts = Vec::new();
            for result in all((0..16).map(query)).await {
                let (_, rows, end) = result?;
                counts.push(rows.collect().await.len().to_string());
                end.await?;
            }
            Ok(counts.join(","))
        }
        "unread" => unread(&connection, argument).await,
        "sent" => sent(&connection).await,
        "abandon" => {
            let other = Connection::open_async(database.into()).await?;
            let mut slow = Box::pin(connection.execute_async(argument.into(), Vec::new()));
            let pending = poll_fn(|cx| Poll::Ready(slow.as_mut().poll(cx).is_pending())).await;
            let begun = is_running(&other, argument, true).await?;
            drop(slow);
            let ended = is_running(&other, argument, false).await?;
            Ok(if pending && begun && ended { "cancelled".into() } else { format!("{pending} {begun} {ended}") })
        }
        _ => Err(Error::Other(format!("no operation: {operation}"))),
    }
}

/// Waits for some time until the server runs a statement, or until it does not. Returns whether it came to that.
async fn is_running(connection: &Connection, statement: &str, running: bool) -> Result<bool, Error> {
    let text = "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' AND query = $1";
    for _ in 0..150 {
        let (_, rows) = query(connection, text, &[ParameterValue::Str(statement.into())]).await?;
        if matches!(rows[0][0], DbValue::Boolean(found) if found == running) {
            return Ok(true);
        }
        connection.execute_async("SELECT pg_sleep(0.1)".into(), Vec::new()).await?;
    }
    Ok(false)
}

/// Waits for all futures at once.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *result = Some(ready);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

async fn query(
    connection: &Connection,
    text: &str,
    parameters: &[ParameterValue],
) -> Result<(Vec<Column>, Vec<Vec<DbValue>>), Error> {
    let (columns, rows, end) = connection.query_async(text.into(), parameters.to_vec()).await?;
    let rows = rows.collect().await;
    end.await?;
    Ok((columns, rows))
}

async fn statements(connection: &Connection, statements: &str) -> Result<String, Error> {
    let mut last = String::new();
    for statement in statements.split('|') {
        if let Some(statement) = statement.strip_prefix('!') {
            last = connection.execute_async(statement.into(), Vec::new()).await?.to_string();
            continue;
        }
        let (columns, rows) = query(connection, statement, &[]).await?;
        let columns: Vec<_> = columns.iter().map(|column| format!("{}:{:?}", column.name, column.data_type)).collect();
        let rows: Vec<_> = rows.iter().map(|row| format!("{row:?}")).collect();
        last =
            format!("{}\n{}", columns.join(","), rows.join(";")).replace("DbDataType::", "").replace("DbValue::", "");
    }
    Ok(last)
}

async fn unread(connection: &Connection, statement: &str) -> Result<String, Error> {
    let mut results = Vec::new();
    let refused = loop {
        match connection.query_async(statement.into(), Vec::new()).await {
            Ok(result) => results.push(result),
            Err(error) => break format!("{error:?}"),
        }
    };
    let (_, rows, end) = results.pop().unwrap();
    let read = rows.collect().await.len();
    end.await?;
    let (_, rows) = query(connection, statement, &[]).await?;
    Ok(format!("{} {read} {} {refused}", results.len() + 1, rows.len()))
}

async fn sent(connection: &Connection) -> Result<String, Error> {
    let large = ParameterValue::Binary(vec![0; 4_000_000]);
    let text = "SELECT length($1::bytea), pg_sleep(0.1)";
    let execute = |_| connection.execute_async(text.into(), vec![large.clone()]);
    let results = all((0..6).map(execute)).await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    let refused = results.into_iter().filter_map(Result::err).next();
    Ok(format!("{done} {refused:?}"))
}

macro_rules! values {
    ($($case:ident $of:literal $value:expr),*) => {
        [$(($of, stringify!($case), ParameterValue::$case($value), DbValue::$case($value))),*]
    };
}

/// Sends a value of each type, at a bound where it has one.
async fn types(connection: &Connection) -> Result<String, Error> {
    use RangeBoundKind::{Exclusive, Inclusive};
    let text = |text: &str| Some(text.to_owned());
    let mut values = Vec::from(values![
        Boolean "boolean" true,
        Int8 "\"char\"" i8::MAX,
        Int16 "smallint" i16::MIN,
        Int32 "integer" i32::MIN,
        Int64 "bigint" i64::MIN,
        Floating32 "real" f32::MAX,
        Floating64 "double precision" f64::NEG_INFINITY,
        Str "text" "'; DROP TABLE t; --".into(),
        Binary "bytea" vec![0, 255],
        Date "date" (-4713, 11, 24),
        Time "time" (23, 59, 59, 999_999_000),
        Datetime "timestamp" (9999, 12, 31, 23, 59, 59, 999_999_000),
        Uuid "uuid" "ffffffff-ffff-ffff-ffff-ffffffffffff".into(),
        Jsonb "jsonb" b"{\"a\": [null]}".to_vec(),
        Decimal "numeric" "-123456789012345678901234.000000012".into(),
        RangeInt32 "int4range" (Some((i32::MIN, Inclusive)), Some((i32::MAX, Exclusive))),
        RangeInt64 "int8range" (None, Some((i64::MAX, Exclusive))),
        RangeDecimal "numrange" (Some(("-0.50".into(), Exclusive)), Some(("1".into(), Inclusive))),
        ArrayInt32 "integer[]" vec![Some(i32::MIN), None],
        ArrayInt64 "bigint[]" vec![Some(i64::MAX), None],
        ArrayDecimal "numeric[]" vec![text("0.10"), None],
        ArrayStr "text[]" vec![text("}\",\\"), text("NULL"), None],
        Interval "interval" Interval { micros: i64::MAX, days: i32::MIN, months: 0 }
    ]);
    values.push((
        "timestamptz",
        "Datetime",
        ParameterValue::Timestamp(-1),
        DbValue::Datetime((1969, 12, 31, 23, 59, 59, 0)),
    ));
    values.push(("text", "Str", ParameterValue::DbNull, DbValue::DbNull));
    for (of, kind, parameter, value) in &values {
        let statement = format!("SELECT $1::{of}");
        let parameters = std::slice::from_ref(parameter);
        let of_sync = connection.query(&statement, parameters)?;
        for (columns, rows) in [(of_sync.columns, of_sync.rows), query(connection, &statement, parameters).await?] {
            let (read, data_type) = (format!("{rows:?}"), format!("{:?}", columns[0].data_type));
            if read != format!("[[{value:?}]]") || data_type != format!("DbDataType::{kind}") {
                return Err(Error::Other(format!("{of}: {data_type} {read}, and not {value:?}")));
            }
        }
    }
    Ok(values.len().to_string())
}

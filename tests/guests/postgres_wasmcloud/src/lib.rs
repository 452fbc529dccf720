//! Uses a database of PostgreSQL through `wasmcloud:postgres@0.2.0`: `/SERVICE/OPERATION?ARGUMENT`, percent-encoded. Responds with status
//! 500 and the error if there is one.
//!
//! * `run`: statements between `|`, of which those with `!` are batches. Responds with the columns and the rows of the last one.
//! * `bind`: the statement with the parameter before `^`, of a kind: `text`, `char`, `money`, `double`, `east`, `bits`.
//! * `prepared`: prepares the statement, and executes it with the numbers 1 to 3. Responds with the numbers of rows.
//! * `unknown`: executes a statement that was not prepared.
//! * `types`: a value of each type, there and back. Responds with their number.
//! * `many`: the statement sixteen times at once. Responds with the numbers of rows.
//! * `abandon`: begins the statement, drops that, and waits until the server has no such statement any more.

use std::future::{Future, poll_fn};
use std::task::Poll;

use percent_encoding::percent_decode_str;
use wasip3::http::types::{ErrorCode, Request, Response};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        path: ["../kit/wit/wasmcloud-postgres@0.2.0"],
        inline: "
        package lodge:postgres-wasmcloud;

        world postgres-wasmcloud {
            import wasmcloud:postgres/query@0.2.0;
            import wasmcloud:postgres/prepared@0.2.0;
        }
    ",
        generate_all,
    });
}

use bindings::wasmcloud::postgres::types::{
    Date, Error, MacAddressEui48, MacAddressEui64, Offset, PgValue, Time, Timestamp, TimestampTz,
};
use bindings::wasmcloud::postgres::{prepared, query};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        let argument = percent_decode_str(argument).decode_utf8().unwrap();
        // The first part is the name of the service.
        let result = respond(path.splitn(3, '/').nth(2).unwrap_or_default(), &argument).await;
        Ok(kit3::result(result.map_err(|error| format!("{error:?}"))))
    }
}

async fn respond(operation: &str, argument: &str) -> Result<String, Error> {
    match operation {
        "run" => statements(argument).await,
        "bind" => {
            let (parameter, statement) = argument.split_once('^').unwrap_or_default();
            let (columns, rows) = run(statement, &[parameter_of(parameter)]).await?;
            Ok(shown(&columns, &rows))
        }
        "prepared" => {
            let token = prepared::prepare(argument.into()).await?;
            let mut counts = Vec::new();
            for number in 1..=3 {
                counts.push(prepared::exec(token.clone(), vec![PgValue::Int4(number)]).await?.to_string());
            }
            Ok(counts.join(","))
        }
        "unknown" => prepared::exec("statement-1".into(), Vec::new()).await.map(|count| count.to_string()),
        "types" => types().await,
        "many" => {
            let mut counts = Vec::new();
            for result in all((0..16).map(|_| query::query(argument.into(), Vec::new()))).await {
                let (_, rows, end) = result?;
                counts.push(rows.collect().await.len().to_string());
                end.await?;
            }
            Ok(counts.join(","))
        }
        "abandon" => {
            let mut slow = Box::pin(query::query(argument.into(), Vec::new()));
            let mut time = Box::pin(wasip3::clocks::monotonic_clock::wait_for(500_000_000));
            let begun = poll_fn(|cx| match (slow.as_mut().poll(cx), time.as_mut().poll(cx)) {
                (Poll::Ready(_), _) => Poll::Ready(false),
                (Poll::Pending, waited) => waited.map(|()| true),
            });
            let begun = begun.await;
            drop(slow);
            match run("SELECT 1", &[]).await {
                Err(Error::ConnectionFailed(_)) if begun => Ok("ended".into()),
                Err(error) => Err(error),
                Ok(_) => Err(Error::Other("the connection goes on".into())),
            }
        }
        _ => Err(Error::Other(format!("no operation: {operation}"))),
    }
}

fn parameter_of(text: &str) -> PgValue {
    let (kind, text) = text.split_once(':').unwrap_or_default();
    match kind {
        "text" => PgValue::Text(text.into()),
        "char" => PgValue::Char((9, text.into())),
        "money" => PgValue::Money(text.into()),
        "double" => PgValue::Double((u64::MAX, 0, 1)),
        "east" => PgValue::TimestampTz(TimestampTz { offset: Offset::EasternHemisphereSecs(3600), ..zoned() }),
        "bits" => PgValue::Bit((9, vec![1])),
        _ => PgValue::Null,
    }
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

async fn run(statement: &str, parameters: &[PgValue]) -> Result<(Vec<String>, Vec<Vec<PgValue>>), Error> {
    let (columns, rows, end) = query::query(statement.into(), parameters.to_vec()).await?;
    let rows = rows.collect().await;
    end.await?;
    Ok((columns, rows))
}

fn shown(columns: &[String], rows: &[Vec<PgValue>]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| format!("{row:?}")).collect();
    format!("{}\n{}", columns.join(","), rows.join(";")).replace("PgValue::", "")
}

async fn statements(statements: &str) -> Result<String, Error> {
    let mut last = String::new();
    for statement in statements.split('|') {
        if let Some(batch) = statement.strip_prefix('!') {
            query::query_batch(batch.into()).await?;
            last.clear();
            continue;
        }
        let (columns, rows) = run(statement, &[]).await?;
        last = shown(&columns, &rows);
    }
    Ok(last)
}

/// 1.5, in the form of the interface.
const HALF: (u64, i16, i8) = (3 << 51, -52, 1);
/// -2 with 32 bits.
const SINGLE: (u64, i16, i8) = (1 << 23, -22, -1);
const INFINITY: (u64, i16, i8) = (1 << 52, 972, 1);
const DAY: Date = Date::Ymd((2024, 2, 29));
const BEFORE: Date = Date::Ymd((-43, 3, 15));
const AT: Time = Time { hour: 23, min: 59, sec: 58, micro: 999_999 };

fn moment(date: Date) -> Timestamp {
    Timestamp { date, time: AT }
}

fn never(date: Date) -> Timestamp {
    Timestamp { date, time: Time { hour: 0, min: 0, sec: 0, micro: 0 } }
}

fn zoned() -> TimestampTz {
    TimestampTz { timestamp: moment(DAY), offset: Offset::WesternHemisphereSecs(0) }
}

macro_rules! values {
    ($($of:literal $case:ident $value:expr),* $(,)?) => { vec![$(($of, PgValue::$case($value))),*] };
}

fn numbers() -> Vec<(&'static str, PgValue)> {
    values![
        "bigint" Int8 i64::MIN,
        "bigint[]" Int8Array vec![i64::MAX, -1],
        "boolean" Bool true,
        "boolean[]" BoolArray vec![true, false],
        "double precision" Float8 HALF,
        "double precision" Float8 INFINITY,
        "double precision[]" Float8Array vec![HALF, (0, -1075, -1), INFINITY],
        "real" Float4 SINGLE,
        "real" Float4 INFINITY,
        "real[]" Float4Array vec![SINGLE],
        "integer" Int4 i32::MIN,
        "integer[]" Int4Array vec![i32::MAX],
        "numeric" Numeric "-123456789012345678901234.000000012".into(),
        "numeric[]" NumericArray vec!["0.10".into()],
        "smallint" Int2 i16::MIN,
        "smallint[]" Int2Array vec![i16::MAX],
        "int2vector" Int2Vector vec![1, -2],
        "int2vector[]" Int2VectorArray vec![vec![1, -2], vec![3]],
        "bit(9)" Bit (9, vec![0b1000_0001, 0b1000_0000]),
        "bit(9)[]" BitArray vec![(9, vec![1, 0])],
        "varbit" Varbit (Some(3), vec![0b1010_0000]),
        "varbit[]" VarbitArray vec![(Some(0), vec![])],
        "bytea" Bytea vec![0, 255],
        "bytea[]" ByteaArray vec![vec![], vec![0, b'"', b'\\']],
        "pg_lsn" PgLsn u64::MAX - 1,
        "pg_lsn[]" PgLsnArray vec![7],
        "pg_snapshot" PgSnapshot (10, 20, vec![10, 14]),
    ]
}

fn texts() -> Vec<(&'static str, PgValue)> {
    let hostile = || "}\",\\ '; DROP TABLE t; --".to_owned();
    values![
        "text" Text hostile(),
        "text[]" TextArray vec![hostile(), "NULL".into(), String::new()],
        "\"char\"" Char (1, vec![200]),
        "\"char\"" Char (1, vec![b'a']),
        "char(3)" Char (3, b"ab ".to_vec()),
        "char(2)[]" CharArray vec![(2, b"ab".to_vec())],
        "varchar" Varchar (None, hostile().into()),
        "varchar[]" VarcharArray vec![(None, hostile().into())],
        "name" Name "n".into(),
        "name[]" NameArray vec!["n".into()],
        "xml" Xml "<a/>".into(),
        "xml[]" XmlArray vec!["<a/>".into()],
        "json" Json "{\"a\":  1}".into(),
        "json[]" JsonArray vec!["{\"a\":  \"\\\\\"}".into()],
        "jsonb" Jsonb "{\"a\": null}".into(),
        "jsonb[]" JsonbArray vec!["[1, 2]".into()],
        "uuid" Uuid "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into(),
        "uuid[]" UuidArray vec!["ffffffff-ffff-ffff-ffff-ffffffffffff".into()],
        "cidr" Cidr "10.1.0.0/16".into(),
        "cidr[]" CidrArray vec!["2001:db8::/32".into()],
        "inet" Inet "10.1.2.3/8".into(),
        "inet[]" InetArray vec!["10.1.2.3".into(), "::1".into()],
        "macaddr" Macaddr MacAddressEui48 { bytes: (8, 0, 0x2b, 1, 2, 255) },
        "macaddr[]" MacaddrArray vec![MacAddressEui48 { bytes: (8, 0, 0x2b, 1, 2, 3) }],
        "macaddr8" Macaddr8 MacAddressEui64 { bytes: (8, 0, 0x2b, 1, 2, 3, 4, 255) },
        "macaddr8[]" Macaddr8Array vec![MacAddressEui64 { bytes: (8, 0, 0x2b, 1, 2, 3, 4, 5) }],
        "hstore" Hstore vec![("b".into(), None), ("a\"".into(), Some("\\".into()))],
    ]
}

fn shapes_and_times() -> Vec<(&'static str, PgValue)> {
    let (low, high) = ((SINGLE_8, SINGLE_8), (HALF, INFINITY));
    values![
        "point" Point low,
        "point[]" PointArray vec![low, high],
        "box" Box (low, high),
        "box[]" BoxArray vec![(low, high), (low, high)],
        "lseg" Lseg (low, high),
        "lseg[]" LsegArray vec![(low, high)],
        "circle" Circle (low, HALF),
        "circle[]" CircleArray vec![(low, HALF)],
        "polygon" Polygon vec![low, high],
        "polygon" Polygon vec![low],
        "polygon[]" PolygonArray vec![vec![low, high, low]],
        "date" Date DAY,
        "date" Date BEFORE,
        "date" Date Date::PositiveInfinity,
        "date[]" DateArray vec![DAY, BEFORE, Date::NegativeInfinity],
        "time" Time AT,
        "time[]" TimeArray vec![AT],
        "timestamp" Timestamp moment(DAY),
        "timestamp" Timestamp never(Date::NegativeInfinity),
        "timestamp[]" TimestampArray vec![moment(BEFORE), never(Date::PositiveInfinity)],
        "timestamptz" TimestampTz zoned(),
        "timestamptz" TimestampTz TimestampTz { timestamp: never(Date::PositiveInfinity), ..zoned() },
        "timestamptz[]" TimestampTzArray vec![zoned(), TimestampTz { timestamp: moment(BEFORE), ..zoned() }],
    ]
}

/// -2 with 64 bits.
const SINGLE_8: (u64, i16, i8) = (1 << 52, -51, -1);

/// Sends a value of each type, and reads it.
async fn types() -> Result<String, Error> {
    let mut values = numbers();
    values.extend(texts());
    values.extend(shapes_and_times());
    values.push(("interval", PgValue::Null));
    for (of, value) in &values {
        let (_, rows) = run(&format!("SELECT $1::{of}"), std::slice::from_ref(value))
            .await
            .map_err(|error| Error::Other(format!("{of} of {value:?}: {error:?}")))?;
        let read = format!("{rows:?}");
        if read != format!("[[{value:?}]]") {
            return Err(Error::Other(format!("{of}: {read}, and not {value:?}")));
        }
    }
    Ok(values.len().to_string())
}

//! Runs statements on one connection: `/SERVICE/INTERFACE/DATABASE?STATEMENT|STATEMENT…`, percent-encoded. Responds with the rows of the
//! last one as text, and with status 500 and the error if there is one. Parameters follow a statement after `^`: `i:7`, `r:0.5`,
//! `t:text`, `b:ff00`, `n`, and of `v3` and `v4` `d:2024-2-29` and `s:SECONDS`. Interfaces: `v2`, `v3`, `v4`, and `kept` with a connection that
//! outlives requests. The database `url` is the value of the variable `database`. `v4` is `spin:postgres@4.0.0`, and has `u:UUID`, `j:JSON` and
//! `c:DECIMAL` as well.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    path: ["../kit/wit/spin@2.0.0", "../kit/wit/spin-postgres@3.0.0", "../kit/wit/spin-postgres@4.0.0"],
    inline: "
        package lodge:postgres;

        world postgres {
            import fermyon:spin/postgres@2.0.0;
            import fermyon:spin/variables@2.0.0;
            import spin:postgres/postgres@3.0.0;
            import spin:postgres/postgres@4.0.0;
        }
    ",
    generate_all,
});

use fermyon::spin::postgres as v2;
use fermyon::spin::rdbms_types as v2_types;
use fermyon::spin::variables;
use spin::postgres3_0_0::postgres as v3;
use spin::postgres4_0_0::postgres as v4;
use v3 as v3_types;
use v4 as v4_types;

use percent_encoding::percent_decode_str;

struct Guest;

wasip2::http::proxy::export!(Guest);

thread_local! {
    static KEPT: RefCell<Option<v3::Connection>> = const { RefCell::new(None) };
}

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let statements = percent_decode_str(query).decode_utf8().unwrap();
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        let address = match parts.get(1) {
            Some(&"url") => variables::get("database").unwrap(),
            other => other.copied().unwrap_or_default().to_owned(),
        };
        let result = match parts.first() {
            Some(&"v2") => v2::Connection::open(&address)
                .and_then(|connection| with_v2(&connection, &statements))
                .map_err(|error| format!("{error:?}")),
            Some(&"v3") => v3::Connection::open(&address)
                .and_then(|connection| with_v3(&connection, &statements))
                .map_err(|error| format!("{error:?}")),
            Some(&"v4") => v4::Connection::open(&address)
                .and_then(|connection| with_v4(&connection, &statements))
                .map_err(|error| format!("{error:?}")),
            Some(&"kept") => KEPT.with_borrow_mut(|kept| {
                let kept = kept.get_or_insert_with(|| v3::Connection::open(&address).unwrap());
                with_v3(kept, &statements).map_err(|error| format!("{error:?}"))
            }),
            _ => Err(format!("no operation: {path}")),
        };
        kit::result(outparam, result);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

macro_rules! statements {
    ($types:ident, $connection:expr, $statements:expr, $more:expr) => {{
        use $types::{DbValue, ParameterValue};
        let mut last = String::new();
        for text in $statements.split('|') {
            let mut parts = text.split('^');
            let statement = parts.next().unwrap();
            let parameter = |part: &str| match part.split_once(':') {
                Some(("i", number)) => ParameterValue::Int64(number.parse().unwrap()),
                Some(("r", number)) => ParameterValue::Floating64(number.parse().unwrap()),
                Some(("t", text)) => ParameterValue::Str(text.into()),
                Some(("b", bytes)) => ParameterValue::Binary(unhex(bytes)),
                Some(other) => $more(other),
                None => ParameterValue::DbNull,
            };
            let parameters: Vec<ParameterValue> = parts.map(parameter).collect();
            if let Some(statement) = statement.strip_prefix('!') {
                last = $connection.execute(statement, &parameters)?.to_string();
                continue;
            }
            let result = $connection.query(statement, &parameters)?;
            let text = |value: &DbValue| match value {
                DbValue::Str(text) => format!("t:{text}"),
                DbValue::Binary(bytes) => format!("b:{}", hex(bytes)),
                DbValue::DbNull => "n".into(),
                other => format!("{other:?}").replace("DbValue::", ""),
            };
            let row = |row: &Vec<DbValue>| row.iter().map(text).collect::<Vec<_>>().join(",");
            let kinds = result.columns.iter().map(|column| format!("{}:{:?}", column.name, column.data_type));
            let kinds = kinds.collect::<Vec<_>>().join(",").replace("DbDataType::", "").to_lowercase();
            last = format!("{kinds}\n{}", result.rows.iter().map(row).collect::<Vec<_>>().join(";"));
        }
        Ok(last)
    }};
}

fn with_v2(connection: &v2::Connection, statements: &str) -> Result<String, v2::Error> {
    statements!(v2_types, connection, statements, |_| ParameterValue::DbNull)
}

fn date(text: &str) -> (i32, u8, u8) {
    let parts: Vec<_> = text.split('-').collect();
    (parts[0].parse().unwrap(), parts[1].parse().unwrap(), parts[2].parse().unwrap())
}

fn with_v3(connection: &v3::Connection, statements: &str) -> Result<String, v3::Error> {
    let more = |(kind, text): (&str, &str)| match kind {
        "d" => v3::ParameterValue::Date(date(text)),
        _ => v3::ParameterValue::Timestamp(text.parse().unwrap()),
    };
    statements!(v3_types, connection, statements, more)
}

fn with_v4(connection: &v4::Connection, statements: &str) -> Result<String, v4::Error> {
    let more = |(kind, text): (&str, &str)| match kind {
        "d" => v4::ParameterValue::Date(date(text)),
        "u" => v4::ParameterValue::Uuid(text.into()),
        "j" => v4::ParameterValue::Jsonb(text.into()),
        "c" => v4::ParameterValue::Decimal(text.into()),
        _ => v4::ParameterValue::Timestamp(text.parse().unwrap()),
    };
    statements!(v4_types, connection, statements, more)
}

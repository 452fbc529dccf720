//! Runs statements on one connection: `/SERVICE/INTERFACE/DATABASE?STATEMENT|STATEMENT…`, percent-encoded. Responds with the rows of the
//! last one as text, and with status 500 and the error if there is one. Parameters follow a statement after `^`: `i:7`, `r:0.5`,
//! `t:text`, `b:ff00`, `n`. Interfaces: `v2`, `v3`, and `kept` with a connection that outlives requests.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    path: ["../kit/wit/spin@2.0.0", "../kit/wit/spin-sqlite@3.0.0"],
    inline: "
        package lodge:sqlite;

        world sqlite {
            import fermyon:spin/sqlite@2.0.0;
            import spin:sqlite/sqlite@3.0.0;
        }
    ",
    generate_all,
});

use fermyon::spin::sqlite as v2;
use spin::sqlite::sqlite as v3;

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
        let result = match parts[..] {
            ["v2", database] => with_v2(database, &statements).map_err(|error| format!("{error:?}")),
            ["v3", database] => v3::Connection::open(database)
                .and_then(|connection| with_v3(&connection, database, &statements))
                .map_err(|error| format!("{error:?}")),
            ["kept", database] => KEPT.with_borrow_mut(|kept| {
                let kept = kept.get_or_insert_with(|| v3::Connection::open(database).unwrap());
                with_v3(kept, database, &statements).map_err(|error| format!("{error:?}"))
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

macro_rules! statement {
    ($interface:ident, $connection:expr, $text:expr) => {{
        use $interface::Value;
        let mut parts = $text.split('^');
        let statement = parts.next().unwrap();
        let parameters: Vec<_> = parts
            .map(|part| match part.split_once(':') {
                Some(("i", number)) => Value::Integer(number.parse().unwrap()),
                Some(("r", number)) => Value::Real(number.parse().unwrap()),
                Some(("t", text)) => Value::Text(text.into()),
                Some(("b", bytes)) => Value::Blob(unhex(bytes)),
                _ => Value::Null,
            })
            .collect();
        let result = $connection.execute(statement, &parameters)?;
        let text = |value: &Value| match value {
            Value::Integer(number) => format!("i:{number}"),
            Value::Real(number) => format!("r:{number}"),
            Value::Text(text) => format!("t:{text}"),
            Value::Blob(bytes) => format!("b:{}", hex(bytes)),
            Value::Null => "n".into(),
        };
        let row = |row: &$interface::RowResult| row.values.iter().map(text).collect::<Vec<_>>().join(",");
        result.rows.iter().map(row).collect::<Vec<_>>().join(";")
    }};
}

fn with_v2(database: &str, statements: &str) -> Result<String, v2::Error> {
    let connection = v2::Connection::open(database)?;
    let mut last = String::new();
    for text in statements.split('|') {
        last = statement!(v2, connection, text);
    }
    Ok(last)
}

fn with_v3(connection: &v3::Connection, database: &str, statements: &str) -> Result<String, v3::Error> {
    let mut last = String::new();
    for text in statements.split('|') {
        last = match text {
            "!rowid" => connection.last_insert_rowid().to_string(),
            "!changes" => connection.changes().to_string(),
            "!trap" => panic!("as asked"),
            // Opens connections until that fails.
            "!open" => {
                let mut opened = Vec::new();
                let error = loop {
                    match v3::Connection::open(database) {
                        Ok(connection) => opened.push(connection),
                        Err(error) => break error,
                    }
                };
                format!("{} {error:?}", opened.len())
            }
            // A second connection, which sees what is committed.
            "!other" => {
                let other = v3::Connection::open(database)?;
                statement!(v3, other, "SELECT count(*) FROM t")
            }
            text => statement!(v3, connection, text),
        };
    }
    Ok(last)
}

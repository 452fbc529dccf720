//! `wasmcloud:postgres@0.2.0`: async functions, with more types, and without names of databases: it uses the first one that the
//! manifest lists.
//!
//! A request has one connection for all of its statements, which run one after another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

use lodge_state::postgres::{MAX_STATEMENT, MAX_TRANSFER, PostgresError, PostgresMode, PostgresValue};
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, Lower};

use super::super::Ctx;
use super::super::config::ConfigSnapshot;
use super::super::denied::deny;
use super::super::handles::TOO_MANY_HANDLES;
use super::super::logged_denials::Denial;
use super::super::outcome::cut;
use super::super::sandbox::Sandbox;
use super::super::streamed::streamed;
use super::RequestPostgres;
use super::asynchronous::{RowProducer, reading};
use super::call::{self, PostgresCall};
use super::error::{CallFailure, TEXT, UNREACHABLE};

mod number;
mod read;
mod types;
mod values;
mod write;

use values::PgValue;

/// The most statements that a sandbox has prepared; the oldest ones make room.
const PREPARED: usize = 64;

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct DbError {
    code: String,
    severity: String,
    message: String,
    detail: Option<String>,
    extras: Vec<(String, String)>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "connection-failed")]
    ConnectionFailed(String),
    #[component(name = "invalid-params")]
    InvalidParams(String),
    #[component(name = "invalid-query")]
    InvalidQuery(String),
    #[component(name = "query-failed")]
    QueryFailed(DbError),
    #[component(name = "value-conversion-failed")]
    ValueConversionFailed(String),
    #[component(name = "unknown-prepared-statement")]
    UnknownPreparedStatement,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "other")]
    Other(String),
}

impl From<CallFailure> for Error {
    fn from(failure: CallFailure) -> Self {
        let error = match failure {
            CallFailure::Denied => return Self::AccessDenied,
            CallFailure::Refused(why) => return Self::Other(why),
            CallFailure::Statement(error) => error,
        };
        let short = |text: &str| cut(text, TEXT).to_owned();
        let text = short(&error.to_string());
        match error {
            // The reason is for operators.
            PostgresError::Unreachable(_) => Self::ConnectionFailed(UNREACHABLE.into()),
            PostgresError::Busy | PostgresError::Lost | PostgresError::Ended => Self::ConnectionFailed(text),
            PostgresError::Timeout => Self::Timeout,
            PostgresError::Parameter { .. } => Self::InvalidParams(text),
            PostgresError::TooLarge { what: "the statement", .. } => Self::InvalidQuery(text),
            PostgresError::TooLarge { what: "the result", .. } => Self::Other(text),
            PostgresError::TooLarge { .. } => Self::InvalidParams(text),
            PostgresError::Failed(report) => Self::QueryFailed(DbError {
                code: short(&report.code),
                severity: short(&report.severity),
                message: short(&report.message),
                detail: report.detail.as_deref().map(short),
                extras: report.extras.iter().map(|(name, text)| ((*name).to_owned(), short(text))).collect(),
            }),
        }
    }
}

/// The statements that a sandbox has prepared, with their tokens. They are texts: connections change.
#[derive(Default)]
pub(super) struct PreparedStatements {
    texts: VecDeque<(String, String)>,
    /// The number of the last one.
    number: u64,
}

impl PreparedStatements {
    /// Keeps a statement, and returns its token.
    fn add(&mut self, text: String) -> String {
        self.number = self.number.saturating_add(1);
        let token = format!("statement-{}", self.number);
        self.texts.push_back((token.clone(), text));
        let size = |texts: &VecDeque<(String, String)>| texts.iter().map(|(_, text)| text.len()).sum::<usize>();
        while self.texts.len() > PREPARED || size(&self.texts) > 4 * MAX_STATEMENT {
            self.texts.pop_front();
        }
        token
    }

    fn get(&self, token: &str) -> Option<&String> {
        self.texts.iter().find(|(known, _)| known == token).map(|(_, text)| text)
    }
}

/// Links the interface into a concurrent engine.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut query = linker.instance("wasmcloud:postgres/query@0.2.0")?;
    query.func_wrap_concurrent("query", |accessor: &Accessor<Ctx>, (text, parameters): (String, Vec<PgValue>)| {
        let call = begin(accessor, PostgresMode::RunInDetail, text, parameters);
        Box::pin(async move {
            let (columns, rows) = match result(call).await {
                Ok(result) => result,
                Err(error) => return Ok((Err(error),)),
            };
            let rows = streamed::<_, _, Error>(accessor, columns, rows)?;
            Ok((rows.ok_or_else(|| CallFailure::Refused(TOO_MANY_HANDLES.into()).into()),))
        })
    })?;
    query.func_wrap_concurrent("query-batch", |accessor: &Accessor<Ctx>, (text,): (String,)| {
        let call = begin(accessor, PostgresMode::Batch, text, Vec::new());
        Box::pin(async move { Ok((run(call).await.map(drop),)) })
    })?;
    let mut prepared = linker.instance("wasmcloud:postgres/prepared@0.2.0")?;
    prepared.func_wrap_concurrent("prepare", |accessor: &Accessor<Ctx>, (text,): (String,)| {
        let call = begin(accessor, PostgresMode::Check, text.clone(), Vec::new());
        Box::pin(async move {
            let checked = run(call).await;
            let keep = |_| {
                accessor.with(|mut access| {
                    let prepared = access.get().postgres.as_mut().map(|of_request| &mut of_request.prepared);
                    prepared.ok_or(Error::AccessDenied).map(|prepared| prepared.add(text))
                })
            };
            Ok((checked.and_then(keep),))
        })
    })?;
    prepared.func_wrap_concurrent("exec", |accessor: &Accessor<Ctx>, (token, parameters): (String, Vec<PgValue>)| {
        let text = accessor.with(|mut access| {
            let of_request = access.get().postgres.as_ref();
            of_request.map(|of_request| of_request.prepared.get(&token).cloned())
        });
        let call = match text {
            // Without a grant it has prepared none.
            Some(None) => Err(Error::UnknownPreparedStatement),
            Some(Some(text)) => begin(accessor, PostgresMode::Run, text, parameters),
            None => begin(accessor, PostgresMode::Run, String::new(), parameters),
        };
        Box::pin(async move { Ok((run(call).await.map(|rows| rows.affected),)) })
    })
}

/// Begins a call.
fn begin(
    accessor: &Accessor<Ctx>,
    mode: PostgresMode,
    text: String,
    parameters: Vec<PgValue>,
) -> Result<PostgresCall, Error> {
    let call = accessor.with(|mut access| {
        let Ctx { config, postgres, sandbox, .. } = access.get();
        on_first(postgres.as_mut(), (config.as_ref(), sandbox), (mode, text), || sent(parameters))
    });
    call.map_err(Error::from)
}

/// Returns what is sent for values. Memory for it is bounded while it is made.
fn sent(values: Vec<PgValue>) -> Result<Vec<PostgresValue>, PostgresError> {
    call::check_number(values.len())?;
    let mut left = MAX_TRANSFER;
    let numbered = (1..).zip(values).map(|(number, value)| {
        let value = value.parameter(left).map_err(|why| PostgresError::Parameter { number, why })?;
        let too_large = PostgresError::TooLarge { what: "the list of parameters", limit: MAX_TRANSFER, unit: "bytes" };
        left = left.checked_sub(value.size()).ok_or(too_large)?;
        Ok(value)
    });
    numbered.collect()
}

/// Begins a call on the connection of the request to the first database that is granted. Nothing is made of `parameters` without one.
fn on_first(
    of_request: Option<&mut RequestPostgres>,
    (config, sandbox): (Option<&ConfigSnapshot>, &Arc<Sandbox>),
    (mode, text): (PostgresMode, String),
    parameters: impl FnOnce() -> Result<Vec<PostgresValue>, PostgresError>,
) -> Result<PostgresCall, CallFailure> {
    let Some(of_request) = of_request else {
        deny(sandbox, Denial::Postgres);
        return Err(CallFailure::Denied);
    };
    let mut open = match of_request.unnamed.take() {
        Some(open) => open,
        None => {
            let key = of_request.granted().settings.databases.first();
            let value = |key: &String| config?.value(key);
            let (key, url) =
                key.and_then(|key| Some((key.clone(), value(key)?.to_owned()))).ok_or(CallFailure::Denied)?;
            Box::new(of_request.connect(&key, &url)?)
        }
    };
    let call = match parameters() {
        Ok(parameters) => PostgresCall::on(&mut open, Some(of_request), (config, sandbox), (mode, text), parameters),
        Err(error) => Err(error.into()),
    };
    of_request.unnamed = Some(open);
    call
}

async fn run(call: Result<PostgresCall, Error>) -> Result<lodge_state::postgres::PostgresRows, Error> {
    Ok(call::run(Ok(call?)).await?)
}

/// Runs a statement. Returns the names of the columns, and the rows.
async fn result(
    call: Result<PostgresCall, Error>,
) -> Result<(Vec<String>, RowProducer<IntoIter<Vec<PgValue>>>), Error> {
    let (result, room, connection) = reading(call?).await?;
    let forms: Vec<&str> = result.columns.iter().map(|column| column.form.as_str()).collect();
    // Exactly as large as they are: values of the interface are larger than those that the bound of results counts.
    let mut rows = Vec::with_capacity(result.rows.len());
    for row in result.rows {
        let mut converted = Vec::with_capacity(row.len());
        let values = row.into_iter().zip(&forms).zip(&result.columns);
        let value = |((value, form), column): ((PostgresValue, &&str), &lodge_state::postgres::PostgresColumn)| {
            let why = || {
                let (name, of) = (cut(&column.name, TEXT), cut(&column.type_name, TEXT));
                format!(
                    "column `{name}`: the interface has no exact form of a value of the type `{of}`: cast it to `text`"
                )
            };
            read::read(form, value).ok_or_else(|| Error::ValueConversionFailed(why()))
        };
        for one in values.map(value) {
            converted.push(one?);
        }
        rows.push(converted);
    }
    let names = result.columns.iter().map(|column| column.name.clone()).collect();
    Ok((names, RowProducer::new(rows.into_iter(), room, connection)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lodge_base::clock::Clock;
    use lodge_base::config;
    use lodge_base::cpu::scheduler::CpuScheduler;
    use lodge_state::postgres::MAX_PARAMETERS;
    use lodge_traffic::service::Service;

    use super::number::{Float, FloatForm};
    use super::*;

    #[test]
    fn without_a_grant_nothing_is_made_of_parameters() {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let service = Arc::new(Service::new("users", Arc::new(CpuScheduler::new(1)).share()));
        let clock = Clock::new(Duration::from_millis(1));
        let sandbox = Arc::new(Sandbox::new(service, Arc::default(), &limits, clock, None));
        let mut made = false;
        let call = on_first(None, (None, &sandbox), (PostgresMode::Run, String::new()), || {
            made = true;
            Ok(Vec::new())
        });
        assert!(matches!(call, Err(CallFailure::Denied)) && !made);
    }

    #[test]
    fn parameters_are_bounded_together() {
        let too_large = |values: Vec<PgValue>| match sent(values) {
            Err(PostgresError::TooLarge { limit, .. }) => Some(limit),
            _ => None,
        };
        let text = || PgValue::Text("x".repeat(MAX_TRANSFER / 2 - 32));
        assert_eq!(too_large(vec![text(), text()]), None);
        assert_eq!(too_large(vec![text(), text(), PgValue::Null]), Some(MAX_TRANSFER));
        assert_eq!(too_large(vec![PgValue::Null; MAX_PARAMETERS]), None);
        assert_eq!(too_large(vec![PgValue::Null; MAX_PARAMETERS + 1]), Some(MAX_PARAMETERS));
        let rest = sent(vec![text(), PgValue::Int8Array(vec![0; MAX_TRANSFER / 32 + 1])]);
        assert!(
            matches!(rest, Err(PostgresError::Parameter { number: 2, .. })),
            "the second one has half of the bytes"
        );
    }

    #[test]
    fn what_is_larger_than_its_value_is_refused_while_it_is_written() {
        let float = Float::of_double(f64::MIN_POSITIVE).unwrap();
        let point = (float, float);
        // Each has at most 4 MiB, and more in the form for the server.
        let values = [
            PgValue::BoolArray(vec![true; 200_000]),
            PgValue::Int2Array(vec![0; 600_000]),
            PgValue::Int4Array(vec![0; 600_000]),
            PgValue::Int8Array(vec![0; 300_000]),
            PgValue::Float8Array(vec![float; 100_000]),
            PgValue::Float4Array(vec![(1, 0, 1); 180_000]),
            PgValue::Int2Vector(vec![i16::MIN; 650_000]),
            PgValue::Int2VectorArray(vec![vec![i16::MIN; 325_000]; 2]),
            PgValue::Bit((4_800_000, vec![0; 600_000])),
            PgValue::Varbit((None, vec![0; 600_000])),
            PgValue::BitArray(vec![(2_400_000, vec![0; 300_000]); 2]),
            PgValue::ByteaArray(vec![vec![0; 2_200_000]]),
            PgValue::Polygon(vec![point; 90_000]),
            PgValue::PolygonArray(vec![vec![point; 45_000]; 2]),
            PgValue::BoxArray(vec![(point, point); 45_000]),
            PgValue::CircleArray(vec![(point, float); 45_000]),
            PgValue::TimeArray(vec![types::Time::default(); 180_000]),
            PgValue::PgSnapshot((0, 0, (i64::MIN..).take(220_000).collect())),
            PgValue::Hstore(vec![("\"".repeat(2_200_000), None)]),
        ];
        for (case, value) in values.into_iter().enumerate() {
            let refused = value.parameter(MAX_TRANSFER).err().unwrap_or_default();
            assert!(refused.contains("have more than 4194304 bytes"), "case {case}: {refused}");
        }
    }

    #[test]
    fn prepared_statements_are_bounded() {
        let mut prepared = PreparedStatements::default();
        let tokens: Vec<_> = (0..=PREPARED).map(|number| prepared.add(number.to_string())).collect();
        assert_eq!(prepared.get(&tokens[0]), None);
        assert_eq!(prepared.get(&tokens[1]).map(String::as_str), Some("1"));
        let large: Vec<_> = (0..5).map(|_| prepared.add("x".repeat(MAX_STATEMENT))).collect();
        assert!(prepared.get(&tokens[1]).is_none() && prepared.get(&large[0]).is_none());
        assert!(prepared.get(&large[1]).is_some() && prepared.get("").is_none());
    }
}

//! `wasi:otel@0.2.0-rc.2`: spans of guests join the trace of their request, and their log records become log lines. Metrics of
//! guests are not collected.
//!
//! A span is exported if its trace is that of the request. So it belongs to the request at hand, and cannot forge another one. Its
//! id is the guest's own, since the guest passes it on with the requests that it sends; it cannot be that of the host's span
//! around the guest. A span whose parent is not of the same request is below that span.

mod bounded;
mod types;

use lodge_base::telemetry::traces::OutboundTrace;
use wasmtime::component::{Linker, Val};

use super::denied::deny;
use super::logged_denials::Denial;
use super::stdio::{self, Stream};
use super::{Ctx, GuestCall};
use bounded::Texts;
use types::{KeyValue, LogRecord, OuterContext, SpanContext, SpanData, TraceFlags};

/// The beginning of the interfaces.
pub(crate) const INTERFACES: &str = "wasi:otel/";

/// The most spans of a request.
const SPANS: usize = 128;
/// The most bytes of all texts of a request's spans.
const TEXTS: usize = 64 << 10;
/// The most spans that a request may have begun as parents of others.
const STARTED: usize = 1024;
/// The most bytes of a log record, as a line.
const LINE: usize = 8 << 10;

/// The spans of the current request.
#[derive(Default)]
pub(super) struct RequestSpans {
    /// Those that may be parents of others.
    started: Vec<u64>,
    ended: Vec<u64>,
    /// The bytes of all texts that were kept.
    bytes: usize,
}

/// Why a span is not exported, as metrics name it.
type Dropped = &'static str;

/// Adds the interfaces to the linker.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut tracing = linker.instance("wasi:otel/tracing@0.2.0-rc.2")?;
    tracing.func_wrap("outer-span-context", |caller: GuestCall<'_>, (): ()| {
        let trace = caller.data().sandbox.context().and_then(|context| context.onward);
        Ok((outer(trace.as_deref()),))
    })?;
    tracing.func_wrap("on-start", |mut caller: GuestCall<'_>, (context,): (SpanContext,)| {
        let Some(trace) = caller.data().sandbox.recorded_trace() else { return Ok(()) };
        let id = own_id(&Texts::new(&caller, 0), &context, &trace)?;
        let started = &mut caller.data_mut().otel.started;
        if started.len() < STARTED {
            started.extend(id.ok());
        }
        Ok(())
    })?;
    tracing.func_wrap("on-end", |mut caller: GuestCall<'_>, (span,): (SpanData,)| {
        let Some(trace) = caller.data().sandbox.recorded_trace() else { return Ok(()) };
        if !(span.span_context.trace_flags & TraceFlags::SAMPLED == TraceFlags::SAMPLED) {
            return Ok(());
        }
        let exported = export(&mut caller, &span, &trace)?;
        caller.data().sandbox.service.metrics.guest_spans.count(exported.err().unwrap_or("ok"));
        Ok(())
    })?;
    link_logs(linker, 0)?;
    linker.instance("wasi:otel/metrics@0.2.0-rc.2")?.func_new("export", |caller, _, _, results| {
        let sandbox = &caller.data().sandbox;
        deny(sandbox, Denial::Metrics);
        sandbox.service.metrics.guest_metrics_dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let [result] = results {
            *result = Val::Result(Ok(None));
        }
        Ok(())
    })
}

/// Adds log records to the linker, of the part of a composition at this position.
pub(super) fn link_logs(linker: &mut Linker<Ctx>, position: usize) -> wasmtime::Result<()> {
    linker.instance("wasi:otel/logs@0.2.0-rc.2")?.func_wrap(
        "on-emit",
        move |caller: GuestCall<'_>, (record,): (LogRecord,)| {
            let level = match record.severity_number.unwrap_or(9) {
                ..=8 => tracing::Level::DEBUG,
                9..=12 => tracing::Level::INFO,
                13..=16 => tracing::Level::WARN,
                _ => tracing::Level::ERROR,
            };
            let line = line(&mut Texts::new(&caller, LINE), &record)?;
            stdio::log_message(&caller.data().sandbox, (Stream::Log(level), position), line.as_bytes());
            Ok(())
        },
    )
}

/// The context of the host's span around the guest; without a trace, one that is invalid by OpenTelemetry's rules.
fn outer(trace: Option<&OutboundTrace>) -> OuterContext {
    let (trace_id, span_id) = trace.map_or((0, 0), OutboundTrace::ids);
    let sampled = trace.is_some_and(OutboundTrace::is_recorded);
    let state = trace.and_then(OutboundTrace::state).unwrap_or_default();
    let member = |member: &str| {
        let (key, value) = member.trim().split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    OuterContext {
        trace_id: format!("{trace_id:032x}"),
        span_id: format!("{span_id:016x}"),
        trace_flags: if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
        is_remote: true,
        trace_state: state.split(',').filter_map(member).collect(),
    }
}

/// The id of a span of this trace.
///
/// # Errors
/// The inner error says why it is none.
fn own_id(texts: &Texts<'_>, context: &SpanContext, trace: &OutboundTrace) -> wasmtime::Result<Result<u64, Dropped>> {
    let (trace_id, guest) = trace.ids();
    if texts.id(&context.trace_id, 32)? != Some(trace_id) {
        return Ok(Err("foreign"));
    }
    let id = texts.id(&context.span_id, 16)?.map(|id| id as u64);
    Ok(id.filter(|id| *id != guest).ok_or("invalid"))
}

fn export(caller: &mut GuestCall<'_>, span: &SpanData, trace: &OutboundTrace) -> wasmtime::Result<Result<(), Dropped>> {
    let RequestSpans { started, ended, bytes } = &caller.data().otel;
    let most = TEXTS.saturating_sub(*bytes);
    let mut texts = Texts::new(caller, most);
    let id = match own_id(&texts, &span.span_context, trace)? {
        Ok(id) if ended.contains(&id) => return Ok(Err("invalid")),
        Ok(id) => id,
        Err(dropped) => return Ok(Err(dropped)),
    };
    if ended.len() >= SPANS || most == 0 {
        return Ok(Err("limit"));
    }
    let parent = texts.id(&span.parent_span_id, 16)?.map(|parent| parent as u64);
    let parent = parent.filter(|parent| *parent != id && started.contains(parent)).unwrap_or(trace.ids().1);
    let before = texts.left();
    let kept = texts.span(span, (id, parent))?;
    let copied = before - texts.left();
    let exported = trace.export_guest_span(kept);
    let spans = &mut caller.data_mut().otel;
    spans.ended.push(id);
    spans.bytes = spans.bytes.saturating_add(copied);
    Ok(if exported { Ok(()) } else { Err("queue") })
}

/// The text of a log record: its body or name, and its attributes.
fn line(texts: &mut Texts<'_>, record: &LogRecord) -> wasmtime::Result<String> {
    let mut line = match (&record.body, &record.event_name) {
        (Some(body), _) => texts.value(body)?.text(),
        (None, Some(name)) => texts.copy(name, LINE)?,
        (None, None) => String::new(),
    };
    for KeyValue { key, value } in record.attributes.iter().flatten() {
        if texts.left() == 0 {
            break;
        }
        let (key, value) = (texts.copy(key, LINE)?, texts.value(value)?.text());
        line.push_str(&format!(" {key}={value}"));
    }
    Ok(line)
}

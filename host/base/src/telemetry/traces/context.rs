//! Reads and writes the trace context of a request: W3C Trace Context, and B3 in one header or in several.
//!
//! Pure. A header that violates its specification counts as absent. Every guest gets `traceparent`; if the caller sent
//! B3, the guest gets B3, too.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The bit of [`Context::flags`] for a recorded trace (`sampled`).
pub const RECORDED: u8 = 1;
/// The bit for a random trace id, which only the creator of the id can set.
const RANDOM: u8 = 2;

/// The most bytes of a `tracestate` that is propagated.
const STATE_BYTES: usize = 512;
/// The most members of a `tracestate` that is propagated.
const STATE_MEMBERS: usize = 32;

/// The trace context of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace id; zero if the caller sent only a B3 sampling decision.
    pub trace_id: u128,
    /// The id of the caller's span; zero if there is none.
    pub parent: u64,
    /// `trace-flags` of W3C: [`RECORDED`] and the flag for a random trace id.
    pub flags: u8,
    /// Whether the caller defers the sampling decision (B3 only). [`RECORDED`] is then not set.
    pub deferred: bool,
    /// `tracestate`.
    pub state: Option<HeaderValue>,
    /// The format of the caller.
    pub form: Form,
}

/// The headers with the context in addition to `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// None.
    #[default]
    W3C,
    /// `b3`.
    B3Single,
    /// `x-b3-traceid` and the other headers of B3.
    B3Multi,
}

/// Whether headers contain a trace context, valid or not.
pub(super) fn has_context(headers: &HeaderMap) -> bool {
    [TRACEPARENT, B3, TRACE_ID, SAMPLED].iter().any(|name| headers.contains_key(name))
}

/// The headers of a trace context, collected in one pass.
#[derive(Default)]
struct TraceHeaders<'a> {
    traceparent: Option<&'a [u8]>,
    /// Whether `traceparent` occurs more than once, which makes it invalid.
    torn: bool,
    state: Option<&'a HeaderValue>,
    more_state: bool,
    b3: Option<&'a [u8]>,
    trace_id: Option<&'a [u8]>,
    span_id: Option<&'a [u8]>,
    sampled: Option<&'a [u8]>,
    flags: Option<&'a [u8]>,
}

/// Returns the context in `headers`, if it is valid.
pub fn extract(headers: &HeaderMap) -> Option<Context> {
    read(headers).0
}

/// Returns the context in `headers`, if it is valid, and the format to use in any case.
pub(super) fn read(headers: &HeaderMap) -> (Option<Context>, Form) {
    let mut seen = TraceHeaders::default();
    for (name, value) in headers {
        let bytes = Some(value.as_bytes());
        match name.as_str() {
            "traceparent" => seen.torn = std::mem::replace(&mut seen.traceparent, bytes).is_some() || seen.torn,
            "tracestate" => seen.more_state = seen.state.replace(value).is_some() || seen.more_state,
            "b3" => seen.b3 = bytes,
            "x-b3-traceid" => seen.trace_id = bytes,
            "x-b3-spanid" => seen.span_id = bytes,
            "x-b3-sampled" => seen.sampled = bytes,
            "x-b3-flags" => seen.flags = bytes,
            _ => {}
        }
    }
    let form = match (seen.b3, seen.trace_id.or(seen.span_id).or(seen.sampled).or(seen.flags)) {
        (Some(_), _) => Form::B3Single,
        (None, Some(_)) => Form::B3Multi,
        (None, None) => Form::W3C,
    };
    let w3c = seen.traceparent.filter(|_| !seen.torn).and_then(traceparent);
    let found = w3c.or_else(|| single(seen.b3?)).or_else(|| multi(&seen));
    let state = if w3c.is_some() { state(headers, &seen) } else { None };
    (found.map(|found| found.context(state, form)), form)
}

/// A parsed context, independent of the format.
#[derive(Clone, Copy)]
struct Parsed {
    trace_id: u128,
    parent: u64,
    /// The flags; `None` if the decision is deferred.
    flags: Option<u8>,
}

impl Parsed {
    fn context(self, state: Option<HeaderValue>, form: Form) -> Context {
        let Self { trace_id, parent, flags } = self;
        Context { trace_id, parent, flags: flags.unwrap_or(0), deferred: flags.is_none(), state, form }
    }
}

/// Parses `version-traceid-parentid-flags`. A later version may have further fields, which are ignored.
fn traceparent(bytes: &[u8]) -> Option<Parsed> {
    let mut parts = bytes.split(|byte| *byte == b'-');
    let version = hex(parts.next()?, 2)?;
    let (trace_id, parent) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
    let flags = hex(parts.next()?, 2)?;
    let more = parts.next().is_some();
    let valid = version != 0xff && trace_id != 0 && parent != 0 && !(version == 0 && more);
    // Undefined flags must not be propagated (W3C Trace Context 3.2.2.5).
    valid.then_some(Parsed { trace_id, parent: parent as u64, flags: Some(flags as u8 & (RECORDED | RANDOM)) })
}

/// Parses `traceid-spanid`, `traceid-spanid-state`, `traceid-spanid-state-parentid`, or a state alone.
fn single(bytes: &[u8]) -> Option<Parsed> {
    let mut parts = bytes.split(|byte| *byte == b'-');
    let (first, second) = (parts.next()?, parts.next());
    let Some(second) = second else {
        return decision(first).map(|flags| Parsed { trace_id: 0, parent: 0, flags: Some(flags) });
    };
    let flags = match parts.next() {
        Some(state) => Some(decision(state)?),
        None => None,
    };
    if let Some(parent) = parts.next() {
        hex(parent, 16)?;
    }
    ids(first, second, flags).filter(|_| parts.next().is_none())
}

fn multi(seen: &TraceHeaders<'_>) -> Option<Parsed> {
    let flags = match (seen.flags, seen.sampled) {
        (Some(b"1"), _) | (_, Some(b"true")) => Some(RECORDED),
        (_, Some(b"false")) => Some(0),
        (_, Some(b"d")) => return None,
        (_, Some(sampled)) => Some(decision(sampled)?),
        (_, None) => None,
    };
    match (seen.trace_id, seen.span_id, flags) {
        (Some(trace_id), Some(span_id), flags) => ids(trace_id, span_id, flags),
        (None, None, Some(_)) => Some(Parsed { trace_id: 0, parent: 0, flags }),
        _ => None,
    }
}

/// Parses the ids of B3. A trace id has 128 bits or only the lower 64.
fn ids(trace_id: &[u8], span_id: &[u8], flags: Option<u8>) -> Option<Parsed> {
    let trace_id = hex(trace_id, if trace_id.len() == 16 { 16 } else { 32 })?;
    let parent = hex(span_id, 16)?;
    (trace_id != 0 && parent != 0).then_some(Parsed { trace_id, parent: parent as u64, flags })
}

/// Parses the sampling state of B3. Debug (`d`) counts as recorded, and the debug flag is not propagated.
fn decision(state: &[u8]) -> Option<u8> {
    match state {
        b"1" | b"d" => Some(RECORDED),
        b"0" => Some(0),
        _ => None,
    }
}

/// Parses exactly `length` lower-case hexadecimal digits, at most 32.
pub fn hex(digits: &[u8], length: usize) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(u128::from(byte - b'0')),
        b'a'..=b'f' => Some(u128::from(byte - b'a' + 10)),
        _ => None,
    };
    let whole = digits.iter().try_fold(0, |value, byte| Some(value << 4 | digit(byte)?));
    whole.filter(|_| digits.len() == length)
}

/// Joins all `tracestate` headers. Returns `None` if they are invalid or over the bounds.
fn state(headers: &HeaderMap, seen: &TraceHeaders<'_>) -> Option<HeaderValue> {
    let one = seen.state?;
    let joined;
    let value = if seen.more_state {
        let all: Vec<_> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
        // Checked first, so that a value over the bound is not joined.
        (all.iter().map(|part| part.len() + 1).sum::<usize>() <= STATE_BYTES + 1).then_some(())?;
        joined = HeaderValue::from_bytes(&all.join(&b',')).ok()?;
        &joined
    } else {
        one
    };
    let members = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|one| !one.is_empty());
    let mut count = 0;
    let valid = value.len() <= STATE_BYTES && members.inspect(|_| count += 1).all(member);
    (valid && (1..=STATE_MEMBERS).contains(&count)).then(|| value.clone())
}

fn member(member: &[u8]) -> bool {
    let mut parts = member.splitn(2, |byte| *byte == b'=');
    let (Some(key), Some(value)) = (parts.next(), parts.next()) else { return false };
    let key_byte = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let first = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let value_byte = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    first
        && key.len() <= 256
        && key.iter().all(key_byte)
        && (1..=256).contains(&value.len())
        && value.iter().all(value_byte)
}

impl Context {
    /// Returns the context of a new trace, for a caller that uses `form`.
    pub(super) fn root(trace_id: u128, form: Form) -> Self {
        Self { trace_id, parent: 0, flags: 0, deferred: true, state: None, form }
    }

    /// Writes the context into `headers`, in place of any other, with `span` as the parent of the receiver's span.
    pub fn inject(&self, headers: &mut HeaderMap, span: u64) {
        let recorded = if self.flags & RECORDED == 0 { b'0' } else { b'1' };
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write(text.get_mut(3..35), self.trace_id);
        write(text.get_mut(36..52), u128::from(span));
        write(text.get_mut(53..55), u128::from(self.flags));
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static(""));
        headers.insert(TRACEPARENT, value(&text));
        match &self.state {
            Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
            None => drop(headers.remove(TRACESTATE)),
        }
        if self.form == Form::W3C {
            return;
        }
        // Other B3 headers may belong to another span.
        for name in [B3, TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS] {
            headers.remove(name);
        }
        if self.form == Form::B3Single {
            headers.insert(B3, value(&[part(3, 52), b"-", &[recorded]].concat()));
        } else {
            headers.insert(TRACE_ID, value(part(3, 35)));
            headers.insert(SPAN_ID, value(part(36, 52)));
            headers.insert(SAMPLED, value(&[recorded]));
        }
    }
}

/// Fills `into` with the last hexadecimal digits of `value`.
fn write(into: Option<&mut [u8]>, value: u128) {
    for (n, digit) in into.into_iter().flatten().rev().enumerate() {
        let nibble = (value >> (4 * n)) as u8 & 0xf;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
}

#[cfg(test)]
mod tests;

//! What is kept of a guest's span: all of it, within bounds.

use lodge_base::telemetry::traces::context::hex;
use lodge_base::telemetry::traces::{
    AttributeValue, Attributes, GuestEvent, GuestLink, GuestSpan, GuestSpanKind, GuestSpanStatus,
};
use wasmtime::component::WasmStr;

use super::types::{Event, KeyValue, Link, Scope, SpanData, SpanKind, Status};
use crate::capabilities::{Ctx, GuestCall};

/// The most attributes of a span, of an event and of a link.
const ATTRIBUTES: (usize, usize, usize) = (64, 16, 16);
/// The most events and links of a span.
const EVENTS: usize = 32;
const LINKS: usize = 16;
/// The most bytes of a key or name, and of a value. What is longer is cut off.
const NAME: usize = 256;
const VALUE: usize = 4096;
/// The most bytes of all texts of a span.
const TEXTS: usize = 16 << 10;
/// The beginning of the attributes that only the host sets.
const OWN: &str = "lodge.";

/// Copies texts from the memory of a guest, up to a number of bytes.
pub(super) struct Texts<'a> {
    caller: &'a GuestCall<'a>,
    left: usize,
}

impl<'a> Texts<'a> {
    /// Copies up to `most` bytes.
    pub(super) fn new(caller: &'a GuestCall<'a>, most: usize) -> Self {
        Self { caller, left: most.min(TEXTS) }
    }

    /// The bytes that can still be copied.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Copies at most `most` bytes of a text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(super) fn copy(&mut self, text: &WasmStr, most: usize) -> wasmtime::Result<String> {
        let whole = text.to_str::<Ctx>(self.caller)?;
        let end = whole.floor_char_boundary(most.min(self.left));
        let copied = whole.get(..end).unwrap_or_default().to_owned();
        self.left -= copied.len();
        Ok(copied)
    }

    /// Copies a value, which is JSON. One that is too long becomes the beginning of its text.
    pub(super) fn value(&mut self, text: &WasmStr) -> wasmtime::Result<AttributeValue> {
        Ok(AttributeValue::of_json(&self.copy(text, VALUE)?))
    }

    fn attributes(&mut self, given: &[KeyValue], most: usize, dropped: u32) -> wasmtime::Result<Attributes> {
        let mut all = Vec::new();
        for KeyValue { key, value } in given.iter().take(most) {
            if self.left == 0 {
                break;
            }
            let key = self.copy(key, NAME)?;
            if !key.is_empty() && !key.starts_with(OWN) {
                all.push((key, self.value(value)?));
            }
        }
        Ok(Attributes { dropped: dropped_of(given.len(), all.len(), dropped), all })
    }

    fn event(&mut self, Event { name, time, attributes }: &Event) -> wasmtime::Result<GuestEvent> {
        let name = self.copy(name, NAME)?;
        Ok(GuestEvent { name, at: time.nanos(), attributes: self.attributes(attributes, ATTRIBUTES.1, 0)? })
    }

    /// A link; `None` if it leads to no span.
    fn link(&mut self, Link { span_context, attributes }: &Link) -> wasmtime::Result<Option<GuestLink>> {
        let (trace_id, span_id) = (self.id(&span_context.trace_id, 32)?, self.id(&span_context.span_id, 16)?);
        let Some((trace_id, span_id)) = trace_id.zip(span_id) else { return Ok(None) };
        let (span_id, attributes) = (span_id as u64, self.attributes(attributes, ATTRIBUTES.2, 0)?);
        Ok(Some(GuestLink { trace_id, span_id, attributes }))
    }

    /// An id of so many hexadecimal digits; `None` if it is none, or zero.
    pub(super) fn id(&self, text: &WasmStr, digits: usize) -> wasmtime::Result<Option<u128>> {
        Ok(hex(text.to_str::<Ctx>(self.caller)?.as_bytes(), digits).filter(|id| *id != 0))
    }

    fn scope(&mut self, Scope { name, version, .. }: &Scope) -> wasmtime::Result<(String, String)> {
        let name = self.copy(name, NAME)?;
        let version = version.as_ref().map(|version| self.copy(version, NAME)).transpose()?;
        Ok((name, version.unwrap_or_default()))
    }

    /// Copies a span. Name, status and scope come first, then attributes, events and links while there are bytes left.
    pub(super) fn span(&mut self, given: &SpanData, (id, parent): (u64, u64)) -> wasmtime::Result<GuestSpan> {
        let name = self.copy(&given.name, NAME)?;
        let status = match &given.status {
            Status::Unset => GuestSpanStatus::Unset,
            Status::Ok => GuestSpanStatus::Ok,
            Status::Error(why) => GuestSpanStatus::Failed(self.copy(why, VALUE)?),
        };
        let scope = self.scope(&given.scope)?;
        let attributes = self.attributes(&given.attributes, ATTRIBUTES.0, given.dropped_attributes)?;
        let (mut events, mut links) = (Vec::new(), Vec::new());
        for event in given.events.iter().take(EVENTS) {
            if self.left > 0 {
                events.push(self.event(event)?);
            }
        }
        for link in given.links.iter().take(LINKS) {
            links.extend(self.link(link)?);
        }
        let sandbox = &self.caller.data().sandbox;
        let begin = given.start_time.nanos();
        Ok(GuestSpan {
            id,
            parent,
            name,
            kind: match given.span_kind {
                SpanKind::Client => GuestSpanKind::Client,
                SpanKind::Server => GuestSpanKind::Server,
                SpanKind::Producer => GuestSpanKind::Producer,
                SpanKind::Consumer => GuestSpanKind::Consumer,
                SpanKind::Internal => GuestSpanKind::Internal,
            },
            begin,
            end: given.end_time.nanos().max(begin),
            attributes,
            dropped_events: dropped_of(given.events.len(), events.len(), given.dropped_events),
            events,
            dropped_links: dropped_of(given.links.len(), links.len(), given.dropped_links),
            links,
            status,
            scope,
            service: (sandbox.service.name.clone(), sandbox.version.name.clone()),
        })
    }
}

/// The number of dropped items: those of the guest, and those that were not kept.
fn dropped_of(given: usize, kept: usize, before: u32) -> u32 {
    u32::try_from(given.saturating_sub(kept)).unwrap_or(u32::MAX).saturating_add(before)
}

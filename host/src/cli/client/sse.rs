//! Parses server-sent events, whatever pieces they arrive in.

use std::collections::VecDeque;
use std::io::Read;

use super::body::ResponseBody;
use crate::cli::out::CliError;

/// The most bytes of an event.
const EVENT_BYTES: usize = 4 << 20;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Event {
    /// The type of the event.
    pub(in crate::cli) name: String,
    /// The data; lines are joined by `\n`.
    pub(in crate::cli) data: String,
}

/// A stream of events, which lasts until the host ends it.
pub(in crate::cli) struct EventStream {
    body: ResponseBody,
    place: String,
    parser: Parser,
    ready: VecDeque<Event>,
}

/// Turns bytes into events.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    /// Whether the last line ended with a carriage return, so that a line feed still belongs to it.
    returned: bool,
    event: Event,
    /// Whether the event has data, even if it is empty.
    filled: bool,
}

/// An event or a line exceeds [`EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl EventStream {
    pub(super) fn new(body: ResponseBody, place: String) -> Self {
        Self { body, place, parser: Parser::default(), ready: VecDeque::new() }
    }
}

impl Iterator for EventStream {
    type Item = Result<Event, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = [0; 16 << 10];
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let broken = |why: &str| Some(Err(CliError::new(format!("{}: the stream broke off: {why}", self.place))));
            let read = match self.body.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(error) => return broken(&error.to_string()),
            };
            if self.parser.feed(bytes.get(..read).unwrap_or_default(), &mut self.ready) == Err(TooLong) {
                return broken("an event is too long");
            }
        }
    }
}

impl Parser {
    fn feed(&mut self, bytes: &[u8], into: &mut VecDeque<Event>) -> Result<(), TooLong> {
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => into.extend(self.end_line()),
                byte => self.line.push(*byte),
            }
            if self.line.len() + self.event.data.len() > EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.filled).then_some(event);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if std::mem::replace(&mut self.filled, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments only keep the connection alive. `id` and `retry` are for clients that reconnect.
            _ => {}
        }
        None
    }
}

/// A stream has the same events whether it arrives whole or in two pieces; the first byte gives the length of the
/// first.
#[cfg(any(test, fuzzing))]
pub(in crate::cli) fn fuzz(bytes: &[u8]) {
    let mut whole = VecDeque::new();
    let ended = Parser::default().feed(bytes, &mut whole);
    let at = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    let (first, second) = bytes.split_at_checked(at).unwrap_or_default();
    let (mut parser, mut pieces) = (Parser::default(), VecDeque::new());
    let ended_too = parser.feed(first, &mut pieces).and_then(|()| parser.feed(second, &mut pieces));
    assert_eq!((ended, &whole), (ended_too, &pieces));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        events.into()
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn examples_of_the_standard() {
        let text = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            parsed(&[text.as_bytes()]),
            [event("", "first event"), event("", "second event"), event("", " third event")]
        );
        assert_eq!(parsed(&[b"data\n\ndata\ndata\n\ndata:"]), [event("", ""), event("", "\n")]);
        assert_eq!(parsed(&[b"event: log\r\ndata: a\r\n\r\nevent: only a name\n\n"]), [event("log", "a")]);
    }

    #[test]
    fn endless_event_is_an_error() {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        let piece = vec![b'x'; 1 << 20];
        let fed = (0..=EVENT_BYTES >> 20).try_for_each(|_| parser.feed(&piece, &mut events));
        assert_eq!((fed, events.len()), (Err(TooLong), 0));
    }

    proptest! {
        /// Neither the line endings nor the boundaries of the pieces change the events.
        #[test]
        fn cuts_make_no_difference(
            written in proptest::collection::vec(("[a-z]{1,8}", "[ -~äß日\u{1f980}]{0,20}(\n[ -~ü]{0,10}){0,2}"), 0..6),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut text = String::new();
            let mut line = |line: &str| {
                text.push_str(line);
                text.push_str(end);
            };
            for (name, data) in &written {
                line(": keep alive");
                line(&format!("event: {name}"));
                data.split('\n').for_each(|part| line(&format!("data: {part}")));
                line("");
            }
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<_> = places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let expected: Vec<_> = written.iter().map(|(name, data)| event(name, data)).collect();
            prop_assert_eq!(parsed(&pieces), expected);
        }
    }
}

//! Dead messages that are kept: what they are, and what becomes of them.

use std::fmt;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::messages::{Message, MessageId, Subject};

/// Why a delivery has not succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The status of the response of the service.
    Status(u16),
    /// The status and the reason that stand for a response: there was none.
    Failed(u16, FaultReason),
    /// The response broke off, for this reason.
    BrokenOff(FaultReason),
    /// It was not settled before its lease ended.
    Unsettled,
}

impl Fault {
    /// Its text in a store.
    pub fn code(self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Failed(status, reason) => format!("{status} {}", reason.as_str()),
            Self::BrokenOff(reason) => format!("broken-off {}", reason.as_str()).trim_end().into(),
            Self::Unsettled => "unsettled".into(),
        }
    }

    /// Reads [`code`](Self::code).
    pub fn read(code: &str) -> Option<Fault> {
        match code.split_once(' ').map_or((code, None), |(kind, reason)| (kind, Some(reason))) {
            ("broken-off", reason) => Some(Self::BrokenOff(FaultReason::new(reason.unwrap_or_default()))),
            ("unsettled", _) => Some(Self::Unsettled),
            (status, None) => status.parse().ok().map(Self::Status),
            (status, Some(reason)) => Some(Self::Failed(status.parse().ok()?, FaultReason::new(reason))),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Failed(status, reason) => write!(f, "status {status} ({})", reason.as_str()),
            Self::BrokenOff(reason) if reason.as_str().is_empty() => f.write_str("the response broke off"),
            Self::BrokenOff(reason) => write!(f, "the response broke off ({})", reason.as_str()),
            Self::Unsettled => f.write_str("no response before its lease ended, as when a host is killed"),
        }
    }
}

/// The longest reason.
const REASON_BYTES: usize = 32;

/// Why a request got no response: a short name, as in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FaultReason {
    bytes: [u8; REASON_BYTES],
    length: usize,
}

impl FaultReason {
    /// A reason. Of a text that is none, what can be part of one is left.
    pub fn new(text: &str) -> Self {
        let mut reason = Self { bytes: [0; REASON_BYTES], length: 0 };
        let named = text.bytes().filter(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        for (place, byte) in reason.bytes.iter_mut().zip(named) {
            *place = byte;
            reason.length += 1;
        }
        reason
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A dead message that is kept with its consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadMessage {
    /// Where it is kept, among the dead messages of the consumer: letters, digits and `.`.
    pub place: Box<str>,
    /// The message.
    pub message: Message,
    /// Its id.
    pub id: MessageId,
    /// The subject that it was published to before it died there.
    pub origin: Option<Subject>,
    /// When it died; `None` if a version of Lodge has kept it that did not note this.
    pub died: Option<Timestamp>,
    /// How often it was delivered; `None` as above.
    pub attempts: Option<u32>,
    /// Why its last delivery did not succeed; `None` as above.
    pub fault: Option<Fault>,
}

/// Returns the place after which a page of dead messages begins, for queues that number them.
///
/// # Errors
/// If it is none of theirs: a page that began anew would not tell its reader so.
pub fn place_of(after: Option<&str>) -> Result<Option<u64>, Error> {
    let read = |after: &str| after.parse().ok().filter(|number| i64::try_from(*number).is_ok());
    let invalid = Error::Invalid {
        what: "`after`",
        problem: "is not the place of a dead message here: list them from the beginning",
    };
    after.map(|after| read(after).ok_or(invalid)).transpose()
}

/// Which dead messages of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadSelection<'a> {
    /// The one at a place.
    One(&'a str),
    /// All that there are now.
    All,
}

impl<'a> DeadSelection<'a> {
    /// The one at `place`, or all.
    pub fn of(place: Option<&'a str>) -> Self {
        place.map_or(Self::All, Self::One)
    }

    /// The place of the one.
    pub fn place(self) -> Option<&'a str> {
        match self {
            Self::One(place) => Some(place),
            Self::All => None,
        }
    }
}

/// What becomes of dead messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterlife {
    /// They wait again, as if they had not been delivered yet.
    Retry,
    /// They are removed.
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_kept() {
        let (trapped, unknown) = (FaultReason::new("trapped"), FaultReason::new(""));
        for (fault, text) in [
            (Fault::Status(500), "status 500"),
            (Fault::Failed(502, trapped), "status 502 (trapped)"),
            (Fault::BrokenOff(trapped), "the response broke off (trapped)"),
            (Fault::BrokenOff(unknown), "the response broke off"),
            (Fault::Unsettled, "no response before its lease ended, as when a host is killed"),
        ] {
            assert_eq!((Fault::read(&fault.code()), &*fault.to_string()), (Some(fault), text));
        }
        assert_eq!(FaultReason::new(&"a\u{1b}[2J".repeat(40)).as_str(), &"a2".repeat(16));
        assert_eq!([Fault::read(""), Fault::read("70000")], [None, None]);
    }

    #[test]
    fn a_wrong_place_is_no_beginning() {
        assert_eq!((place_of(None), place_of(Some("7"))), (Ok(None), Ok(Some(7))));
        for wrong in ["", "zzz", "-1", "7.5", "9223372036854775808"] {
            assert!(place_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}

//! Metrics of compressed responses.

use super::ReasonCounter;

/// The label value of a response for whose encoder there was no memory.
const NO_ROOM: &str = "no-room";

/// The metrics of the compressed responses of a service, by content coding.
#[derive(Debug, Default)]
pub struct CompressionMetrics {
    /// Responses that were compressed; `no-room` for those that were not, for want of memory.
    pub responses: ReasonCounter,
    /// Bytes before the compression.
    pub read: ReasonCounter,
    /// Bytes after it.
    pub written: ReasonCounter,
}

impl CompressionMetrics {
    /// Records a compressed response: the bytes that its encoder has read and written.
    pub fn record(&self, coding: &'static str, read: u64, written: u64) {
        self.responses.count(coding);
        self.read.add(coding, read);
        self.written.add(coding, written);
    }

    /// Counts a response that was sent as it is, since there was no memory for an encoder.
    pub fn count_without_room(&self) {
        self.responses.count(NO_ROOM);
    }
}

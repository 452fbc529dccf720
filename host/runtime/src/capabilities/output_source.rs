//! Where a line of output is from.

/// Where output is from: a stream, and the position of the part of a composition; 0 for a component without middleware.
pub(crate) type OutputSource = (Stream, usize);

/// An incomplete line.
pub(super) struct PartialLine {
    pub(super) source: OutputSource,
    pub(super) text: Vec<u8>,
}

/// The source of a log line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
    /// `wasi:logging`, with the level.
    Log(tracing::Level),
}

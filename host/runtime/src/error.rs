//! The ways in which a guest can fail to respond, with the text that clients get.
//!
//! That text never contains guest output, paths or host details. Those are in [`RunError::detail`], which goes to the log.

pub(crate) mod backtrace;
pub(crate) mod panic_text;

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

use lodge_traffic::proxy::body::BodyError;

/// The reason why a guest gave no response, or none that could be sent.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The body of the request is at fault.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The machine code was unloaded and cannot be loaded again, until the next scan of the directory.
    #[error("the service is not available")]
    Unavailable(String),
    /// The engine's pool has no room for a component that needs more of it than most.
    #[error("the service is overloaded")]
    PoolFull(String),
    /// The guest trapped, exited, or could not be instantiated.
    #[error("the service failed")]
    Trapped(Box<Trap>),
    /// The guest returned without a response.
    #[error("the service sent no response")]
    NoResponse,
    /// The guest trapped after it requested more memory than its limit.
    #[error("the service ran out of memory")]
    OverMemory(FailedPart),
    /// The guest's response cannot be sent in HTTP.
    #[error("the service sent an invalid response")]
    InvalidResponse(String),
    /// The guest returned a `wasi:http` error code.
    #[error("the service reported an error")]
    Reported(GuestCode),
    /// An outgoing request of the guest was denied by its manifest, and the guest returned that error. The client is
    /// not at fault.
    #[error("the service was denied an outgoing request")]
    OutgoingDenied,
    /// The request used up its wall time.
    #[error("the service took too long")]
    WallTime,
    /// The request used up its CPU time.
    #[error("the service used too much CPU time")]
    CpuTime(FailedPart),
}

/// The file of the component in front of a service that failed; `None` if that is not known, and for the service itself.
pub type FailedPart = Option<Box<str>>;

/// A `wasi:http` error code of a guest.
#[derive(Debug)]
pub struct GuestCode {
    /// The nearest status.
    pub status: StatusCode,
    /// The name of the code.
    pub name: String,
}

/// The reason why a guest trapped, with its backtrace.
#[derive(Debug, Default)]
pub struct Trap {
    /// The cause.
    pub cause: String,
    /// What the guest said of its panic on stderr.
    pub panic: Option<String>,
    /// The functions, innermost first, by the guest's own names if it has them.
    pub frames: Vec<String>,
    /// Where in a composition.
    pub part: FailedPart,
}

/// The number of frames of a backtrace in a log line.
const FRAMES: usize = 6;

impl RunError {
    /// Returns the error of a guest that trapped for this reason.
    pub fn trapped(cause: String, frames: Vec<String>, part: FailedPart) -> Self {
        Self::Trapped(Box::new(Trap { cause, panic: None, frames, part }))
    }

    /// Returns the file of the component in front of the service that failed, if it was one.
    pub fn part(&self) -> Option<&str> {
        match self {
            Self::Trapped(trap) => trap.part.as_deref(),
            Self::CpuTime(part) | Self::OverMemory(part) => part.as_deref(),
            _ => None,
        }
    }

    /// Returns details for the operator that clients must not see.
    pub fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Unavailable(detail) | Self::PoolFull(detail) | Self::InvalidResponse(detail) => Some(detail.into()),
            Self::Trapped(trap) => Some(trap.to_string().into()),
            Self::Reported(code) => Some((&code.name).into()),
            Self::OutgoingDenied => Some("the manifest does not grant an outgoing request; the log names it".into()),
            Self::Body(_) | Self::NoResponse | Self::OverMemory(_) | Self::WallTime | Self::CpuTime(_) => None,
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The cause of a panic is always the same instruction.
        f.write_str(self.panic.as_deref().unwrap_or(&self.cause))?;
        let mut separator = " (in ";
        for frame in self.frames.iter().take(FRAMES) {
            write!(f, "{separator}{frame}")?;
            separator = " < ";
        }
        if self.frames.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

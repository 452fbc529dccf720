//! Who is to blame for a failure: the service, or the caller that has left it too little time.

use std::time::Instant;

use crate::request::error::RequestError;
use lodge_runtime::error::RunError;
use lodge_traffic::admission::Permit;
use lodge_traffic::static_files::FilesError;
use lodge_traffic::upstreams::send::Failure;

impl RequestError {
    /// Returns that the caller has left the request too little time, if that may be why it failed now, and else this failure.
    pub fn excused(self, permit: &Permit) -> Self {
        let is_excused = self.may_be_due_to_time() && permit.excuses(Instant::now);
        if is_excused { Self::TooLittleTime(Box::new(self)) } else { self }
    }

    /// Returns the same, and records what it says of the service.
    pub fn recorded(self, permit: &mut Permit) -> Self {
        let error = self.excused(permit);
        permit.record_failure(error.verdict(), Instant::now);
        error
    }

    /// Whether more time may have prevented this failure. What a guest waits for, a statement, a lock or a call, ends before its own time
    /// does, and what the guest does then is up to it: it reports a failure, traps, or returns without a response. A replica may be another
    /// host, which has the same time. Time changes nothing about memory, computation, what a manifest denies, or a replica that is gone.
    fn may_be_due_to_time(&self) -> bool {
        match self {
            Self::WallTime | Self::Files(FilesError::Late) => true,
            Self::Guest(RunError::WallTime | RunError::Trapped(_) | RunError::NoResponse) => true,
            Self::Guest(RunError::Reported(code)) => code.status.is_server_error(),
            Self::Upstream(Failure::TimedOut(_) | Failure::BrokenOff(_)) => true,
            _ => false,
        }
    }
}

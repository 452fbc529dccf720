//! What a login needs and cannot be read now, for operators.

use std::time::SystemTime;

use super::Logins;
use crate::live_files::OF_SERVICE;

impl Logins {
    /// Returns why the configuration of the provider could not be fetched the last time.
    pub fn problem(&self) -> Option<String> {
        self.provider.problem()
    }

    /// Returns when a login failed last because of the provider or of what it says, and why.
    pub fn refusal(&self) -> Option<(SystemTime, String)> {
        self.provider.refusal()
    }

    /// Returns why the files of the keys of cookies and of the client's secret cannot be used now.
    pub(in crate::auth) fn file_problems(&self) -> [Option<String>; 2] {
        [self.keys.problem_of(OF_SERVICE), self.secret.as_ref().and_then(|secret| secret.problem_of(OF_SERVICE))]
    }
}

//! What is wrong now with files that settings of the host name, for operators.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// The most lines of a setting.
const MOST: usize = 50;

/// Lines by the setting that names the files. Its clones share them.
#[derive(Clone, Debug, Default)]
pub struct HostProblems(Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>);

impl HostProblems {
    /// Replaces what is known of a setting.
    pub fn set(&self, setting: &'static str, mut lines: Vec<String>) {
        lines.truncate(MOST);
        lock(&self.0).insert(setting, lines);
    }

    /// Returns all lines, each with its setting.
    pub fn lines(&self) -> Vec<String> {
        let all = lock(&self.0);
        all.iter().flat_map(|(setting, lines)| lines.iter().map(move |line| format!("{setting}: {line}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_is_not_told() {
        let problems = HostProblems::default();
        let shared = problems.clone();
        shared.set("trust.keys", vec!["a.pem: it is empty".into(); 99]);
        shared.set("tls.client_ca", vec!["it is gone".into()]);
        assert_eq!(problems.lines().len(), MOST + 1);
        shared.set("trust.keys", Vec::new());
        assert_eq!(problems.lines(), ["tls.client_ca: it is gone"]);
    }
}

//! What is known of services that are built from sources in the directory, by `lodge dev`: those being built, and those
//! that do not build. The host shows both as it shows files that are compiled or refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::ledger::Absent;
use super::load::Refusal;
use crate::capabilities::sandbox::lock;

/// Builds that have not made a component, by the name of the service.
#[derive(Default)]
pub struct Builds {
    /// `None` while a build runs.
    unbuilt: Mutex<BTreeMap<String, Option<Refusal>>>,
    changed: Notify,
}

impl Builds {
    /// A service's build begins.
    pub fn begins(&self, name: &str) {
        // The last failure stands until there is a better result, if only for those who ask meanwhile.
        lock(&self.unbuilt).entry(name.to_owned()).or_default();
        self.changed.notify_one();
    }

    /// A build has failed: why, in a line, and what the compiler said.
    pub fn failed(&self, name: &str, why: &str, said: &str) {
        let mut refusal =
            Refusal::new(&format!("{name}.wasm"), why, "mend its sources; they are built again when they change");
        refusal.output = (!said.is_empty()).then(|| Arc::from(said));
        lock(&self.unbuilt).insert(name.to_owned(), Some(refusal));
        self.changed.notify_one();
    }

    /// A build has made a component, or its sources are gone.
    pub fn ends(&self, name: &str) {
        if lock(&self.unbuilt).remove(name).is_some() {
            self.changed.notify_one();
        }
    }

    /// Ready when something of this has changed since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What there is of it now.
    pub(super) fn unbuilt(&self) -> BTreeMap<String, Option<Refusal>> {
        lock(&self.unbuilt).clone()
    }
}

/// The services without a component of any version.
pub(super) fn absent(unbuilt: &BTreeMap<String, Option<Refusal>>) -> impl Iterator<Item = Absent<'_>> {
    unbuilt.iter().map(|(name, refusal)| Absent { name, spec: None, refusal: refusal.as_ref() })
}

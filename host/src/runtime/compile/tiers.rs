//! Which compiler a component gets, and the second one for those that got the fast one first.
//!
//! Winch takes about a fifth of Cranelift's time. A component that would keep its clients waiting for long is served with
//! Winch's code, compiled again by Cranelift beside that, and given the better code between two requests. It stays the same
//! version all the while: nothing about it changes but its speed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use wasmparser::{Parser, Payload};

use super::job::Kind;
use super::{Compiled, Compiler};
use crate::base::lock::lock;
use crate::config::Tiers;
use crate::manifest::digest::Digest;
use crate::manifest::refusal::Refusal;
use crate::runtime::guest::Guest;

/// A file of at most so many bytes compiles in a moment, about a second for a megabyte of code.
pub(super) const SHORT: u64 = 1 << 20;

/// Winch is of wasmtime's first tier on this architecture and not yet on others.
const HAS_WINCH: bool = cfg!(target_arch = "x86_64");

/// Between two looks at whether anybody still wants the better code.
const LOOK: Duration = Duration::from_secs(1);

impl Compiler {
    /// What to compile a component for, in the order of preference.
    pub(super) fn kinds(&self, component: &[u8], speaks_03: bool, again: bool) -> Vec<Kind> {
        let fast = HAS_WINCH && !again && self.tiers != Tiers::Optimised && code_size(component) > SHORT;
        let mut kinds = Vec::new();
        if fast {
            kinds.push(Kind { concurrent: speaks_03, baseline: true });
        }
        // The names of 0.3 interfaces stand in the file as they are; what else needs concurrency does not compile without.
        if !speaks_03 {
            kinds.push(Kind { concurrent: false, baseline: false });
        }
        kinds.push(Kind { concurrent: true, baseline: false });
        kinds
    }

    /// What may be in the cache, the best first.
    pub(super) fn stored(&self) -> Vec<Kind> {
        let both = |baseline| [false, true].map(|concurrent| Kind { concurrent, baseline });
        let mut kinds = both(false).to_vec();
        if HAS_WINCH && self.tiers != Tiers::Optimised {
            kinds.extend(both(true));
        }
        kinds
    }

    /// Has better code made for a guest that is about to be served. One run for all guests of one component.
    pub(super) fn improve(self: &Arc<Self>, guest: &Arc<Guest>) {
        let digest = guest.digest();
        let (this, weak) = (Arc::clone(self), Arc::downgrade(guest));
        let mut upgrades = lock(&self.upgrades);
        if let Some(code) = self.known(digest).filter(|code| !code.kind.baseline) {
            // It was made while this guest was.
            tokio::spawn(async move { this.upgrade(&[weak], code, Duration::ZERO).await });
            return;
        }
        let guests = upgrades.entry(digest).or_default();
        guests.push(weak);
        if guests.len() > 1 {
            return;
        }
        // Weak: a host that has ended compiles nothing for itself.
        let (this, spec) = (Arc::downgrade(self), guest.spec.clone());
        let lane = Arc::clone(&self.optimising);
        tokio::spawn(async move {
            let place = lane.place(spec.size).await;
            let Some(this) = this.upgrade() else { return };
            let start = Instant::now();
            let built = tokio::select! {
                built = this.run(&spec, place, true) => Some(built),
                () = this.unwanted(digest) => None,
            };
            // Known before nobody is waited for any more: a guest that is made in between finds it.
            let built = built.map(|built| built.map(|code| this.remember(digest, code)));
            let guests = lock(&this.upgrades).remove(&digest).unwrap_or_default();
            match built {
                Some(Ok(code)) => this.upgrade(&guests, code, start.elapsed()).await,
                Some(Err(refusal)) => tracing::warn!(
                    service = spec.name,
                    "{} goes on with baseline code, which is slower: {refusal}",
                    spec.name
                ),
                None => {}
            }
        });
    }

    /// Gives each of these guests the code, if an instance of it starts as one of the old did.
    async fn upgrade(&self, guests: &[Weak<Guest>], code: Arc<Compiled>, took: Duration) {
        for guest in guests.iter().filter_map(Weak::upgrade) {
            let name = &*guest.name;
            // Not ready in this moment is nothing that its code could change.
            if let Err(Refusal { reason, passing: false, .. }) = self.try_out(&guest, &code).await {
                tracing::warn!(service = name, "{name} goes on with baseline code, which is slower: {reason}");
                continue;
            }
            guest.improve(Arc::clone(&code)).await;
            tracing::info!(service = name, "{name} runs optimised code from now on ({} ms)", took.as_millis());
        }
        if let (Some(cache), Some(guest)) = (&self.cache, guests.iter().find_map(Weak::upgrade)) {
            let old = self.stamp(Kind { baseline: true, ..code.kind });
            old.into_iter().for_each(|stamp| cache.remove(stamp, guest.digest()));
        }
    }

    /// Ready when no guest is left that waits for this code.
    async fn unwanted(&self, digest: Digest) {
        loop {
            tokio::time::sleep(LOOK).await;
            let upgrades = lock(&self.upgrades);
            let left = upgrades.get(&digest).is_some_and(|guests| guests.iter().any(|guest| guest.strong_count() > 0));
            if !left {
                return;
            }
        }
    }
}

/// Bytes of code in a component, which is what compiling takes its time for. Data and debug sections are not among them.
fn code_size(component: &[u8]) -> u64 {
    let code = |payload| match payload {
        Payload::CodeSectionStart { size, .. } => u64::from(size),
        _ => 0,
    };
    // What does not parse does not compile either, and is told so by the compiler.
    Parser::new(0).parse_all(component).map_while(Result::ok).map(code).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_counted_and_data_is_not() {
        let component = |data: usize, functions: usize| {
            let function = format!("(func (result i32) {} i32.const 7)", "nop ".repeat(100));
            let text = format!(
                "(component (core module {} (memory 1) (data (i32.const 0) \"{}\")) (core module {}))",
                function.repeat(functions),
                "x".repeat(data),
                function.repeat(functions)
            );
            code_size(&wat::parse_str(text).unwrap())
        };
        assert!(component(60_000, 1) < 300);
        let (one, ten) = (component(0, 1), component(0, 10));
        assert!(ten > 9 * one && one > 200, "{one} {ten}");
        assert_eq!(code_size(b"rubbish"), 0);
    }
}

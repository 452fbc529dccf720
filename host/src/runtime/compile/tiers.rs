//! Which compiler a component gets, and the second one for those that got the fast one first.
//!
//! Winch takes about a fifth of Cranelift's time. A component that would keep its clients waiting for long is served with
//! Winch's code, compiled again by Cranelift beside that, and given the better code between two requests. It stays the same
//! version all the while: nothing about it changes but its speed. Where that fails for a reason that may pass, it is tried again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use wasmparser::{Parser, Payload};

use super::job::Kind;
use super::lane::{Lane, Place};
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

/// Seconds between attempts to optimise, when the failure may pass: memory was short, the compiler was killed. The last
/// failure is for good, until the component is deployed anew or the host restarts.
const AGAIN: [u64; 5] = [1, 10, 60, 600, 3_600];

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

    /// Has optimised code made for a guest that is about to serve baseline code. One task for all guests of one component.
    pub(super) fn improve(self: &Arc<Self>, guest: &Arc<Guest>) {
        let (digest, size) = (guest.digest(), guest.spec.size);
        let mut upgrades = lock(&self.upgrades);
        let is_first = !upgrades.contains_key(&digest);
        let guests = upgrades.entry(digest).or_default();
        // Each new manifest makes a guest, and its predecessor goes.
        guests.retain(|guest| guest.strong_count() > 0);
        guests.push(Arc::downgrade(guest));
        if is_first {
            tokio::spawn(optimise(Arc::downgrade(self), Arc::clone(&self.optimising), digest, size));
        }
    }

    /// Makes optimised code, unless `made` or another task has it, and gives it to the guests that wait for it.
    ///
    /// # Errors
    /// Why there is no such code, or the first guest that did not start with it; those that did not wait again.
    async fn attempt(
        self: &Arc<Self>,
        digest: Digest,
        place: Place,
        made: &mut Option<Arc<Compiled>>,
    ) -> Result<(), Refusal> {
        let start = Instant::now();
        let known = made.take().or_else(|| self.known(digest).filter(|code| !code.kind.baseline));
        let code = match known {
            Some(code) => code,
            None => {
                let Some(spec) = self.waiting(digest).first().map(|guest| guest.spec.clone()) else { return Ok(()) };
                // Known before the first guest has it: a guest that is made from now on finds it.
                self.remember(digest, self.run(&spec, place, true).await?)
            }
        };
        *made = Some(Arc::clone(&code));
        let (mut improved, mut failed, mut first) = (None, Vec::new(), Ok(()));
        while let Some(guest) = self.take_waiting(digest) {
            let name = &*guest.name;
            match self.try_out(&guest, &code).await {
                Err(refusal) if !refusal.passing => {
                    failed.push(Arc::downgrade(&guest));
                    // It starts with baseline code, so that what keeps it from starting may pass.
                    first = first.and(Err(refusal.passing()));
                }
                // A guest that is not ready at this moment is not made ready by other code.
                _ => {
                    guest.improve(Arc::clone(&code)).await;
                    let took = start.elapsed().as_millis();
                    tracing::info!(service = name, "{name} runs optimised code from now on ({took} ms)");
                    improved = Some(guest);
                }
            }
        }
        if !failed.is_empty() {
            lock(&self.upgrades).entry(digest).or_default().append(&mut failed);
        } else if let (Some(cache), Some(guest)) = (&self.cache, improved) {
            let old = self.stamp(Kind { baseline: true, ..code.kind });
            old.into_iter().for_each(|stamp| cache.remove(stamp, guest.digest()));
        }
        first
    }

    /// The guests that wait for optimised code. When none is left, the next one begins anew.
    fn waiting(&self, digest: Digest) -> Vec<Arc<Guest>> {
        let mut upgrades = lock(&self.upgrades);
        let guests: Vec<_> = upgrades.get(&digest).into_iter().flatten().filter_map(Weak::upgrade).collect();
        if guests.is_empty() {
            upgrades.remove(&digest);
        }
        guests
    }

    /// The same, one after the other.
    fn take_waiting(&self, digest: Digest) -> Option<Arc<Guest>> {
        let mut upgrades = lock(&self.upgrades);
        let guest = upgrades.get_mut(&digest).and_then(|guests| {
            while let Some(guest) = guests.pop() {
                if let Some(guest) = guest.upgrade() {
                    return Some(guest);
                }
            }
            None
        });
        if guest.is_none() {
            upgrades.remove(&digest);
        }
        guest
    }

    /// Ready when no guest is left that waits for this code.
    async fn unwanted(&self, digest: Digest) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.waiting(digest).is_empty() {
                return;
            }
        }
    }

    /// Logs why the guests that wait go on with baseline code, and whether that is for good.
    fn unimproved(&self, digest: Digest, attempt: usize, why: &Refusal, wait: Option<Duration>) {
        for guest in self.waiting(digest) {
            let (name, Refusal { file, reason, remedy, .. }) = (&*guest.name, why);
            let next = wait.map_or_else(
                || format!("{remedy}; the next attempt is after {name} is deployed anew or this host restarts"),
                |wait| format!("trying again in {}", humantime::format_duration(wait)),
            );
            tracing::warn!(
                service = name,
                "{name} goes on with baseline code, which is slower: attempt {attempt} to optimise {file} failed: {reason}; {next}"
            );
        }
    }
}

/// Optimises the code of one component until its guests have it, no guest is left, or it has failed for good.
async fn optimise(compiler: Weak<Compiler>, lane: Arc<Lane>, digest: Digest, size: u64) {
    let mut made = None;
    let waits = AGAIN.map(Duration::from_secs).into_iter().map(Some).chain([None]);
    for (attempt, wait) in (1..).zip(waits) {
        // Weak until here: a host that has ended compiles nothing for itself.
        let place = lane.place(size).await;
        let Some(compiler) = compiler.upgrade() else { return };
        let outcome = tokio::select! {
            outcome = compiler.attempt(digest, place, &mut made) => outcome,
            () = compiler.unwanted(digest) => return,
        };
        let Err(why) = outcome else { return };
        let wait = wait.filter(|_| why.passing);
        compiler.unimproved(digest, attempt, &why, wait);
        let Some(wait) = wait else {
            lock(&compiler.upgrades).remove(&digest);
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = compiler.unwanted(digest) => return,
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

//! Optimised code for guests that serve baseline code.
//!
//! A large component is served with baseline code first, which compiles faster and runs slower. Meanwhile it is compiled
//! again, and its guests get the optimised code between two requests. Nothing else about the version changes. If that fails
//! for a reason that may pass, it is tried again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::compile::{Compiled, Compiler, Lane, LanePermit};
use super::guest::Guest;
use super::trial::Trials;
use lodge_base::lock::lock;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::Refusal;

/// The time between two checks whether any guest still waits for the optimised code.
const CHECK: Duration = Duration::from_secs(1);

/// Seconds between attempts to optimise, when the failure may pass: memory was short, or the compiler was killed. After the
/// last failure there is no other attempt until the component is deployed anew or the host restarts.
const AGAIN: [u64; 5] = [1, 10, 60, 600, 3_600];

/// Compiles components a second time, and gives the code to their guests.
pub struct Optimiser {
    compiler: Arc<Compiler>,
    trials: Arc<Trials>,
    /// One compilation at a time, since the components are served already.
    lane: Arc<Lane>,
    /// The guests that wait for optimised code, by digest.
    waiting: Mutex<HashMap<Digest, Vec<Weak<Guest>>>>,
}

impl Optimiser {
    /// Creates an optimiser that compiles with `compiler`, and tries the code in `trials`.
    pub fn new(compiler: Arc<Compiler>, trials: Arc<Trials>) -> Self {
        Self { compiler, trials, lane: Lane::new(1), waiting: Mutex::default() }
    }

    /// Makes optimised code for a guest if it runs provisional `code`. One task does this for all guests of one component.
    pub fn optimise(self: &Arc<Self>, guest: &Arc<Guest>, code: &Compiled) {
        if !self.compiler.is_provisional(code) {
            return;
        }
        let (digest, size) = (guest.deployment().digest(), guest.deployment().spec.size);
        let mut waiting = lock(&self.waiting);
        let is_first = !waiting.contains_key(&digest);
        let guests = waiting.entry(digest).or_default();
        // Each change of the manifest makes a guest, and drops the one before.
        guests.retain(|guest| guest.strong_count() > 0);
        guests.push(Arc::downgrade(guest));
        if is_first {
            tokio::spawn(run(Arc::downgrade(self), Arc::clone(&self.lane), digest, size));
        }
    }

    /// Compiles a component, unless an earlier attempt has `made` the code or another task has it, and gives the code to the
    /// guests that wait for it.
    ///
    /// # Errors
    /// Returns why there is no such code, or why the first guest did not start with it. Guests that did not start wait again.
    async fn attempt(
        &self,
        digest: Digest,
        permit: LanePermit,
        made: &mut Option<Arc<Compiled>>,
    ) -> Result<(), Refusal> {
        let start = Instant::now();
        let code = match made.take().or_else(|| self.compiler.known_optimised(digest)) {
            Some(code) => code,
            None => {
                let Some(spec) = self.waiting(digest).first().map(|guest| guest.deployment().spec.clone()) else {
                    return Ok(());
                };
                // In memory before the first guest has it: a guest that is made from now on finds it.
                self.compiler.optimised(&spec, permit).await?
            }
        };
        *made = Some(Arc::clone(&code));
        let (mut improved, mut failed, mut first) = (false, Vec::new(), Ok(()));
        while let Some(guest) = self.take_waiting(digest) {
            let name = &*guest.deployment().name;
            match self.trials.run(&guest, &code).await {
                Err(refusal) if !refusal.passing => {
                    failed.push(Arc::downgrade(&guest));
                    // The guest starts with baseline code, so the reason may pass.
                    first = first.and(Err(refusal.passing()));
                }
                // A guest that is not ready at this moment would not be ready with the old code either.
                _ => {
                    guest.optimise(Arc::clone(&code)).await;
                    let took = start.elapsed().as_millis();
                    tracing::info!(service = name, "{name} runs optimised code from now on ({took} ms)");
                    improved = true;
                }
            }
        }
        if !failed.is_empty() {
            lock(&self.waiting).entry(digest).or_default().append(&mut failed);
        } else if improved {
            self.compiler.remove_baseline(&code, digest);
        }
        first
    }

    /// Returns the guests that wait for optimised code. When none is left, the next one starts a new task.
    fn waiting(&self, digest: Digest) -> Vec<Arc<Guest>> {
        let mut waiting = lock(&self.waiting);
        let guests: Vec<_> = waiting.get(&digest).into_iter().flatten().filter_map(Weak::upgrade).collect();
        if guests.is_empty() {
            waiting.remove(&digest);
        }
        guests
    }

    /// Takes one of the guests that wait for optimised code. When none is left, the next one starts a new task.
    fn take_waiting(&self, digest: Digest) -> Option<Arc<Guest>> {
        let mut waiting = lock(&self.waiting);
        let guest = waiting.get_mut(&digest).and_then(|guests| {
            while let Some(guest) = guests.pop() {
                if let Some(guest) = guest.upgrade() {
                    return Some(guest);
                }
            }
            None
        });
        if guest.is_none() {
            waiting.remove(&digest);
        }
        guest
    }

    /// Waits until no guest waits for this code.
    async fn unwanted(&self, digest: Digest) {
        loop {
            tokio::time::sleep(CHECK).await;
            if self.waiting(digest).is_empty() {
                return;
            }
        }
    }

    /// Logs why the guests that wait go on with baseline code, and when the next attempt is.
    fn log_failure(&self, digest: Digest, attempt: usize, why: &Refusal, wait: Option<Duration>) {
        for guest in self.waiting(digest) {
            let (name, Refusal { file, reason, remedy, .. }) = (&*guest.deployment().name, why);
            let next = wait.map_or_else(
                || format!("{remedy}; the next attempt is after {name} is deployed anew or this host restarts"),
                |wait| format!("trying again in {}", humantime::format_duration(wait)),
            );
            tracing::warn!(
                service = name,
                "{name} keeps its baseline code, which is slower: attempt {attempt} to optimise {file} failed: {reason}; {next}"
            );
        }
    }
}

/// Optimises the code of one component until its guests have it, no guest waits, or there is no other attempt.
async fn run(optimiser: Weak<Optimiser>, lane: Arc<Lane>, digest: Digest, size: u64) {
    let mut made = None;
    let waits = AGAIN.map(Duration::from_secs).into_iter().map(Some).chain([None]);
    for (attempt, wait) in (1..).zip(waits) {
        // Weak until here: a host that has ended compiles nothing.
        let permit = lane.permit(size).await;
        let Some(optimiser) = optimiser.upgrade() else { return };
        let outcome = tokio::select! {
            outcome = optimiser.attempt(digest, permit, &mut made) => outcome,
            () = optimiser.unwanted(digest) => return,
        };
        let Err(why) = outcome else { return };
        let wait = wait.filter(|_| why.passing);
        optimiser.log_failure(digest, attempt, &why, wait);
        let Some(wait) = wait else {
            lock(&optimiser.waiting).remove(&digest);
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = optimiser.unwanted(digest) => return,
        }
    }
}

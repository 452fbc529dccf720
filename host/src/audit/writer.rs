//! The thread that appends lines to the trail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use super::trail::Trail;
use super::{ATTEMPTS_TIME, Event, Order, QUEUE, TrailCounts};

/// The time after which the thread looks for what is to be told, though nothing happened.
const IDLE: Duration = Duration::from_secs(10);

/// The trail with what it has not told yet.
pub(super) struct TrailWriter {
    trail: Trail,
    counts: Arc<TrailCounts>,
    /// When the last line counted refused operators.
    counted: Option<Instant>,
}

impl TrailWriter {
    pub(super) fn new(trail: Trail, counts: Arc<TrailCounts>) -> Self {
        Self { trail, counts, counted: None }
    }

    /// Writes lines until the host ends.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(IDLE) {
                Ok(Order::Write(time, event)) => {
                    let waiting = self.counts.waiting.fetch_sub(1, Relaxed);
                    if waiting <= QUEUE / 2 {
                        self.counts.overflows.store(false, Relaxed);
                    }
                    self.write(time, Some(&event), false);
                }
                Err(RecvTimeoutError::Timeout) => self.write(SystemTime::now(), None, false),
                Ok(Order::Close(last, done)) => {
                    self.write(SystemTime::now(), Some(&last), true);
                    let lost = self.counts.untold.load(Relaxed);
                    if lost > 0 {
                        self.trail.note_lost(lost);
                        tracing::error!("audit.file: {lost} lines of the audit trail are lost");
                    }
                    let _ = self.trail.sync();
                    // Another host may open the file from here on.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes what has not been told, then a line.
    fn write(&mut self, time: SystemTime, event: Option<&Event>, last: bool) {
        let written = self.tell(time, last).and_then(|()| event.map_or(Ok(()), |event| self.trail.append(time, event)));
        let Err(error) = written else {
            if self.counts.fails.swap(false, Relaxed) {
                tracing::info!("the audit trail is written again; it says how many lines were lost");
            }
            return;
        };
        self.counts.lose(u64::from(event.is_some()));
        if !self.counts.fails.swap(true, Relaxed) {
            let file = self.trail.path().display();
            tracing::error!("audit.file: {file} cannot be written: {error}; lines are lost until it can");
            // Already now: the host may be killed.
            self.trail.note_lost(self.counts.untold.load(Relaxed));
        }
    }

    /// Writes how many lines are missing, and how many operators were refused without a line.
    fn tell(&mut self, time: SystemTime, last: bool) -> io::Result<()> {
        let lines = self.counts.untold.load(Relaxed);
        if lines > 0 {
            self.trail.append(time, &Event::Lost { lines })?;
            self.counts.untold.fetch_sub(lines, Relaxed);
            self.trail.forget_lost();
        }
        let requests = self.counts.attempts.load(Relaxed);
        if requests > 0 && (last || self.counted.is_none_or(|at| at.elapsed() >= ATTEMPTS_TIME)) {
            self.trail.append(time, &Event::Attempts { requests })?;
            self.counts.attempts.fetch_sub(requests, Relaxed);
            self.counted = Some(Instant::now());
        }
        Ok(())
    }
}

//! What is known of the memory of one connection: what it has, and what it needs.

use std::task::Waker;

use super::super::frames::Frames;
use super::super::unread::Bodies;
use super::super::{ONE, REQUEST};

/// The state of an account.
#[derive(Default)]
pub(super) struct State {
    pub(super) frames: Frames,
    /// Bytes taken for the connection itself.
    pub(super) base: usize,
    /// Bytes taken in addition.
    pub(super) held: usize,
    /// Requests that are not finished.
    pub(super) requests: usize,
    /// Requests that were read since the last poll, and that hyper has not passed on yet.
    pub(super) arriving: usize,
    /// Bytes of request heads that [`REQUEST`] does not cover.
    pub(super) heads: usize,
    /// A head with more bytes than [`REQUEST`] covers was read since the last poll.
    pub(super) long: bool,
    /// Request bodies that are not dropped yet.
    pub(super) uploads: usize,
    /// Their bytes, for HTTP/2.
    pub(super) bodies: Bodies,
    /// A body was dropped before its end; h2 discards the rest, and the account does not learn of it.
    pub(super) dirty: bool,
    /// Bytes read since the last time when none were kept in memory.
    pub(super) wire: usize,
    /// The bytes of the last read.
    pub(super) last: usize,
    /// A request was in progress since the last read, for HTTP/1.1.
    pub(super) worked: bool,
    /// The connection has switched to another protocol, or ends.
    pub(super) over: bool,
    /// Wakes the reader, which waits for memory.
    pub(super) reader: Option<Waker>,
    /// The reader waits because the connection has the most that one may have.
    pub(super) full: bool,
}

impl State {
    /// Returns the bytes that the connection needs in addition to its base.
    pub(super) fn need(&self) -> usize {
        let requests = (self.requests + self.arriving).saturating_sub(1);
        requests.saturating_mul(REQUEST).saturating_add(self.heads).saturating_add(self.kept())
    }

    /// Returns the bytes that may still be in memory of those that were read.
    pub(super) fn kept(&self) -> usize {
        let twice = self.wire.saturating_mul(2);
        match self.frames.is_h2() {
            true if self.frames.in_block() => twice,
            true => self.wire,
            false => twice.min(ONE),
        }
    }

    /// Returns the bytes that the connection has for that.
    pub(super) fn has(&self) -> usize {
        self.held + self.base.saturating_sub(REQUEST)
    }

    /// Returns the bytes that may be read with the memory that the connection has.
    pub(super) fn room(&self) -> usize {
        let left = self.has().saturating_sub(self.need());
        match self.frames.is_h2() {
            true if self.frames.in_block() => left / 2,
            true => left,
            false if self.has() >= self.heads + ONE => usize::MAX,
            false => left / 2,
        }
    }

    /// Records that the first `bytes` of those that were read have left memory.
    pub(super) fn free(&mut self, bytes: usize) {
        self.wire = self.wire.saturating_sub(bytes);
        self.bodies.free(bytes);
    }

    /// Records that hyper has processed everything that was read.
    pub(super) fn turn(&mut self) {
        (self.arriving, self.long) = (0, false);
        self.forget();
    }

    /// Whether nothing that was read is in memory any more, once hyper has processed it.
    pub(super) fn is_spent(&self) -> bool {
        (self.uploads == 0 || self.bodies.is_taken()) && !self.frames.in_block()
    }

    /// Resets the counters if nothing that was read is in memory. Only between polls is it known which bytes belong to bodies.
    pub(super) fn forget(&mut self) {
        self.dirty &= self.uploads > 0;
        if self.is_spent() {
            (self.bodies, self.wire) = (Bodies::of(self.uploads), 0);
        }
    }
}

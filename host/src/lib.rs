//! Lodge: a native host for microservices that are WebAssembly components.
//!
//! Drop `users.wasm` into a directory and `/users` answers, each request in a sandbox of its own.
//!
//! # The map
//!
//! There are two flows, and a file for every step of each, in the order in which data meets them:
//!
//! * a **request** ([`request`]): accept → route → admit → instantiate → call → respond. Read
//!   [`request::handle`] first: it is the whole path.
//! * a **guest** ([`guests`]): watch → load → compile → publish.
//!
//! They meet in one immutable value, [`guests::snapshot::Snapshot`], written by one and read by the other.
//! [`responses`] gives answers again that may be, [`admission`] says who may run now, [`turns`] who may compute for long,
//! [`capabilities`] what a guest can reach and [`outgoing`] how its requests get there, [`upstreams`] where services are
//! that are elsewhere, [`config`] how much of everything there is; [`host`] puts it all together.
//!
//! What happened is told from one place: a request's [`Record`](request::record::Record) travels with its answer and,
//! when that is over, counts it ([`metrics`]), writes its line ([`logs`]) and ends its span ([`traces`]). What outlives
//! the versions of a service is its [`service`]; [`admin`] shows all of it, to the page, to scrapers and to the
//! commands in [`cli`].
//!
//! # What is always true
//!
//! * Holding a value is the proof. A [`Permit`](admission::Permit) was admitted, a [`Guest`](guests::guest::Guest)
//!   can be served, an [`Instance`](request::instance::Instance) owns its Store.
//! * Every queue, buffer, body and wait has a named bound in [`config`] or a constant beside its use.
//! * Every failure of a request is a [`RequestError`](error::RequestError), becomes a response in one place, and tells
//!   the caller nothing about the host or the guest's insides.
//! * `request` never writes a snapshot, `guests` never sees a request, capabilities know only their Store. The pure
//!   core (`config`, `error`, `guests::manifest`, `request::route`, the policies of `admission`) reads no clock and does no I/O.
//!
//! # Decisions
//!
//! * 2026-11: a guest's future is polled inline by whoever waits for its answer, not spawned. The same CPU, a
//!   scheduler hop less, and dropping the answer cancels the guest.
//! * 2026-11: a request waits first for its service's place and then for the host's, so a service that is slow can
//!   fill its own queue and nobody else's.
//! * 2026-11: settings are a table of name, default, help and reader, not a serde struct: flags, variables, file,
//!   `--print-config` and the README come from the one table, and all problems are reported at once.
//! * 2026-11: `guests::ledger` is a room of its own: what follows from a look at the directory is a pure function of
//!   what was known before, so that every order of changes, compilations and failures can be tested.
//! * 2026-11: a route belongs to the guest that has it, not to the first by name: a file that is dropped into the
//!   directory must not break a service that runs. (After a restart the first by name has it.)
//! * 2026-11: a guest that computes for more than two ticks is polled only while it holds a [`Turn`](turns::Turn), and
//!   turns are fewer than workers. The scheduler stays tokio's: the frame around the guest's future just does not poll it.
//! * 2026-11: two engines. 0.2 guests run on one without support for concurrent tasks, 10 % cheaper per request.
//! * 2026-11: a component is compiled by a child process, not by a thread: Cranelift cannot be interrupted, and its memory
//!   cannot be bounded otherwise. Starting one costs less than the noise of a drop, and the host's peak for an 18 MB Python
//!   component is 210 MB instead of 450.
//! * 2026-11: two more engines for Winch's code, each with a pool of its own, made when there is such code and dropped with the
//!   last of it: 0.9 MiB each. On-demand allocation would cost as much and let in components that the pool then refuses.
//! * 2026-11: `request::activity` and `request::headers` are rooms that the first plan did not have: the listener's
//!   timeouts and the header hygiene each are a job of their own.
//! * 2026-11: machine code of a service that nobody asks for is dropped and loaded again (`guests::guest`), which takes
//!   a millisecond; a thousand idle services are then 50 MB instead of 320. Only what the cache holds is dropped.
//! * 2026-11: a service's places are one semaphore for its life, resized in place, so that an edit of `limits.in_flight` and
//!   an adaptive limit are the same thing, and nobody who is in flight is ever forgotten.
//! * 2026-11: what clients send is charged where it is read (`request::intake`), not by the windows of HTTP/2: hyper cannot change
//!   those for one connection, they say nothing of what h2 keeps between frames, and HTTP/1.1 has none.
//! * 2026-11: admission policies are structs that one function asks in a fixed order, not a trait and a list: each takes,
//!   keeps and learns something else, and the order is part of the promise.
//! * 2026-11: policies take no clock of their own: a request's time is when its head came, which its record has already.
//!   What they learn from is the head of the answer. A stream is not slow because it is long, and a client that leaves in
//!   the middle of one has had its answer.
//! * 2026-11: GCRA is ours: one atomic for a bucket, sets of eight places for many, like a processor's cache. governor
//!   keeps a map that grows with its clients, and cannot convert what is used when the rate is changed.
//! * 2026-11: a breaker outlives edits of the manifest, but not the component: it has judged what is not asked any more,
//!   and a repair that has to wait for a breaker is no repair. A rate outlives both: it is the client who is judged.
//! * 2026-11: a service with policies on a route has no `<name>.localhost`: its routes could be gone around there.
//! * 2026-11: guests and replicas see the normal form of a path, not what the client wrote: a rule that is looked up by one
//!   spelling and a service that answers another is how rules are gone around. A gateway may do so (RFC 9110 4.2.3).
//! * 2026-11: what only software takes for the same path (`//`, `%2F`, `;x`) is not changed, which would break services that mean
//!   it, but refused where it would matter (`request::route::readings`).
//! * 2026-11: a guest's request says in `Via` that it is one (`lodge-5eed5eed-guest`): by its address alone it is whoever else is
//!   on this machine, a trusted proxy or an operator.
//! * 2026-11: a call between services is a request like any other ([`request::frame`]). It is run beside its caller, not
//!   inside of it: wasmtime refuses to drive a Store inside of another's event loop, and the caller's meter would charge it
//!   for the callee. Its first turn is on its caller's thread, right after the caller's own; most need no other
//!   (`capabilities::sent`). A task for each woke a second thread for each.
//! * 2026-11: a service elsewhere is a manifest without a component, published like a guest: whatever routes, admits, counts
//!   and shows one does so for the other, and a system moves over by its files. What both have is a `guests::deployment`.
//! * 2026-11: a version is a file beside its service's, not state that somebody keeps: `lodge deploy` moves files, and the
//!   directory stays the only truth. It has counts and a name of its own (`users@2`), and its service's places.
//! * 2026-11: the pools of [`upstreams`] are on hyper's own connections, not on its client: a replica's connections must
//!   be its own, whatever host a request names, and what was never sent must come back to be sent elsewhere.
//! * 2026-11: a guest that passes on that something was denied to it answers 502, not 403: it is its manifest that lacks a
//!   grant, and a new version of which that is so has to be found out by breakers and rollback.
//! * 2026-11: a time-out of a replica is tried once more, elsewhere; hedging stays a choice. A request that is slow everywhere
//!   costs two tries at most, and a replica that hangs costs time but no answers.
//! * 2026-11: the line of a request does not go through `tracing`, and spans not through the OpenTelemetry SDK: both would
//!   be made on the request's thread and cost as much as its sandbox. Lines are written many at a time.
//! * 2026-11: a complete response gives its permit back before it is sent: a client that does not read must not hold a place. Its
//!   bytes are bounded by `listener.unsent` instead. Streams that stall are aborted from outside, through hyper's executor, for
//!   hyper polls no body whose window is closed and a body cannot reset its stream.
//! * 2026-11: a manifest that changed is in force once it has not changed for half a second, since nothing in a file says
//!   that it is whole; what was renamed into place was whole before, and events say that it was. Until then the manifest
//!   before is in force, and nothing new is served: what fails, fails closed (`guests::load`).
//! * 2026-11: the directory is read on a thread of its own, not by a task: a file system that hangs must hold neither
//!   requests nor the end of the process (`guests::reader`).
//! * 2026-11: who follows a log sees requests also when no line is written for each. Nobody pays for what nobody reads.
//!
//! # What was tried on the request path
//!
//! CPU time of a request to a warm 0.2 instance, server on one core, `cargo bench --bench peers`. Of its 9.7 µs hyper
//! and the kernel have 3.7, the guest with its twelve or so calls of WASI 3.0, wasmtime around that 1.4 (wasmtime in hyper
//! with nothing else takes 8.1), and Lodge 1.6.
//!
//! * Kept: an engine without concurrency for 0.2 guests (12.0 → 10.7 µs); no trace events in release builds (wasmtime has
//!   a span for every call of WASI, 0.2 µs); what is said of a client made once per connection and host, and one pass
//!   over the headers instead of fifteen look-ups (0.3 µs); the drain heard by a flag (a lock that all connections share).
//! * Kept: what only some requests need (replicas, mirrors, the cache) in boxes, and steps that keep their arguments once: the
//!   future that is moved for every request is 5 KB and not 11, which was 5 %.
//! * Kept: one codegen unit and fat LTO (2 to 5 % for 0.2, 8 % for 0.3; thin LTO with one unit gains nothing).
//! * No difference: a deadline without a clock read of its own, a warm instance that keeps its place, output that is only
//!   looked at if there was any (all three kept, each is less code on the path). Counting every request in metrics, with
//!   tracing off: 0.5 %.
//! * Worse by 1 %: the request's future in a box, so that hyper moves two words and not three kilobytes.
//! * No difference: instantiation in a box of its own (the future that hyper moves shrinks from 3,112 to 3,016 bytes only).
//! * Costs, and stays: the five headers that tell a guest who asks. A 0.3 guest takes all headers over into its memory,
//!   asked for or not, with two allocations of its own for each.
//! * Costs 3 to 6 %, and stays: musl instead of glibc in the image, for an image without a libc.

pub mod admin;
pub mod admission;
pub mod base;
pub mod cache;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod cpu;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guests;
pub mod host;
pub mod listener;
pub mod manifest;
pub mod outgoing;
pub mod proxy;
pub mod request;
pub mod routing;
pub mod runtime;
pub mod service;
pub mod telemetry;
pub mod upstreams;

//! What the host does with a request apart from running it: everything here works without WebAssembly, and is built and
//! tested without wasmtime.
//!
//! * [`routing`]: which service a path belongs to, and which of its versions.
//! * [`auth`]: whose request it is.
//! * [`rules`]: conditions on requests.
//! * [`validation`]: what they have to be, by schemas and documents of APIs.
//! * [`admission`]: whether a request may run now.
//! * [`proxy`]: what an intermediary owes to client and origin server (RFC 9110, section 7.6).
//! * [`upstreams`]: replicas that run elsewhere.
//! * [`cache`]: stored responses (RFC 9111).
//! * [`static_files`]: services that are directories of files.
//! * [`error_pages`]: what browsers get in place of problem details.
//! * [`live_files`]: files whose content requests use, and which are read again.
//! * [`service`]: what all versions of a service share.
//!
//! Each of them has its own errors, with the text that clients get. `request::error` of the host is their sum.

pub mod admission;
pub mod auth;
pub mod cache;
pub mod error_pages;
pub mod live_files;
pub mod proxy;
pub mod routing;
pub mod rules;
pub mod service;
pub mod static_files;
pub mod upstreams;
pub mod validation;

//! State of services: key-value stores, locks, messages, SQL databases and objects, independent of WebAssembly and HTTP.
//!
//! * [`Store`] is what all key-value interfaces of guests are made of; [`Backend`] opens the store of a service. [`Memory`] and
//!   [`Sqlite`] are embedded backends; servers' backends are crates of their own.
//! * [`Locks`] is the same for locks, and [`Locker`] what callers use.
//! * [`MessageQueue`] keeps messages until their consumers have acknowledged them.
//! * Arguments are values within their [`limits`]: [`Key`], [`Value`], [`Batch`], [`Listing`]. Backends need not check them.
//! * [`apply`] defines writes, once for all backends. A backend that cannot run it where the data is must behave as if.
//! * [`sql`] runs the SQL of guests, each database in a file of its own; [`postgres`] is what a backend for databases of a
//!   server offers.
//! * [`blobs`] has objects of any size, as files.
//! * The crate `lodge-conformance` beside it has the tests of all backends.

pub mod blobs;
mod clock;
mod closing;
mod entry;
mod error;
mod file_name;
mod key;
pub mod limits;
pub mod locks;
mod memory;
pub mod messages;
mod mutex;
mod pending;
pub mod postgres;
pub mod sql;
mod sqlite;
mod store;
mod write;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use entry::{Entry, Expiry, Ttl, Value, Version};
pub use error::{Error, Resource};
pub use key::{Key, Namespace};
pub use limits::{Quota, Usage};
pub use locks::{Attempt, Guard, Holder, Lease, LockName, Locker, Locks, Token};
pub use memory::Memory;
pub use messages::{Message, MessageQueue, Pattern, Subject, Subscription};
pub use sqlite::{Durability, OpenError, Options, Sqlite, is_in_use, restore, verify};
pub use store::{Backend, Batch, Cursor, Listing, Page, Pending, Set, Store, Swap, within};
pub use write::{Change, Condition, Outcome, Write, apply};

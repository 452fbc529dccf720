//! Users in the store: a key per user, and the number of the last one.

use serde::{Deserialize, Serialize};

use crate::http::{Problem, Reply, merge};
use crate::wasi::keyvalue::atomics::{Cas, CasError, increment, swap};
use crate::wasi::keyvalue::batch;
use crate::wasi::keyvalue::store::{Bucket, Error, open};

/// The key with the id of the last user.
const LAST: &str = "last";

/// The beginning of the keys of users.
const USER: &str = "user/";

/// Users that are read at a time.
const BATCH: usize = 100;

/// A user.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The store chooses it; what a client sends is ignored.
    #[serde(default)]
    pub id: u64,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

impl User {
    /// Reads a user that a client has sent.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(unreadable).and_then(Self::checked)
    }

    /// Returns the user with the changes of a merge patch.
    pub fn patched(&self, patch: &[u8]) -> Result<Self, Problem> {
        let mut user = serde_json::to_value(self).map_err(unreadable)?;
        merge(&mut user, serde_json::from_slice(patch).map_err(unreadable)?);
        serde_json::from_value(user).map_err(unreadable).and_then(Self::checked)
    }

    fn checked(self) -> Result<Self, Problem> {
        let named = (1..=100).contains(&self.name.trim().chars().count());
        let mailed = self.email.as_ref().is_none_or(|email| email.len() <= 254 && email.contains('@'));
        match (named, mailed) {
            (true, true) => Ok(self),
            (false, _) => Err(Problem(422, "name: 1 to 100 characters".into())),
            (_, false) => Err(Problem(422, "email: an address with @, of at most 254 bytes".into())),
        }
    }

    /// Responds with the user.
    pub fn reply(&self, status: u16) -> Reply {
        Reply::json(status, self).header("etag", &etag(&self.bytes()))
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plain struct serialises")
    }
}

/// The users of a new store, and of a service whose manifest grants none.
fn first() -> Vec<User> {
    let user = |(id, name): (u64, &str)| User { id, name: name.into(), email: None };
    [(1, "Alice"), (2, "Bob")].map(user).into()
}

/// Responds where the manifest grants no store: with the first users, or the one with this id.
pub fn without_store(id: &str) -> Result<Reply, Problem> {
    let users = first();
    match id {
        "" => Ok(Reply::json(200, &users)),
        id => users.iter().find(|user| user.id.to_string() == id).map(|user| user.reply(200)).ok_or_else(missing),
    }
}

/// The users of the service.
pub struct Store(Bucket);

impl Store {
    /// Opens the store, if the manifest grants one. A new one gets the first users.
    pub fn open() -> Result<Option<Self>, Problem> {
        let bucket = match open("users") {
            Err(Error::AccessDenied) => return Ok(None),
            opened => opened?,
        };
        if !bucket.exists(LAST)? {
            let last = Cas::new(&bucket, LAST)?;
            // Another request may do the same at the same time, and a third may change what that has stored.
            for user in first() {
                let absent = Cas::new(&bucket, &key(user.id))?;
                if absent.current()?.is_none() {
                    unless_changed(swap(absent, &user.bytes()))?;
                }
            }
            unless_changed(swap(last, b"2"))?;
        }
        Ok(Some(Self(bucket)))
    }

    /// Opens the store to change something.
    pub fn writable() -> Result<Self, Problem> {
        Self::open()?.ok_or_else(|| Error::AccessDenied.into())
    }

    /// Responds with a page of users, and a link to the next one. The pages are those of the store: however many users were deleted,
    /// a page reads no more keys than there are.
    pub fn list(&self, cursor: Option<&str>) -> Result<Reply, Problem> {
        let page = self.0.list_keys(cursor)?;
        let keys: Vec<_> = page.keys.into_iter().filter(|key| key.starts_with(USER)).collect();
        let mut users: Vec<User> = Vec::new();
        for keys in keys.chunks(BATCH) {
            for (_, bytes) in batch::get_many(&self.0, keys)? {
                users.extend(bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| parse(&bytes)).transpose()?);
            }
        }
        users.sort_unstable_by_key(|user| user.id);
        let reply = Reply::json(200, &users);
        Ok(match page.cursor {
            Some(next) => {
                let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
                reply.header("link", &format!("</users?cursor={next}>; rel=\"next\""))
            }
            None => reply,
        })
    }

    /// Returns a user.
    pub fn get(&self, id: &str) -> Result<User, Problem> {
        parse(&self.0.get(&key_of(id)?)?.filter(|bytes| !bytes.is_empty()).ok_or_else(missing)?)
    }

    /// Stores a new user, and returns it with its id.
    pub fn create(&self, user: User) -> Result<User, Problem> {
        let id = increment(&self.0, LAST, 1)?.cast_unsigned();
        let user = User { id, ..user };
        self.0.set(&key(id), &user.bytes())?;
        Ok(user)
    }

    /// Stores what `change` makes of the user with this id, if that still has the version `if_match`. `change` is called again
    /// when another request has changed the user meanwhile.
    pub fn change(
        &self,
        id: &str,
        if_match: Option<&str>,
        change: impl Fn(&User) -> Result<User, Problem>,
    ) -> Result<User, Problem> {
        self.swap(id, if_match, |user| {
            let changed = User { id: user.id, ..change(user)? };
            Ok((changed.bytes(), changed))
        })
    }

    /// Deletes a user, if it still has the version `if_match`.
    pub fn delete(&self, id: &str, if_match: Option<&str>) -> Result<(), Problem> {
        // The store deletes without a condition. What is empty is as good as deleted, and nobody changes it any more.
        self.swap(id, if_match, |_| Ok((Vec::new(), ())))?;
        Ok(self.0.delete(&key_of(id)?)?)
    }

    /// Replaces the value of a user by the bytes that `next` returns, until no other request has come between.
    fn swap<T>(
        &self,
        id: &str,
        if_match: Option<&str>,
        next: impl Fn(&User) -> Result<(Vec<u8>, T), Problem>,
    ) -> Result<T, Problem> {
        let mut cas = Cas::new(&self.0, &key_of(id)?)?;
        loop {
            let current = cas.current()?.filter(|bytes| !bytes.is_empty()).ok_or_else(missing)?;
            if if_match.is_some_and(|tag| tag != "*" && tag != etag(&current)) {
                return Err(Problem(412, "it has changed; read it again".into()));
            }
            let (bytes, result) = next(&parse(&current)?)?;
            match swap(cas, &bytes) {
                Ok(()) => return Ok(result),
                Err(CasError::CasFailed(newer)) => cas = newer,
                Err(CasError::StoreError(error)) => return Err(error.into()),
            }
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::AccessDenied => Self(503, "the manifest of this service needs `keyvalue = true`".into()),
            Error::NoSuchStore => Self(503, "there is no store".into()),
            Error::Other(why) => Self(503, why),
        }
    }
}

/// Takes a swap that came too late for done.
fn unless_changed(swapped: Result<(), CasError>) -> Result<(), Problem> {
    match swapped {
        Err(CasError::StoreError(error)) => Err(error.into()),
        Ok(()) | Err(CasError::CasFailed(_)) => Ok(()),
    }
}

fn unreadable(error: serde_json::Error) -> Problem {
    Problem(400, error.to_string())
}

fn missing() -> Problem {
    Problem(404, "there is no such user".into())
}

fn key(id: u64) -> String {
    format!("{USER}{id}")
}

/// The key of the user whose id is in a path.
fn key_of(id: &str) -> Result<String, Problem> {
    id.parse().map(key).map_err(|_| missing())
}

fn parse(bytes: &[u8]) -> Result<User, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem(500, format!("a stored user cannot be read: {error}")))
}

/// FNV-1a of the content.
fn etag(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("\"{hash:016x}\"")
}

//! Listings of keys, page by page.

use crate::error::Error;
use crate::key::name;
use crate::limits::{MAX_BUCKET, MAX_CURSOR, MAX_KEY, MAX_PAGE};

/// Where the next page begins. Guests hold it between two pages, and can send any other text instead: a backend checks it,
/// and reads nothing outside of the listing for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor `text`.
    ///
    /// # Errors
    /// If it is longer than [`MAX_CURSOR`].
    pub fn new(text: impl Into<String>) -> Result<Cursor, Error> {
        let text = text.into();
        if text.len() > MAX_CURSOR {
            return Err(Error::TooLarge { what: "the cursor", unit: "bytes", size: text.len(), limit: MAX_CURSOR });
        }
        Ok(Cursor(text))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request for a page of the keys of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    bucket: &'a str,
    prefix: &'a str,
    cursor: Option<&'a Cursor>,
    limit: usize,
}

impl<'a> Listing<'a> {
    /// The first page of the keys of `bucket` that begin with `prefix`, which may be empty, with at most `limit` of them.
    ///
    /// # Errors
    /// If a name is too long, or `limit` not from 1 to [`MAX_PAGE`].
    pub fn new(bucket: &'a str, prefix: &'a str, limit: usize) -> Result<Listing<'a>, Error> {
        name("the name of the bucket", bucket, MAX_BUCKET)?;
        if prefix.len() > MAX_KEY {
            return Err(Error::TooLarge { what: "the prefix", unit: "bytes", size: prefix.len(), limit: MAX_KEY });
        }
        if limit == 0 {
            return Err(Error::Invalid { what: "the limit of a page", problem: "is 0: use at least 1" });
        }
        if limit > MAX_PAGE {
            return Err(Error::TooLarge { what: "the page", unit: "keys", size: limit, limit: MAX_PAGE });
        }
        Ok(Listing { bucket, prefix, cursor: None, limit })
    }

    /// The page at `cursor`, which a page of the same bucket and prefix has returned.
    pub fn at(self, cursor: &'a Cursor) -> Listing<'a> {
        Listing { cursor: Some(cursor), ..self }
    }

    /// The name of the bucket.
    pub const fn bucket(&self) -> &'a str {
        self.bucket
    }

    /// The beginning of all keys.
    pub const fn prefix(&self) -> &'a str {
        self.prefix
    }

    /// Where the page begins.
    pub const fn cursor(&self) -> Option<&'a Cursor> {
        self.cursor
    }

    /// The most keys, at least 1.
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

/// A page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, without their bucket.
    pub keys: Vec<String>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Cursor>,
}

/// Makes a page of keys in ascending order. Its cursors are the last keys of pages.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    prefix: String,
    after: Option<String>,
    limit: usize,
    page: Page,
}

impl PageBuilder {
    pub(crate) fn new(listing: &Listing<'_>) -> PageBuilder {
        let after = listing.cursor.map(|cursor| cursor.0.clone());
        PageBuilder { prefix: listing.prefix.to_owned(), after, limit: listing.limit, page: Page::default() }
    }

    /// The smallest key that can be in the page.
    pub(crate) fn first(&self) -> &str {
        self.after.as_deref().map_or(&self.prefix, |after| after.max(&self.prefix))
    }

    /// Takes the next key, and returns whether the page needs more.
    pub(crate) fn push(&mut self, key: &str) -> bool {
        if self.after.as_deref().is_some_and(|after| key <= after) {
            return true;
        }
        if !key.starts_with(&self.prefix) {
            return false;
        }
        if self.page.keys.len() == self.limit {
            self.page.next = self.page.keys.last().cloned().map(Cursor);
            return false;
        }
        self.page.keys.push(key.to_owned());
        true
    }

    pub(crate) fn into_page(self) -> Page {
        self.page
    }
}

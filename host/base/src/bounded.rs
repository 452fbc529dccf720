//! Lists in JSON that end with an error as soon as they have more elements than they may have: a text of a few megabytes
//! has a million elements, which take a hundred times its size. Pure.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// At most `N` elements; `null` has none.
#[derive(Debug)]
pub struct Bounded<T, const N: usize>(pub Vec<T>);

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Elements(PhantomData))
    }
}

struct Elements<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Elements<T, N> {
    type Value = Bounded<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {N} elements")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Bounded::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(next) = list.next_element()? {
            if all.len() == N {
                return Err(A::Error::custom(format_args!("a list has more than {N} elements")));
            }
            all.push(next);
        }
        Ok(Bounded(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_bound() {
        let read = |text: &str| serde_json::from_str::<Bounded<u8, 3>>(text).map(|list| list.0);
        assert_eq!(read("[1,2,3]").unwrap(), [1, 2, 3]);
        assert!(read("null").unwrap().is_empty() && read("[]").unwrap().is_empty());
        // What follows is not looked at, valid or not.
        let why = read("[1,2,3,4,rubbish").unwrap_err().to_string();
        assert!(why.contains("a list has more than 3 elements"), "{why}");
        assert!(read("{}").is_err_and(|why| why.to_string().contains("a list of at most 3 elements")));
    }
}

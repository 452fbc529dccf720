//! Which keys of two manifests have different values. Neither needs to be a valid manifest, only TOML.

use std::collections::BTreeSet;

use toml::{Table, Value};

/// Returns the keys whose values differ, in their order; those of a section as `limits.cpu`.
///
/// # Errors
/// One line, if one of the two is not TOML.
pub fn different_keys(one: &str, other: &str) -> Result<Vec<String>, String> {
    let read = |text: &str| text.parse::<Table>().map_err(|error| error.message().to_owned());
    let (one, other) = (read(one)?, read(other)?);
    let mut keys = Vec::new();
    for key in names(&one, &other) {
        match (one.get(key), other.get(key)) {
            (Some(Value::Table(one)), Some(Value::Table(other))) => {
                let differs = |name: &&String| one.get(*name) != other.get(*name);
                keys.extend(names(one, other).into_iter().filter(differs).map(|name| format!("{key}.{name}")));
            }
            (one, other) if one != other => keys.push(key.clone()),
            _ => {}
        }
    }
    Ok(keys)
}

fn names<'a>(one: &'a Table, other: &'a Table) -> BTreeSet<&'a String> {
    one.keys().chain(other.keys()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_other_values() {
        let of = |one: &str, other: &str| different_keys(one, other).unwrap().join(" ");
        assert_eq!(of("", "# a comment"), "");
        assert_eq!(of("rate = '9/s'", "rate = '9/s'\nenabled = true"), "enabled");
        assert_eq!(of("[limits]\ncpu = '1s'", "limits.cpu = '1s'"), "");
        assert_eq!(of("[limits]\ncpu = '1s'\nwall = '2s'", "limits = { cpu = '2s', wall = '2s' }"), "limits.cpu");
        assert_eq!(of("keyvalue = true", "keyvalue.keys = 3"), "keyvalue");
        assert_eq!(of("a = 1\nb = 1", "b = 2\nc = 1"), "a b c");
        assert!(different_keys("a = ", "").is_err_and(|why| !why.contains('\n')));
    }
}

//! Which keys of two manifests have different values. Neither needs to be a valid manifest, only TOML.
//!
//! A comparison tells its sender the other value when both are equal. So values that may be secrets are compared only for senders
//! that may read the manifest.

use std::collections::BTreeSet;

use toml::{Table, Value};
use toml_parser::Source;

/// The keys at any depth whose values may be secret: settings, and what requests have that a service trusts.
const SECRET: [&str; 7] = ["auth", "config", "env", "headers", "match", "rules", "schedule"];

/// The most tokens of a manifest that is compared: words, signs and spaces. A thousand routes with sections of their own have fewer.
/// A megabyte of `[],` is a million, and takes a hundred megabytes as values.
pub const MOST_TOKENS: usize = 50_000;

/// Which values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// All.
    All,
    /// All but those that may be secret. Of these, only the names are.
    NotSecret,
}

/// Returns the keys whose values differ, in their order; those of a section as `limits.cpu`.
///
/// # Errors
/// One line, if one of the two is not TOML, or has more than [`MOST_TOKENS`].
pub fn different_keys(one: &str, other: &str, compared: Compared) -> Result<Vec<String>, String> {
    let read = |text: &str| {
        if Source::new(text).lex().nth(MOST_TOKENS).is_some() {
            return Err(format!("it has more than {MOST_TOKENS} words and signs"));
        }
        let mut table = text.parse::<Table>().map_err(|error| error.message().to_owned())?;
        if compared == Compared::NotSecret {
            conceal_in(&mut table, false);
        }
        Ok::<_, String>(table)
    };
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

/// Makes all values alike that may be secret.
fn conceal_in(table: &mut Table, secret: bool) {
    for (key, value) in table.iter_mut() {
        conceal(value, secret || SECRET.contains(&key.as_str()));
    }
}

fn conceal(value: &mut Value, secret: bool) {
    match value {
        Value::Table(table) => conceal_in(table, secret),
        Value::Array(values) => values.iter_mut().for_each(|value| conceal(value, secret)),
        value if secret => *value = Value::Boolean(true),
        _ => {}
    }
}

fn names<'a>(one: &'a Table, other: &'a Table) -> BTreeSet<&'a String> {
    one.keys().chain(other.keys()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_other_values() {
        let of = |one: &str, other: &str| different_keys(one, other, Compared::All).unwrap().join(" ");
        assert_eq!(of("", "# a comment"), "");
        assert_eq!(of("rate = '9/s'", "rate = '9/s'\nenabled = true"), "enabled");
        assert_eq!(of("[limits]\ncpu = '1s'", "limits.cpu = '1s'"), "");
        assert_eq!(of("[limits]\ncpu = '1s'\nwall = '2s'", "limits = { cpu = '2s', wall = '2s' }"), "limits.cpu");
        assert_eq!(of("keyvalue = true", "keyvalue.keys = 3"), "keyvalue");
        assert_eq!(of("a = 1\nb = 1", "b = 2\nc = 1"), "a b c");
        assert!(different_keys("a = ", "", Compared::All).is_err_and(|why| !why.contains('\n')));
    }

    /// What is compared takes little memory, whatever the text is.
    #[test]
    fn few_tokens_are_parsed() {
        let routes = |many: usize| -> String {
            let route = "[[routes]]\npath = '/a'\nmethods = ['GET', 'POST']\nheaders = { request = { x = '1' } }\n";
            route.repeat(many)
        };
        assert_eq!(different_keys(&routes(1000), &routes(999), Compared::All).unwrap(), ["routes"]);
        let long = format!("a = '{}'", "[],".repeat(300_000));
        assert!(different_keys(&long, "", Compared::All).is_ok(), "a text is one token");
        for many in [
            format!("a = [{}]", "[],".repeat(300_000)),
            "a={}\n".repeat(100_000),
            "\n".repeat(1 << 20),
            "a.".repeat(500_000),
            "[".repeat(1 << 20),
            "\"\n".repeat(500_000),
        ] {
            for (one, other) in [(&*many, ""), ("", &*many)] {
                let why = different_keys(one, other, Compared::All).unwrap_err();
                assert!(why.contains("more than 50000 words and signs"), "{why}");
            }
        }
    }

    /// The comparison does not tell whether a guess at a secret is right, wherever it stands, and tells what else differs.
    #[test]
    fn secrets_are_not_guessed() {
        let of = |one: &str, other: &str| different_keys(one, other, Compared::NotSecret).unwrap().join(" ");
        for text in [
            "config.pin = '?'",
            "[env]\nTOKEN = '?'",
            "[headers]\nrequest = { authorization = '?' }",
            "routes = [{ path = '/a', headers = { request = { x = '?' } } }]",
            "match = ['cookie:beta=?']",
            "[schedule]\na = { body = '?', every = '1m' }",
            "rules = [{ when = '?', set = { x-key = '?' } }]",
            "auth = { claims = { tenant = '?' } }",
        ] {
            assert_eq!(of(&text.replace('?', "4711"), &text.replace('?', "1234")), "", "{text}");
        }
        assert_eq!(of("config.pin = '1'", "config.key = '1'"), "config.key config.pin");
        assert_eq!(of("config.a = 1\nrate = '1/s'", "config.a = 2\nrate = '2/s'"), "rate");
        assert_eq!(of("routes = ['/a']", "routes = ['/b']"), "routes");
    }
}

//! `[consume]`: the messages that a service receives. `publish`: the subjects that its guests may publish to.

use std::time::Duration;

use serde_json::json;

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::target;
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, duration, size, word};

/// The most subjects in a list.
const SUBJECTS: usize = 16;

/// The bounds of a subject, as of `lodge_state::messages`.
const SUBJECT_BYTES: usize = 255;
const SUBJECT_TOKENS: usize = 16;

/// The largest quota in messages and in bytes.
const MOST_MESSAGES: usize = 10_000_000;
const MOST_BYTES: usize = 1 << 40;

/// The longest pause before a message is delivered again.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// The syntax of a subject with wildcards, for messages.
const FORM: &str = "write subjects like \"orders.created\", \"orders.*\" or \"orders.>\"";

/// The keys with one value.
const KEYS: &[Key<Consume>] = &[
    Key {
        name: "path",
        default: "",
        help: "the path that messages are sent to with POST; /messages/SUBJECT without this key",
        set: |consume, text| {
            target::check(text, "/orders")?;
            consume.path = Some(text.to_owned());
            Ok(())
        },
    },
    Key {
        name: "concurrency",
        default: "8",
        help: "the messages that it works on at a time",
        set: |consume, text| count(text, 1..=1000).map(|concurrency| consume.concurrency = concurrency),
    },
    Key {
        name: "max_deliver",
        default: "10",
        help: "how often a message is delivered before it is dead",
        set: |consume, text| count(text, 1..=1000).map(|times| consume.max_deliver = times as u32),
    },
    Key {
        name: "pause",
        default: "1s",
        help: "the pause before a message is delivered again; it doubles with every delivery",
        set: |consume, text| {
            duration(text, Duration::from_millis(1)..=LONGEST_PAUSE).map(|pause| consume.pause = pause)
        },
    },
    Key {
        name: "max_pause",
        default: "5m",
        help: "the longest pause",
        set: |consume, text| {
            duration(text, Duration::from_millis(1)..=LONGEST_PAUSE).map(|pause| consume.max_pause = pause)
        },
    },
    Key {
        name: "dead_letter",
        default: "",
        help: "the subject that dead messages are published to; they are kept apart without this key",
        set: |consume, text| {
            if !is_subject(text, false) {
                return Err(format!("`{}` is not a subject; write it like \"orders.dead\"", text.escape_debug()));
            }
            consume.dead_letter = Some(text.to_owned());
            Ok(())
        },
    },
    Key {
        name: "messages",
        default: "100000",
        help: "the most messages that may wait for it",
        set: |consume, text| count(text, 1..=MOST_MESSAGES).map(|messages| consume.messages = messages as u64),
    },
    Key {
        name: "bytes",
        default: "64MiB",
        help: "the most bytes of all messages that may wait for it",
        set: |consume, text| size(text, 1024..=MOST_BYTES).map(|bytes| consume.bytes = bytes as u64),
    },
    Key {
        name: "at_most_once",
        default: "false",
        help: "its messages are those that NATS passes on without storing them",
        set: |consume, text| {
            word(text, &[("true", true), ("false", false)]).map(|unstored| consume.at_most_once = unstored)
        },
    },
];

/// `[consume]`.
pub(crate) const CONSUME: Section = Section {
    name: "consume",
    page: "messages",
    schema: || {
        let mut table = schema::settings(KEYS, &blank(), &["subject"]);
        let help = "the subjects whose messages it receives, one or a list; `*` stands for one token, `>` for the rest";
        schema::add(&mut table, "subject", schema::described(schema::texts(json!({ "type": "string" })), help));
        table
    },
    owner: Owner::Service(|manifest, written, problems| manifest.consume = read(written, problems)),
    subject: Subject::Service,
    view: Some(View {
        label: "consumes",
        value: |manifest| {
            let consume = manifest.consume.as_ref()?;
            let time = |value: Duration| humantime::format_duration(value).to_string();
            let mut keys = json!({
                "subject": consume.subjects,
                "path": consume.path.as_deref().unwrap_or("/messages/SUBJECT"),
                "concurrency": consume.concurrency,
                "max_deliver": consume.max_deliver,
                "pause": time(consume.pause),
                "max_pause": time(consume.max_pause),
                "messages": consume.messages,
                "bytes": bytesize::ByteSize(consume.bytes).display().iec().to_string(),
                "at_most_once": consume.at_most_once,
            });
            if let (Some(to), Some(keys)) = (&consume.dead_letter, keys.as_object_mut()) {
                keys.insert("dead_letter".into(), to.as_str().into());
            }
            Some(keys)
        },
        text: in_words,
    }),
    capability: None,
};

/// `publish`.
pub(crate) const PUBLISH: Section = Section {
    name: "publish",
    page: "messages",
    schema: || {
        let help =
            "the subjects that its guests may publish to, one or a list; `*` stands for one token, `>` for the rest";
        schema::described(schema::texts(json!({ "type": "string" })), help)
    },
    owner: Owner::All(|manifest, written, problems| {
        manifest.publish = problems.take(subjects(written)).unwrap_or_default();
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "may publish",
        value: |manifest| Some(manifest.publish.clone()).filter(|subjects| !subjects.is_empty()).map(Into::into),
        text: words,
    }),
    capability: Some(&Capability {
        what: "messages",
        interfaces: &["wasmcloud:messaging/"],
        given: "imported; denied except the subjects that `publish` of its manifest lists",
        grant: Some("# publish = [\"orders.*\"]\n"),
    }),
};

/// The messages that a service receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// The subjects, with wildcards.
    pub subjects: Vec<String>,
    /// The path of requests with messages; `None` for one that is made of the subject.
    pub path: Option<String>,
    /// Messages at a time.
    pub concurrency: usize,
    /// Deliveries of a message before it is dead.
    pub max_deliver: u32,
    /// The first pause before a message is delivered again.
    pub pause: Duration,
    /// The longest pause.
    pub max_pause: Duration,
    /// The subject of dead messages.
    pub dead_letter: Option<String>,
    /// The most messages that may wait.
    pub messages: u64,
    /// The most bytes that may wait.
    pub bytes: u64,
    /// Whether its messages are those that the server does not store.
    pub at_most_once: bool,
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Consume {
    Consume {
        subjects: Vec::new(),
        path: None,
        concurrency: 0,
        max_deliver: 0,
        pause: Duration::ZERO,
        max_pause: Duration::ZERO,
        dead_letter: None,
        messages: 0,
        bytes: 0,
        at_most_once: false,
    }
}

/// Whether this is a subject, or one with `wildcards`: as `lodge_state::messages` defines them.
fn is_subject(text: &str, wildcards: bool) -> bool {
    let count = text.split('.').count();
    let token = |(place, token): (usize, &str)| {
        let wild = wildcards && (token == "*" || (token == ">" && place + 1 == count));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        wild || (!token.is_empty() && token.bytes().all(plain))
    };
    text.len() <= SUBJECT_BYTES && count <= SUBJECT_TOKENS && text.split('.').enumerate().all(token)
}

/// Reads one subject or a list of them.
fn subjects(written: &Written<'_>) -> Result<Vec<String>, String> {
    let items = written.items("[\"orders.created\", \"orders.*\"]")?;
    if items.len() > SUBJECTS {
        return Err(written.error(format!("{} subjects are more than {SUBJECTS}; use a wildcard", items.len())));
    }
    let subject = |item: &Written<'_>| {
        let text = item.string(FORM)?;
        let wrong = || item.error(format!("`{}` is not a subject; {FORM}", text.escape_debug()));
        if is_subject(text, true) { Ok(text.to_owned()) } else { Err(wrong()) }
    };
    items.iter().map(subject).collect()
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Consume> {
    let Some(keys) = written.table() else {
        problems.push(written.error("write a section [consume] with `subject`"));
        return None;
    };
    let (mut consume, mut sound) = (with_defaults(KEYS, blank()), true);
    for key in keys {
        let set = if key.inside(written) == "subject" {
            subjects(&key).map(|subjects| consume.subjects = subjects)
        } else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["subject"]).collect();
            match known.contains(&key.inside(written)) {
                true => key.set("consume", KEYS, &mut consume),
                false => Err(key.unknown("consume", &known)),
            }
        };
        sound &= problems.take(set).is_some();
    }
    if sound && consume.subjects.is_empty() {
        problems.push(written.at(format!("consume.subject is missing; {FORM}")));
        return None;
    }
    if consume.dead_letter.as_ref().is_some_and(|dead| consume.subjects.iter().any(|subject| matches(subject, dead))) {
        problems.push(written.at("consume.dead_letter is one of its own subjects, so a dead message would come back"));
        return None;
    }
    if consume.at_most_once {
        for key in ["max_deliver", "dead_letter"] {
            if written.has(key) {
                problems.push(
                    written.at(format!("consume.{key} has no meaning beside at_most_once: leave one of them out")),
                );
                return None;
            }
        }
        consume.max_deliver = 1;
    }
    consume.max_pause = consume.max_pause.max(consume.pause);
    sound.then_some(consume)
}

/// Whether a pattern has this subject.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for token in pattern.split('.') {
        match (token, tokens.next()) {
            (_, None) => return false,
            (">", _) => return true,
            (token, Some(other)) if token != "*" && token != other => return false,
            _ => {}
        }
    }
    tokens.next().is_none()
}

/// Whether some subject matches both patterns.
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        return match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => continue,
            _ => false,
        };
    }
}

/// The value of the view in words: the subjects, then the keys in the order of the manifest's page.
fn in_words(view: &serde_json::Value) -> String {
    let Some(keys) = view.as_object() else { return words(view) };
    let text = |name: &str| Some(format!("{name} {}", words(keys.get(name)?)));
    let subject = keys.get("subject").map(words);
    subject.into_iter().chain(KEYS.iter().filter_map(|key| text(key.name))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let consume = |text: &str| manifest(text).map(|manifest| manifest.consume);
        let usual = Consume {
            subjects: vec!["orders.*".into()],
            path: None,
            concurrency: 8,
            max_deliver: 10,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(300),
            dead_letter: None,
            messages: 100_000,
            bytes: 64 << 20,
            at_most_once: false,
        };
        assert_eq!(consume(""), Ok(None));
        assert_eq!(consume("[consume]\nsubject = 'orders.*'"), Ok(Some(usual.clone())));
        let more = Consume {
            subjects: vec!["a".into(), "b.>".into()],
            path: Some("/in?x=1".into()),
            concurrency: 2,
            max_deliver: 3,
            pause: Duration::from_secs(600),
            max_pause: Duration::from_secs(600),
            dead_letter: Some("c".into()),
            ..usual
        };
        let text = "[consume]\nsubject = ['a', 'b.>']\npath = '/in?x=1'\nconcurrency = 2\nmax_deliver = 3\n\
                    pause = '10m'\ndead_letter = 'c'";
        assert_eq!(consume(text), Ok(Some(more)));
        assert_eq!(manifest("publish = 'a.*'").unwrap().publish, ["a.*"]);
        assert_eq!(manifest("publish = ['a', '>']").unwrap().publish, ["a", ">"]);
    }

    #[test]
    fn its_view_has_every_key() {
        let manifest = manifest("[consume]\nsubject = 'a'\npause = '90s'\ndead_letter = 'b'").unwrap();
        let view = (CONSUME.view.as_ref().unwrap().value)(&manifest).unwrap();
        let keys: Vec<_> = KEYS.iter().map(|key| key.name).chain(["subject"]).collect();
        assert!(keys.iter().all(|key| view[key] != json!(null)), "{view}");
        let of = |key: &str| view[key].to_string();
        let text = in_words(&view);
        assert!(text.starts_with("a, path /messages/SUBJECT, concurrency 8, max_deliver 10, pause 1m 30s"), "{text}");
        assert_eq!([of("pause"), of("bytes"), of("max_deliver")], ["\"1m 30s\"", "\"64.0 MiB\"", "10"]);
    }

    #[test]
    fn patterns_overlap() {
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "*.b", true),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "*.*", true),
            (">", "a", true),
            ("a.b", "a.*.c", false),
            ("a.*.>", "a.b", false),
            ("a.*.>", "a.>", true),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert!(problem("consume = true").starts_with("line 1: consume: write a section [consume]"));
        assert!(problem("[consume]\npath = '/a'").contains("consume.subject is missing"));
        assert!(problem("[consume]\nsubject = 'a b'").contains("line 2: consume.subject: `a b` is not a subject"));
        assert!(problem("[consume]\nsubject = '>.a'").contains("is not a subject"));
        assert!(problem("[consume]\nsubjects = 'a'").contains("did you mean `consume.subject`?"));
        assert!(problem("[consume]\nsubject = 'a'\npath = 'a'").contains("line 3: consume.path: `a` is not a path"));
        assert!(problem("[consume]\nsubject = 'a'\nconcurrency = 0").contains("between 1 and"));
        let own = "[consume]\nsubject = 'a.>'\ndead_letter = 'a.dead'";
        assert!(problem(own).contains("one of its own subjects"), "{}", problem(own));
        assert!(problem("publish = 'a..b'").contains("line 1: publish: `a..b` is not a subject"));
    }
}

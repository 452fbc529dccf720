use super::*;

const BOUNDS: JsonBounds = JsonBounds { depth: 4, values: 10 };

fn cause(text: &[u8]) -> Option<JsonCause> {
    Json::read(text, BOUNDS).err().map(|fault| fault.cause)
}

/// Texts that some readers take, or take for different values.
#[test]
fn doubtful_texts_are_not_read() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "'a'",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e999",
        "-1e999",
        "0x10",
        "NaN",
        "Infinity",
        "nul",
        "true false",
        "1 2",
        "{} {}",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\x41\"",
        "\"a\nb\"",
        "\"\t\"",
        "\u{feff}1",
        "// no\n1",
        "[1 2]",
        "{\"a\" 1}",
        "{1:2}",
        "\"a",
        "[\u{b}1]",
    ] {
        let found = cause(text.as_bytes());
        assert!(matches!(found, Some(JsonCause::Syntax | JsonCause::End)), "{text}: {found:?}");
    }
    assert_eq!(cause(b"\"\xff\""), Some(JsonCause::Syntax));
    assert_eq!(cause(b"{\"\xff\":1}"), Some(JsonCause::Syntax));
    for text in ["{\"a\":1,\"a\":1}", "{\"a\":1,\"b\":2,\"\\u0061\":3}", "[{\"\":1,\"\":2}]"] {
        assert_eq!(cause(text.as_bytes()), Some(JsonCause::Duplicate), "{text}");
    }
}

#[test]
fn what_is_large_is_not_read() {
    for (text, expected) in [
        ("[[[[]]]]", None),
        ("[[[[[]]]]]", Some(JsonCause::Depth(4))),
        ("[[[{\"a\":{}}]]]", Some(JsonCause::Depth(4))),
        ("[1,2,3,4,5,6,7,8,9]", None),
        ("[1,2,3,4,5,6,7,8,9,0]", Some(JsonCause::Values(10))),
        ("{\"a\":[1,2,3,4,5,6,7,8,9]}", Some(JsonCause::Values(10))),
    ] {
        assert_eq!(cause(text.as_bytes()), expected, "{text}");
    }
    // Before the stack is used up.
    let deep = "[".repeat(1 << 20);
    let bounds = JsonBounds { depth: 64, values: usize::MAX };
    assert_eq!(Json::read(deep.as_bytes(), bounds).unwrap_err().cause, JsonCause::Depth(64));
}

#[test]
fn faults_have_a_place() {
    let fault = Json::read(b"{\n \"a\": tru }", BOUNDS).unwrap_err();
    assert_eq!(fault.to_string(), "line 2, column 10: it is not JSON from here on");
    for text in ["{\"a\": [1,\n", "{\n\"a\": \"b", "\n", "tru"] {
        let fault = Json::read(text.as_bytes(), BOUNDS).unwrap_err().to_string();
        let line = text.matches('\n').count() + 1;
        assert_eq!(fault, format!("line {line}: it ends here, before it is complete"), "{text}");
    }
}

#[test]
fn equal_values_are_equal() {
    let read = |text: &'static str| Json::read(text.as_bytes(), BOUNDS).unwrap();
    for (one, other) in
        [("1", "1.0"), ("{\"a\":1,\"b\":2}", "{\"b\":2.0,\"a\":1}"), ("\"\\u0061\"", "\"a\""), ("-0", "0")]
    {
        assert_eq!(read(one), read(other));
        assert_eq!(read(one).cmp(&read(other)), Ordering::Equal);
    }
    for (one, other) in [("1", "true"), ("0", "false"), ("null", "0"), ("[1]", "1"), ("\"1\"", "1"), ("{}", "[]")] {
        assert_ne!(read(one), read(other));
    }
}

/// In objects of any size and order, each key is found and no other, and a key that is there twice is noticed.
#[test]
fn keys_are_found() {
    let bounds = JsonBounds { depth: 2, values: 100 };
    for size in 0..3 * FEW {
        for order in [|at: usize, _: usize| at, |at, size| size - 1 - at, |at, size| at * 7 % size] {
            let keys: Vec<_> = (0..size).map(|at| order(at, size)).collect();
            let text = |keys: &[usize]| {
                let entries: Vec<_> = keys.iter().map(|key| format!("\"k{key}\":{key}")).collect();
                format!("{{{}}}", entries.join(","))
            };
            let is_once = keys.iter().collect::<std::collections::HashSet<_>>().len() == size;
            let read = Json::read(text(&keys).as_bytes(), bounds).is_ok();
            assert_eq!(read, is_once, "{keys:?}");
            let all: Vec<_> = (0..size).collect();
            let text = text(&all);
            let object = Json::read(text.as_bytes(), bounds).unwrap();
            for key in 0..size {
                assert_eq!(object.get(&format!("k{key}")), Some(&Json::Number((key as u64).into())), "{size}");
                assert_eq!(object.get(&format!("k{key}x")), None, "{size}");
            }
        }
    }
}

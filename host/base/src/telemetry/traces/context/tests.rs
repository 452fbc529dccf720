use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let mut lines: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    lines.sort();
    lines
}

fn of(lines: &[(&str, &str)]) -> Option<Context> {
    extract(&headers(lines))
}

fn w3c(flags: u8) -> Context {
    let (trace_id, parent) = (0x4bf92f3577b34da6a3ce929d0e0e4736, 0x00f067aa0ba902b7);
    Context { trace_id, parent, flags, deferred: false, state: None, form: Form::W3C }
}

/// The cases of the W3C specification and of its test suite.
#[test]
fn traceparents() {
    let check = |text: &str, expected: Option<Context>| assert_eq!(of(&[("traceparent", text)]), expected, "{text}");
    let ids = format!("{TRACE}-{SPAN}");
    check(&format!("00-{ids}-01"), Some(w3c(1)));
    check(&format!("00-{ids}-00"), Some(w3c(0)));
    check(&format!("00-{ids}-03"), Some(w3c(3)));
    // Undefined flags are not propagated.
    check(&format!("00-{ids}-ff"), Some(w3c(3)));
    // A later version is read like this one, and further fields are ignored.
    check(&format!("cc-{ids}-01"), Some(w3c(1)));
    check(&format!("cc-{ids}-01-what-the-future-will-be-like"), Some(w3c(1)));
    for wrong in [
        format!("cc-{ids}-01.what-the-future-will-not-be-like"),
        format!("ff-{ids}-01"),
        format!("00-{ids}-01-"),
        format!("00-{ids}-01-more"),
        format!("00-{ids}-0"),
        format!("00-{ids}-001"),
        format!("00-{ids}-.1"),
        format!("00-{ids}"),
        format!("0-{ids}-01"),
        format!("000-{ids}-01"),
        format!(".0-{ids}-01"),
        format!("0x-{ids}-01"),
        format!("00-{}-01", ids.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-.{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}0-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}-{SPAN}0-01"),
        format!("00-{TRACE}-{}-01", &SPAN[1..]),
        format!("00-{TRACE}-.{}-01", &SPAN[1..]),
        format!(" 00-{ids}-01"),
        format!("00 {ids} 01"),
        String::new(),
    ] {
        check(&wrong, None);
    }
    let twice = format!("00-{ids}-01");
    assert_eq!(of(&[("traceparent", &twice), ("traceparent", &twice)]), None);
}

#[test]
fn tracestates() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let state = |lines: &[&str]| {
        let mut all = vec![("traceparent", parent.as_str())];
        all.extend(lines.iter().map(|line| ("tracestate", *line)));
        of(&all).unwrap().state.map(|state| state.to_str().unwrap().to_owned())
    };
    for good in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b=2 ,,c=3", "0a@v=x", "t-_*/@s= spaced out!"] {
        assert_eq!(state(&[good]).as_deref(), Some(good));
    }
    assert_eq!(state(&["a=1", "b=2", "c=3"]).as_deref(), Some("a=1,b=2,c=3"));
    for bad in ["", ",", "a", "a=", "=1", "A=1", "a=1=2", "a =1", "a=\u{e9}", "-a=1", "a=1,b"] {
        assert_eq!(state(&[bad]), None, "{bad}");
    }
    let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert!(state(&[&members(32)]).is_some());
    assert_eq!(state(&[&members(33)]), None);
    let long = |bytes: usize| format!("a={},b={}", "x".repeat(250), "x".repeat(bytes - 255));
    assert_eq!(long(500).len(), 500);
    assert!(state(&[&long(500)]).is_some());
    assert_eq!(state(&[&members(30), &long(500)]), None);
    assert_eq!(state(&[&format!("a={}", "x".repeat(257))]), None);
    // Without a traceparent it is ignored.
    assert_eq!(of(&[("tracestate", "a=1")]), None);
    let b3 = format!("{TRACE}-{SPAN}-1");
    assert_eq!(of(&[("b3", &b3), ("tracestate", "a=1")]).unwrap().state, None);
}

#[test]
fn b3_in_one_header() {
    let check = |text: &str, expected: Option<Context>| assert_eq!(of(&[("b3", text)]), expected, "{text}");
    let is = |flags| Some(Context { form: Form::B3Single, ..w3c(flags) });
    let ids = format!("{TRACE}-{SPAN}");
    check(&format!("{ids}-1"), is(1));
    check(&format!("{ids}-d"), is(1));
    check(&format!("{ids}-0"), is(0));
    check(&format!("{ids}-1-{SPAN}"), is(1));
    check(&ids, Some(Context { deferred: true, ..is(0).unwrap() }));
    let short = Context { trace_id: 0xa3ce929d0e0e4736, ..is(1).unwrap() };
    check(&format!("{}-{SPAN}-1", &TRACE[16..]), Some(short));
    let decided = |flags| Some(Context { trace_id: 0, parent: 0, ..is(flags).unwrap() });
    check("0", decided(0));
    check("1", decided(1));
    check("d", decided(1));
    for wrong in [
        "",
        "2",
        "x",
        "-",
        TRACE,
        &format!("{ids}-"),
        &format!("{ids}-2"),
        &format!("{ids}-1-"),
        &format!("{ids}-1-{SPAN}-1"),
        &format!("{ids}-1-zz"),
        &format!("{}-{SPAN}-1", "0".repeat(32)),
        &format!("{TRACE}-{}-1", "0".repeat(16)),
        &format!("{}-{SPAN}-1", &TRACE[1..]),
    ] {
        check(wrong, None);
    }
}

#[test]
fn b3_in_many_headers() {
    let with = |more: &[(&str, &str)]| {
        let mut all = vec![("x-b3-traceid", TRACE), ("X-B3-SpanId", SPAN), ("x-b3-parentspanid", "00000000000000ff")];
        all.extend(more);
        of(&all)
    };
    let is = |flags| Some(Context { form: Form::B3Multi, ..w3c(flags) });
    for (said, flags) in [("1", 1), ("true", 1), ("0", 0), ("false", 0)] {
        assert_eq!(with(&[("x-b3-sampled", said)]), is(flags));
    }
    assert_eq!(with(&[("x-b3-flags", "1")]), is(1));
    assert_eq!(with(&[]), Some(Context { deferred: true, ..is(0).unwrap() }));
    assert_eq!(with(&[("x-b3-sampled", "perhaps")]), None);
    assert_eq!(of(&[("x-b3-sampled", "0")]), Some(Context { trace_id: 0, parent: 0, ..is(0).unwrap() }));
    assert_eq!(of(&[("x-b3-traceid", TRACE)]), None);
    assert_eq!(of(&[("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]), None);
}

/// The guest always gets a traceparent, B3 in the format of the caller, and no header of another span.
#[test]
fn injected() {
    let given = |lines_in: &[(&str, &str)]| {
        let mut headers = headers(lines_in);
        extract(&headers).unwrap().inject(&mut headers, 0xabc);
        lines(&headers)
    };
    let own = |more: &[(&str, &str)]| {
        let mut all = vec![("traceparent".to_owned(), format!("00-{TRACE}-0000000000000abc-01"))];
        all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all.sort();
        all
    };
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let single = format!("{TRACE}-{SPAN}-d-{SPAN}");
    assert_eq!(given(&[("traceparent", &parent)]), own(&[]));
    assert_eq!(given(&[("traceparent", &parent), ("tracestate", "a=1")]), own(&[("tracestate", "a=1")]));
    assert_eq!(given(&[("traceparent", &parent), ("tracestate", "A=1")]), own(&[]));
    let b3 = ("b3", &*format!("{TRACE}-0000000000000abc-1"));
    assert_eq!(given(&[("b3", &single), ("tracestate", "a=1")]), own(&[b3]));
    assert_eq!(given(&[("b3", &single), ("traceparent", &parent)]), own(&[b3]));
    assert_eq!(given(&[("b3", "nonsense"), ("traceparent", &parent), ("x-b3-spanid", "1")]), own(&[b3]));
    let multi = [
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", SPAN),
        ("x-b3-sampled", "1"),
        ("x-b3-flags", "1"),
    ];
    let expected = [("x-b3-traceid", TRACE), ("x-b3-spanid", "0000000000000abc"), ("x-b3-sampled", "1")];
    assert_eq!(given(&multi), own(&expected));
}

fn contexts() -> impl Strategy<Value = Context> {
    let form = prop_oneof![Just(Form::W3C), Just(Form::B3Single), Just(Form::B3Multi)];
    let state =
        proptest::option::of("[a-z0-9][a-z0-9_*/@-]{0,20}=[!-+.-<>-~]{1,20}(,[a-z]{1,9}=[ -+.-<>-~]{0,9}x){0,3}");
    (1..u128::MAX, 1..u64::MAX, 0..4u8, state, form).prop_map(|(trace_id, parent, flags, state, form)| {
        let state = state.map(|state| HeaderValue::from_str(&state).unwrap());
        Context { trace_id, parent, flags, deferred: false, state, form }
    })
}

proptest! {
    #[test]
    fn contexts_survive_writing_and_reading(context in contexts(), span in 1..u64::MAX) {
        let mut headers = HeaderMap::new();
        context.inject(&mut headers, span);
        prop_assert_eq!(extract(&headers), Some(Context { parent: span, ..context }));
    }

    /// The B3 headers alone give the same context, except for what only W3C can express.
    #[test]
    fn b3_forms_agree(context in contexts(), span in 1..u64::MAX) {
        prop_assume!(context.form != Form::W3C);
        let mut headers = HeaderMap::new();
        context.inject(&mut headers, span);
        headers.remove("traceparent");
        let flags = context.flags & RECORDED;
        prop_assert_eq!(extract(&headers), Some(Context { parent: span, flags, state: None, ..context }));
    }

    /// No input panics, and accepted ids are never zero.
    #[test]
    fn never_panics(lines in proptest::collection::vec((0..8usize, "[0-9a-f-]{0,60}|[ -~]{0,60}|[01d]|[0-9a-f]{32}-[0-9a-f]{16}(-[01d])?"), 0..9)) {
        let names = ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "x"];
        let mut map = HeaderMap::new();
        for (name, value) in &lines {
            map.append(names[*name], HeaderValue::from_str(value).unwrap());
        }
        if let Some(context) = extract(&map) {
            prop_assert_eq!(context.trace_id == 0, context.parent == 0);
            context.inject(&mut map, 1);
        }
    }
}

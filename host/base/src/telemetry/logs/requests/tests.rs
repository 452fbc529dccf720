use http::header;

use super::*;
use crate::config::{Origin, Source, resolve};
use crate::telemetry::logs::writer::Style;

fn requests(settings: &[(&str, &str)]) -> RequestLog {
    let said: Source = settings.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let config = resolve(&[(Origin::Flag, said)]).unwrap().config;
    RequestLog::new(&config, Writer::new(None, Style::Plain).0, Arc::default())
}

const PHASES: &[(&str, Duration)] = &[("queue", Duration::from_micros(1)), ("guest", Duration::from_micros(250))];

fn told<'a>(target: &'a PathAndQuery, headers: &'a [(HeaderName, String)]) -> RequestLine<'a> {
    RequestLine {
        began: SystemTime::UNIX_EPOCH,
        request_id: "id",
        service: "users",
        version: None,
        method: &Method::GET,
        target: Some(target),
        client: IpAddr::from([127, 0, 0, 1]),
        subject: None,
        status: Some(StatusCode::OK),
        reason: None,
        phases: PHASES,
        took: Duration::from_micros(300),
        received: Some(3),
        sent: 12,
        trace_id: Some(0xabc),
        headers,
    }
}

#[test]
fn a_line_is_one_json_object() {
    let target: PathAndQuery = "/users?q=%22,%22status%22:500".parse().unwrap();
    let hostile = [(header::USER_AGENT, "\",\"status\":500}\n{\"forged\":true}\u{1b}[31m".to_owned())];
    let text = String::from_utf8(json(&told(&target, &hostile), target.as_str())).unwrap();
    assert_eq!(text.lines().count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["status"], &line["ms"], &line["guest_ms"]), (&200.into(), &0.3.into(), &0.25.into()));
    assert_eq!(line["header_user-agent"], hostile[0].1);
    assert_eq!(line["trace_id"], format!("{:032x}", 0xabc));
    let text = String::from_utf8(plain(&told(&target, &hostile), target.as_str())).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn times_are_milliseconds() {
    for (micros, shown) in
        [(0, "0.000"), (7, "0.007"), (42, "0.042"), (999, "0.999"), (1_000, "1.000"), (61_000_010, "61000.010")]
    {
        let mut text = Text(Vec::new());
        text.ms(Duration::from_micros(micros));
        assert_eq!(text.0, shown.as_bytes());
    }
}

/// The names of common secrets are masked by default.
#[test]
fn secrets_are_masked() {
    let requests = requests(&[("log_headers", "authorization,referer,accept")]);
    let shown = |target: &str| requests.target(Some(&target.parse().unwrap())).into_owned();
    for name in ["token", "refresh_token", "id_token", "client_secret", "assertion", "client_assertion", "tok%65n"] {
        assert_eq!(shown(&format!("/a?{name}=s&b=2")), format!("/a?{name}=***&b=2"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", "Bearer s"), ("referer", "/?code=s"), ("accept", "*/*"), ("cookie", "s")] {
        headers.insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let shown = requests.chosen(&headers);
    let shown: Vec<_> = shown.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(shown, [("authorization", "***"), ("referer", "/?code=***"), ("accept", "*/*")]);
}

/// With `log_requests` off, followers get a bounded number of lines per second.
#[test]
fn followed_lines_are_bounded() {
    let requests = requests(&[]);
    assert!(!requests.wanted());
    let _follower = requests.tail.follow();
    assert!(requests.wanted());
    let second = |n| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
    let in_second = |n| (0..10 * FOLLOWED).filter(|_| requests.may_tell(second(n))).count() as u64;
    assert_eq!([in_second(1), in_second(2)], [FOLLOWED, FOLLOWED]);
}

//! Validation of bodies on the path of a request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use wasmtime_wasi_http::Error;

use super::fixture::{Fixture, call, get, until, with_body};
use crate::request::mirror::AnyBody;

/// A host with a service whose bodies have at most 64 bytes, of objects with a name.
async fn host(more: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("schema.json");
    let schema = r#"{"type":"object","required":["name"],"properties":{"name":{"type":"string","maxLength":8}}}"#;
    std::fs::write(&file, schema).unwrap();
    let validate = format!("validate = {{ body = '{}', size = '64B' }}", file.display());
    let text =
        format!("cache = true\nroutes = ['/users', {{ path = '/users/any', validate = false }}]\n{validate}\n{more}");
    Fixture::with(&[("users", &text)]).await
}

fn post(path: &str, body: &'static str) -> Request<AnyBody> {
    let request = Request::post(format!("http://test{path}")).header(header::CONTENT_TYPE, "application/json");
    with_body(request.body(()).unwrap(), body)
}

/// A body that the client sends in these pieces, and then no more.
fn fed(pieces: &[&'static str], ends: bool) -> AnyBody {
    Fed(pieces.iter().copied().collect(), ends).boxed_unsync()
}

struct Fed(VecDeque<&'static str>, bool);

impl Body for Fed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.0.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            None if self.1 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// What is passed on gets `no-replica`, since the service has none.
const PASSED: &str = "no-replica";

#[tokio::test]
async fn bodies_are_validated_before_the_cache() {
    let host =
        host("limits = { in_flight = 1, queue = 0 }\nrules = [{ when = '\"x-no\" in request.headers', deny = 418 }]")
            .await;
    host.store("http://test/users/1", "max-age=60", "stored").await;
    for (path, body, expected) in [
        ("/users", r#"{"name":"ada"}"#, (503, PASSED)),
        ("/users/1", r#"{"name":"ada","more":[1]}"#, (503, PASSED)),
        ("/users", r#"{"name":7}"#, (422, "body-invalid")),
        ("/users/./1", "[]", (422, "body-invalid")),
        ("/users", r#"{"name":"ada","name":7}"#, (400, "body-not-json")),
        ("/users", r#"{"name":"ada"} x"#, (400, "body-not-json")),
        ("/users", "", (400, "body-not-json")),
        ("/users", "  ", (400, "body-not-json")),
        (
            "/users",
            r#"{"name":"ada","more":"01234567890123456789012345678901234567890123456789"}"#,
            (413, "body-too-large"),
        ),
        ("/users/any", "no JSON", (503, PASSED)),
        // Spellings that a service may read as another route.
        ("/users/any/..%2f1", "no JSON", (400, "bad-request")),
        ("/users//any", "no JSON", (400, "bad-request")),
    ] {
        let reply = host.send(post(path, body)).await;
        assert_eq!((reply.status, reply.text.as_str()), expected, "{path} {body}");
    }
    // Only what is valid needs a slot, or counts against a breaker.
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    assert_eq!(host.send(post("/users", "[]")).await.text, "body-invalid");
    assert_eq!(host.send(post("/users", r#"{"name":"ada"}"#)).await.text, "queue-full");
    assert_eq!(host.send(get("http://test/users/1")).await.text, "stored", "a request without a body is not validated");
    let reply = host.send(with_body(Request::get("http://test/users/1").body(()).unwrap(), "x")).await;
    assert_eq!((reply.status, reply.text.as_str()), (415, "body-type"));
    assert_eq!(reply.headers[header::ACCEPT], "application/json");
    let mut coded = post("/users", "x");
    coded.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
    let reply = host.send(coded).await;
    assert_eq!((reply.status, &reply.headers[header::ACCEPT_ENCODING]), (415, &"identity".parse().unwrap()));
    let mut denied = post("/users", "[]");
    denied.headers_mut().insert("x-no", "1".parse().unwrap());
    assert_eq!(host.send(denied).await.status, 418, "rules come before");
    drop(held);
    // Calls of guests have what the service has; what the host sends itself is a message, and no body of the API.
    let mut of = call("users.localhost", 1, Instant::now() + Duration::from_secs(60));
    assert_eq!(host.call(&of, post("/users/any", "[]")).await.text, "body-invalid");
    of.from = None;
    assert_eq!(host.call(&of, post("/users", "[]")).await.text, PASSED);
    assert!(host.is_idle());
    assert_eq!(host.handler.validation.memory.used(), 0);
    let counted = host.refused("users");
    let count = |reason| counted.iter().find(|(name, _)| *name == reason).map(|(_, count)| *count);
    assert_eq!((count("body-invalid"), count("body-not-json"), count("body-type")), (Some(4), Some(4), Some(2)));
}

#[tokio::test]
async fn bodies_are_read_within_their_bounds() {
    let host = host("limits.wall = '100ms'").await;
    let send = async |body| {
        let (head, _) = post("/users", "").into_parts();
        host.send(Request::from_parts(head, body)).await.text
    };
    assert_eq!(send(fed(&[r#"{"na"#, "", r#"me":"ada"}"#], true)).await, PASSED);
    assert_eq!(send(fed(&[r#"{"na"#, r#"me":7}"#], true)).await, "body-invalid");
    assert_eq!(send(fed(&[r#"{"name":"#], false)).await, "body-late");
    // Without a length, and before the client has sent all of it.
    assert_eq!(send(fed(&["[0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5"; 4], false)).await, "body-too-large");
    assert_eq!(host.handler.validation.memory.used(), 0);
    let all = host.handler.validation.memory.reserve([192, 0, 2, 1].into(), 1 << 20).unwrap();
    assert_eq!(send(fed(&[r#"{"name":"ada"}"#], true)).await, "body-unchecked");
    drop(all);
    assert_eq!(send(fed(&[r#"{"name":"ada"}"#], true)).await, PASSED);
    let reading = host.open(Request::from_parts(post("/users", "").into_parts().0, fed(&["[1"], false)));
    tokio::select! {
        biased;
        _ = reading => panic!("it waits for more"),
        () = until(|| host.handler.validation.memory.used() > 0) => {}
    }
    assert_eq!(host.handler.validation.memory.used(), 0, "a client that leaves frees its memory");
}

/// Methods that have no meaning without a body are refused without one; others are not.
#[tokio::test]
async fn methods_expect_a_body_or_not() {
    let host = host("").await;
    for (method, expected) in [
        (Method::POST, "body-not-json"),
        (Method::PUT, "body-not-json"),
        (Method::PATCH, "body-not-json"),
        (Method::DELETE, PASSED),
        (Method::OPTIONS, PASSED),
    ] {
        let request = Request::builder().method(method.clone()).uri("http://test/users").body(()).unwrap();
        assert_eq!(host.send(with_body(request, "")).await.text, expected, "{method}");
        // Frames without bytes are no body either, and others are one.
        for (pieces, expected) in [(&[][..], expected), (&["", ""], expected), (&["", "{}"], "body-invalid")] {
            let typed = expected != PASSED;
            for kind in ["text/plain", "application/json"].into_iter().filter(|kind| !typed || *kind != "text/plain") {
                let request = Request::builder().method(method.clone()).uri("http://test/users");
                let request = request.header(header::CONTENT_TYPE, kind).body(()).unwrap();
                let (head, _) = with_body(request, "").into_parts();
                assert_eq!(
                    host.send(Request::from_parts(head, fed(pieces, true))).await.text,
                    expected,
                    "{method} {pieces:?} {kind}"
                );
            }
        }
        let request = Request::builder().method(method.clone()).uri("http://test/users");
        let (head, _) = with_body(request.body(()).unwrap(), "").into_parts();
        assert_eq!(host.send(Request::from_parts(head, fed(&["", "{}"], true))).await.text, "body-type", "{method}");
    }
}

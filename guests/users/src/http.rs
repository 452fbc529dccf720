//! Replies and problems over the types of wasi:http 0.2.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use crate::wasi::io::streams::StreamError;

/// The most bytes of a request body.
const MOST_BODY: usize = 64 << 10;

/// The media type of a merge patch (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// A response with its whole body.
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// A response that says what is wrong, as RFC 9457 has it: a status and a detail.
pub struct Problem(pub u16, pub String);

impl Reply {
    /// A response without content.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A response with a JSON value.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("plain structs serialise");
        Self { body, ..Self::empty(status) }.header("content-type", "application/json")
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Sends the response.
    pub fn send(self, outparam: ResponseOutparam) {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            fields.append(name, value.as_bytes()).expect("a valid header");
        }
        if self.status != 204 {
            fields.append("content-length", self.body.len().to_string().as_bytes()).expect("a valid header");
        }
        let response = OutgoingResponse::new(fields);
        response.set_status_code(self.status).expect("a valid status");
        let outgoing = response.body().expect("taken once");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = outgoing.write().expect("taken once");
        for chunk in self.body.chunks(4096) {
            stream.blocking_write_and_flush(chunk).expect("the client is there");
        }
        drop(stream);
        OutgoingBody::finish(outgoing, None).expect("the whole body was written");
    }
}

impl From<Problem> for Reply {
    fn from(Problem(status, detail): Problem) -> Self {
        let mut reply = Self::json(status, &serde_json::json!({ "status": status, "detail": detail }));
        reply.headers = vec![("content-type", "application/problem+json".into())];
        reply
    }
}

/// Returns a request header.
pub fn header(request: &IncomingRequest, name: &str) -> Option<String> {
    String::from_utf8(request.headers().get(name).pop()?).ok()
}

/// Whether a content type is that of a merge patch, whatever its parameters are.
pub fn is_merge_patch(kind: &str) -> bool {
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MERGE_PATCH)
}

/// Changes `target` as a merge patch says (RFC 7396): null removes a key, an object changes its keys, anything else replaces.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        match target.as_object_mut() {
            Some(target) if value.is_null() => drop(target.remove(&key)),
            Some(target) => merge(target.entry(key).or_insert(Value::Null), value),
            None => {}
        }
    }
}

/// Returns a parameter of a query, decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned())
}

/// Reads the whole request body.
pub fn body(request: IncomingRequest) -> Result<Vec<u8>, Problem> {
    let incoming = request.consume().expect("taken once");
    let stream = incoming.stream().expect("taken once");
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(16 << 10) {
            Ok(chunk) => body.extend(chunk),
            Err(StreamError::Closed) => return Ok(body),
            Err(StreamError::LastOperationFailed(_)) => return Err(Problem(400, "the body broke off".into())),
        }
        if body.len() > MOST_BODY {
            return Err(Problem(413, format!("the body has more than {MOST_BODY} bytes")));
        }
    }
}

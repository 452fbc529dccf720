//! The fuzz targets of validation.

use http::{HeaderMap, Method, Uri};

use super::api::Api;
use super::json::{Json, JsonBounds};
use super::schema::Schema;
use super::{BOUNDS, BodyPresence, ManifestChanges, RequestHead, STEPS, yaml};
use lodge_base::fuzz::line;

/// A schema on the first line and a body below it: both are read the same way twice, what is read of the body is JSON to another
/// reader as well, and the schema has the same result for it twice.
pub fn body(bytes: &[u8]) {
    let (text, body) = line(bytes);
    let read = Json::read(body, BOUNDS);
    assert_eq!(read, Json::read(body, BOUNDS));
    if let Ok(value) = &read {
        let wide = JsonBounds { depth: usize::MAX, values: usize::MAX };
        assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok());
        assert_eq!(Json::read(body, wide).as_ref(), Ok(value));
    }
    let (Ok(text), Ok(value)) = (std::str::from_utf8(text), read) else { return };
    let Ok(schema) = Schema::read(text) else { return };
    assert_eq!(schema.check(&value, STEPS), schema.check(&value, STEPS));
}

/// A document of OpenAPI on the first line and the target of a request below it: a mistake is one line, and the same request has the
/// same result twice.
pub fn api(bytes: &[u8]) {
    let (text, target) = line(bytes);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let api = match Api::read(text) {
        Ok(api) => api,
        Err(mistake) => return assert!(!mistake.contains('\n'), "{mistake}"),
    };
    let Ok(uri) = Uri::try_from(target) else { return };
    let headers = HeaderMap::new();
    let (changes, body) = (ManifestChanges::default(), BodyPresence::Absent);
    let head = RequestHead { method: &Method::GET, uri: &uri, headers: &headers, changes, body };
    let faults = || api.expected(uri.path(), &head, 1).err();
    assert_eq!(faults(), faults());
}

/// A document in YAML: a mistake is one line, and what is JSON as well has the same value.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match yaml::read(text, BOUNDS) {
        Err(mistake) => assert!(!mistake.contains('\n'), "{mistake}"),
        Ok(value) => {
            if let Ok(json) = Json::read(bytes, BOUNDS) {
                assert_eq!(value, json);
            }
        }
    }
}

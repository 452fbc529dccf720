//! The fuzz target of validation.

use super::json::{Json, JsonBounds};
use super::schema::Schema;
use super::{BOUNDS, STEPS};
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

//! A response with a file.

use std::time::Instant;

use http::{Response, response};

use super::streamed::Live;
use super::{Body, Exchange};
use crate::request::error::RequestError;
use lodge_traffic::admission::{Permit, Upload};
use lodge_traffic::static_files::{FileBody, FilesError};

/// Converts what a directory of files returned to a response, and records it in the permit.
///
/// # Errors
/// If there is no such file, or it cannot be read.
pub fn sending(
    mut permit: Permit,
    result: Result<(response::Parts, FileBody), FilesError>,
    exchange: &Exchange<'_>,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body) = result.map_err(|error| RequestError::from(error).recorded(&mut permit))?;
    permit.record_response(head.status, Upload::default(), Instant::now);
    permit.write_headers(&mut head.headers);
    let body = if exchange.is_bodiless(head.status) {
        Body::text(None)
    } else {
        exchange.send(&mut head, Live::File(Box::new(body)), permit)
    };
    Ok(Response::from_parts(head, body))
}

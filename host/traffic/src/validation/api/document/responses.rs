//! The responses of operations, by their statuses.

use std::sync::Arc;

use super::{DocumentPart, DocumentReader, Result, mistake};
use crate::validation::api::OperationResponse;
use crate::validation::api::response_status::ResponseStatus;

/// The most responses of an operation.
const MOST_RESPONSES: usize = 100;

impl<'d, 't> DocumentReader<'d, 't> {
    /// Returns the responses of an operation; none if they are not read.
    pub(super) fn responses(&mut self, operation: &DocumentPart<'d, 't>) -> Result<Vec<OperationResponse>> {
        let Some(all) = operation.get("responses").filter(|_| self.responses) else { return Ok(Vec::new()) };
        if all.len() > MOST_RESPONSES {
            return mistake(&all.place, format!("there are more than {MOST_RESPONSES} responses"));
        }
        let mut responses = Vec::new();
        for (key, part) in all.entries()?.filter(|(key, _)| !key.starts_with("x-")) {
            let Some(status) = ResponseStatus::read(key) else {
                return mistake(&part.place, "write a status such as 200, 2XX or default");
            };
            let part = self.followed(part)?;
            let body = if part.value.get("content").is_some() { Some(self.body(part)?) } else { None };
            responses.push(OperationResponse { status, body: body.filter(|body: &Arc<_>| !body.types.is_empty()) });
        }
        Ok(responses)
    }
}

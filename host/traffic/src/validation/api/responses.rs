//! What the responses to the requests of an operation have to be. Only `lodge dev` checks them, and changes none.

use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::{Api, ApiCheck, document, segments};
use crate::validation::{BodyContent, ExpectedBody, RequestCheck, RequestChecks};
use lodge_base::canonical;

/// The operations of an API, with their responses.
#[derive(Debug)]
pub(in crate::validation) struct ApiWithResponses(Api);

impl ApiWithResponses {
    /// Reads the text of a document.
    ///
    /// # Errors
    /// One line: what is wrong, and where.
    pub(in crate::validation) fn read(text: &str) -> Result<Self, String> {
        document::read(text, true).map(Self)
    }

    /// Returns what the body of a response has to be; `None` if that is not said.
    fn expected(
        &self,
        (method, path): (&Method, &str),
        (status, headers): (StatusCode, &HeaderMap),
        size: usize,
    ) -> Result<Option<ExpectedBody>, String> {
        let (segments, api) = (segments(path), &self.0);
        // Other requests do not reach the service.
        let path = api.paths.iter().find(|path| path.matches(&segments));
        let Some(operation) = path.and_then(|path| path.operation(method)) else { return Ok(None) };
        let fits = operation.responses.iter().filter(|response| response.status.contains(status));
        let Some(response) = fits.min_by_key(|response| response.status) else {
            let mut known: Vec<_> = operation.responses.iter().map(|response| response.status).collect();
            known.sort_unstable();
            let known: Vec<_> = known.iter().map(ToString::to_string).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(format!("the document has no response {}; it has {known}", status.as_u16()));
        };
        let Some(body) = &response.body else { return Ok(None) };
        if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let schema = body.schema(headers).map_err(|fault| fault.of_response())?;
        Ok(schema.map(|root| ExpectedBody { content: BodyContent::Json(api.schema(root)), required: true, size }))
    }
}

impl ApiCheck {
    fn response(
        &self,
        (method, path): (&Method, &str),
        response: (StatusCode, &HeaderMap),
    ) -> Result<Option<ExpectedBody>, String> {
        let Some(api) = &self.responses else { return Ok(None) };
        let path = canonical::only_reading(path);
        let below = path.as_deref().and_then(|path| path.strip_prefix(&*self.settings.base));
        let Some(below) = below.filter(|path| path.starts_with('/')) else { return Ok(None) };
        api.load().expected((method, below), response, self.settings.size)
    }
}

impl RequestChecks {
    /// Whether responses to requests on the route with this number are checked.
    pub fn checks_responses(&self, route: usize) -> bool {
        matches!(self.of_route(route), RequestCheck::Api(check) if check.responses.is_some())
    }

    /// Checks the head of a response to a request with this method and path. Returns what its body has to be; `None` if that is not said.
    ///
    /// # Errors
    /// One line: how the response differs from the document.
    pub fn response(
        &self,
        route: usize,
        request: (&Method, &str),
        response: (StatusCode, &HeaderMap),
    ) -> Result<Option<ExpectedBody>, String> {
        match self.of_route(route) {
            RequestCheck::Api(check) => check.response(request, response),
            RequestCheck::Any | RequestCheck::Body(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CONTENT_TYPE, HeaderValue};

    const API: &str = r##"
openapi: 3.1.0
paths:
  /orders/{id}:
    parameters: [{ name: id, in: path, required: true, schema: { type: string } }]
    get:
      responses:
        "200": { content: { application/json: { schema: { type: object, required: [id] } } } }
        "204": { description: gone }
        4XX: { content: { "text/*": {} } }
    delete:
      responses: { default: { $ref: "#/components/responses/Any" } }
components: { responses: { Any: { description: any } } }
"##;

    #[test]
    fn responses_are_those_of_the_document() {
        let api = ApiWithResponses::read(API).unwrap();
        let check = |method: Method, path: &str, status: u16, kind: &'static str, body: &str| {
            let mut headers = HeaderMap::new();
            if !kind.is_empty() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            let status = StatusCode::from_u16(status).unwrap();
            let expected = api.expected((&method, path), (status, &headers), 1_000)?;
            expected.map_or(Ok(()), |expected| expected.check(body.as_bytes()).map_err(|fault| fault.of_response()))
        };
        let json = "application/json";
        for (method, path, status, kind, body) in [
            (Method::GET, "/orders/1", 200, json, "{\"id\":1}"),
            (Method::GET, "/orders/1", 204, "", ""),
            (Method::GET, "/orders/1", 404, "text/plain", "no"),
            (Method::HEAD, "/orders/1", 200, "", ""),
            (Method::DELETE, "/orders/1", 500, "text/html", "x"),
            (Method::PUT, "/orders/1", 500, "", "it is no operation"),
            (Method::GET, "/other", 500, "", "nor is it a path"),
        ] {
            assert_eq!(check(method, path, status, kind, body), Ok(()), "{path} {status}");
        }
        for (status, kind, body, expected) in [
            (500, json, "{}", "the document has no response 500; it has 200, 204, 4XX"),
            (200, "text/html", "<p>", "the body is not of a type that the document has: "),
            (200, "", "", "the body is not of a type that the document has: "),
            (404, json, "{}", "the body is not of a type"),
            (200, json, "{}", "the body does not meet the schema: the body: "),
            (200, json, "{", "the body is not JSON: "),
            (200, json, "", "the body is missing"),
        ] {
            let told = check(Method::GET, "/orders/1", status, kind, body).unwrap_err();
            assert!(told.starts_with(expected), "{told}");
        }
    }
}

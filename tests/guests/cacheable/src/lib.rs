//! Responds with the status, headers, size and pace in its query. Every response begins with a unique number, so that a
//! test sees whether it is a new one.

use std::collections::HashMap;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::random::random::get_random_u64;

struct Guest;

wasip2::http::proxy::export!(Guest);

const MS: u64 = 1_000_000;

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let wanted: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let number = |name: &str| wanted.get(name).map_or(0, |value| value.parse::<u64>().unwrap());
        let asked =
            |name: &str| request.headers().get(name).first().map(|value| String::from_utf8_lossy(value).into_owned());
        subscribe_duration(number("wait") * MS).block();
        if asked("x-fail").is_some() {
            core::arch::wasm32::unreachable();
        }
        let fields = Fields::new();
        let set = |name: &str, value: &str| fields.append(name, value.as_bytes()).unwrap();
        // This header takes the place of the query, which would be another key of a cache.
        let lasting = asked("x-cache-control");
        lasting.iter().for_each(|value| set("cache-control", value));
        wanted
            .get("cache-control")
            .filter(|_| lasting.is_none())
            .into_iter()
            .for_each(|value| set("cache-control", value));
        for name in ["vary", "expires", "last-modified", "age", "set-cookie", "content-length"] {
            wanted.get(name).into_iter().for_each(|value| set(name, value));
        }
        // The response with this name meets any condition.
        let confirmed = asked("x-confirm");
        let etag = confirmed.clone().or_else(|| asked("x-etag")).or_else(|| wanted.get("etag").cloned());
        etag.iter().for_each(|etag| set("etag", etag));
        let condition = asked("if-none-match");
        set("x-condition", condition.as_deref().unwrap_or("none"));
        let unchanged = etag.is_some() && (condition == etag || (confirmed.is_some() && condition.is_some()));
        let status = if unchanged { 304 } else { wanted.get("status").map_or(200, |text| text.parse().unwrap()) };
        let response = OutgoingResponse::new(fields);
        response.set_status_code(status).unwrap();
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        if unchanged {
            return OutgoingBody::finish(body, None).unwrap();
        }
        let stream = body.write().unwrap();
        let text = format!("{:016x}{}", get_random_u64(), ".".repeat(number("size") as usize));
        let pause = number("pause");
        for chunk in text.as_bytes().chunks(if pause > 0 { 16 } else { 4096 }) {
            stream.blocking_write_and_flush(chunk).unwrap();
            if pause > 0 {
                subscribe_duration(pause * MS).block();
            }
        }
        if wanted.contains_key("break") {
            core::arch::wasm32::unreachable();
        }
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}

//! Does an operation on objects: `/SERVICE/OPERATION/CONTAINER/OBJECT?ARGUMENT`, encoded with `~` in the place of `%`, which the host
//! would read. Responds with the result as text or content, and with status 500 and the error if there is one.

use exports::wasi::http::incoming_handler::Guest;
use percent_encoding::percent_decode_str;
use wasi::blobstore::blobstore;
use wasi::blobstore::container::Container;
use wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};
use wasi::http::types::{Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasi::io::streams::{InputStream, OutputStream, StreamError};

wit_bindgen::generate!({
    path: "../../../wit",
    world: "lodge:service/service-with-objects",
    generate_all,
});

struct Blobs;

export!(Blobs);

enum Done {
    Text(String),
    Content(InputStream),
}

impl Guest for Blobs {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        // The first part is the name of the service.
        let mut parts = path.splitn(5, '/').skip(2).map(decoded);
        let [operation, container, object] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        let result = run(&operation, &container, &object, argument, &request);
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(if result.is_ok() { 200 } else { 500 }).unwrap();
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let to = body.write().unwrap();
        match result {
            Ok(Done::Content(from)) => copy(&from, &to).unwrap(),
            Ok(Done::Text(text)) | Err(text) => write(&to, text.as_bytes()).unwrap(),
        }
        drop(to);
        OutgoingBody::finish(body, None).unwrap();
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('~', "%")).decode_utf8().unwrap().into_owned()
}

fn write(to: &OutputStream, bytes: &[u8]) -> Result<(), String> {
    bytes.chunks(4096).try_for_each(|chunk| to.blocking_write_and_flush(chunk).map_err(|error| words(&error)))
}

fn words(error: &StreamError) -> String {
    match error {
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
        StreamError::Closed => "closed".into(),
    }
}

/// Copies a stream, whose error it returns if it breaks off.
fn copy(from: &InputStream, to: &OutputStream) -> Result<(), String> {
    loop {
        match from.blocking_read(1 << 16) {
            Ok(bytes) => write(to, &bytes)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(words(&error)),
        }
    }
}

fn value_with(content: impl FnOnce(&OutputStream) -> Result<(), String>) -> Result<OutgoingValue, String> {
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().map_err(|()| "no stream")?;
    assert!(value.outgoing_value_write_body().is_err(), "there are two streams");
    content(&stream)?;
    Ok(value)
}

fn open(container: &str, object: &str, argument: &str) -> Result<IncomingValue, String> {
    let (start, end) = argument.split_once('-').unwrap_or(("0", ""));
    let container = blobstore::get_container(container)?;
    container.get_data(object, start.parse().unwrap(), end.parse().unwrap_or(u64::MAX))
}

fn run(
    operation: &str,
    container: &str,
    object: &str,
    argument: &str,
    request: &IncomingRequest,
) -> Result<Done, String> {
    let body = |to: &OutputStream| {
        let body: IncomingBody = request.consume().unwrap();
        copy(&body.stream().unwrap(), to)
    };
    let get = || blobstore::get_container(container);
    let place = |container: &str, object: &str| ObjectId { container: container.into(), object: object.into() };
    let names = || object.split(',').map(str::to_owned).collect::<Vec<_>>();
    Ok(Done::Text(match operation {
        "create" => blobstore::create_container(container)?.name()?,
        "delete-container" => format!("{:?}", blobstore::delete_container(container)?),
        "exists" => blobstore::container_exists(container)?.to_string(),
        "clear" => format!("{:?}", get()?.clear()?),
        "info" => format!("{:?}", get()?.info()?),
        // The place is named before there is content, and the stream is open until after the end.
        "put" => {
            let (of, value) = (get()?, OutgoingValue::new_outgoing_value());
            let stream = value.outgoing_value_write_body().map_err(|()| "no stream")?;
            of.write_data(object, &value)?;
            body(&stream)?;
            OutgoingValue::finish(value)?;
            assert!(stream.blocking_write_and_flush(b"too late").is_err(), "the stream is open");
            "stored".into()
        }
        // The content is there before its place.
        "put-late" => {
            let value = value_with(body)?;
            let of = get()?;
            of.write_data(object, &value)?;
            assert!(of.write_data("second", &value).is_err(), "a value has two places");
            OutgoingValue::finish(value)?;
            "stored".into()
        }
        "put-empty" => {
            let value = OutgoingValue::new_outgoing_value();
            get()?.write_data(object, &value)?;
            OutgoingValue::finish(value)?;
            "stored".into()
        }
        "nowhere" => format!("{:?}", OutgoingValue::finish(value_with(body)?)?),
        // Everything but the end.
        "unfinished" | "trap" => {
            let value = value_with(body)?;
            get()?.write_data(object, &value)?;
            assert!(operation != "trap", "as asked for");
            "dropped".into()
        }
        // Streams for content until there is an error, which the end of that content gives; with as many containers besides.
        "hoard" => {
            let more: usize = argument.parse().unwrap();
            let (of, _containers) = (get()?, (0..more).map(|_| get()).collect::<Vec<_>>());
            let mut open = Vec::new();
            loop {
                let value = OutgoingValue::new_outgoing_value();
                of.write_data(object, &value)?;
                match value.outgoing_value_write_body() {
                    Ok(stream) => open.push((stream, value)),
                    Err(()) => break format!("{:?} {}", OutgoingValue::finish(value), of.has_object(object)?),
                }
            }
        }
        "get" => {
            return Ok(Done::Content(IncomingValue::incoming_value_consume_async(open(container, object, argument)?)?));
        }
        "size" => open(container, object, argument)?.size().to_string(),
        "whole" => {
            let bytes = IncomingValue::incoming_value_consume_sync(open(container, object, argument)?)?;
            format!("{} {}", bytes.len(), bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>())
        }
        "list" => list(&get()?, argument.parse().unwrap_or(u64::MAX))?,
        "skip" => {
            let listing = get()?.list_objects()?;
            let skipped = listing.skip_stream_object_names(argument.parse().unwrap())?;
            format!("{skipped:?} {}", listing.read_stream_object_names(u64::MAX)?.0.len())
        }
        "delete" => format!("{:?}", get()?.delete_object(object)?),
        "delete-many" => format!("{:?}", get()?.delete_objects(&names())?),
        "has" => get()?.has_object(object)?.to_string(),
        "object-info" => {
            let info = get()?.object_info(object)?;
            assert!(info.created_at > 1_700_000_000, "{}", info.created_at);
            format!("{} {} {}", info.container, info.name, info.size)
        }
        "copy" | "move" => {
            let to = decoded(argument);
            let (to, name) = to.split_once('/').unwrap();
            let (from, to) = (place(container, object), place(to, name));
            let run = if operation == "copy" { blobstore::copy_object } else { blobstore::move_object };
            format!("{:?}", run(&from, &to)?)
        }
        _ => return Err(format!("no operation: {operation}")),
    }))
}

/// All names, in pages of this length.
fn list(container: &Container, page: u64) -> Result<String, String> {
    let (listing, mut all) = (container.list_objects()?, Vec::new());
    loop {
        let (names, ended) = listing.read_stream_object_names(page)?;
        assert!(names.len() as u64 <= page, "a long page");
        all.extend(names);
        if ended {
            all.sort();
            return Ok(all.join(","));
        }
    }
}

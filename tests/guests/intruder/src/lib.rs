//! Tries to reach what belongs to another service: `/SERVICE/OPERATION?OTHER`. `plant` keeps values of its own, and `search` responds
//! with all that it could read under names that may lead to those of OTHER.

use exports::wasi::http::incoming_handler::Guest;
use lodge::lock::locks::{Lock, try_acquire};
use wasi::blobstore::blobstore;
use wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};
use wasi::config::store as config;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasi::keyvalue::atomics::increment;
use wasi::keyvalue::{batch, store};

wit_bindgen::generate!({
    inline: "
        package lodge:intruder;
        world intruder {
            include lodge:service/service-with-locks@0.1.0;
            include lodge:service/service-with-objects@0.1.0;
            import wasi:config/store@0.2.0-rc.1;
        }
    ",
    path: "../../../wit",
    world: "lodge:intruder/intruder",
    generate_all,
});

struct Intruder;

export!(Intruder);

impl Guest for Intruder {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, other) = target.split_once('?').unwrap_or((&target, ""));
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        let text = match path.rsplit('/').next() {
            Some("plant") => plant(other),
            Some("read") => read(),
            Some("search") => search(other),
            Some("hold") => {
                let _lock = try_acquire("door", 600_000).unwrap().expect("it is free");
                stream.blocking_write_and_flush(b"it has the lock").unwrap();
                loop {
                    wasi::clocks::monotonic_clock::subscribe_duration(1_000_000_000).block();
                }
            }
            _ => format!("no operation: {path}"),
        };
        for chunk in text.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(chunk).unwrap();
        }
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}

fn plant(value: &str) -> String {
    for bucket in ["", "vault"] {
        let bucket = store::open(bucket).unwrap();
        bucket.set("secret", value.as_bytes()).unwrap();
        increment(&bucket, "count", 7).unwrap();
    }
    store_object("vault", "secret", value);
    "planted".into()
}

fn store_object(container: &str, name: &str, content: &str) {
    let container = blobstore::create_container(container).or_else(|_| blobstore::get_container(container)).unwrap();
    let value = OutgoingValue::new_outgoing_value();
    container.write_data(name, &value).unwrap();
    value.outgoing_value_write_body().unwrap().blocking_write_and_flush(content.as_bytes()).unwrap();
    OutgoingValue::finish(value).unwrap();
}

/// The content of an object; nothing if it cannot be read.
fn object(container: &str, name: &str) -> String {
    let container = blobstore::get_container(container);
    let value = container.and_then(|container| container.get_data(name, 0, u64::MAX));
    let bytes = value.and_then(IncomingValue::incoming_value_consume_sync).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read() -> String {
    let read = |bucket: &str| {
        let bucket = store::open(bucket).unwrap();
        let text = |key: &str| String::from_utf8(bucket.get(key).unwrap().unwrap_or_default()).unwrap();
        format!("{} {}", text("secret"), text("count"))
    };
    format!("{}, {}, {}", read(""), read("vault"), object("vault", "secret"))
}

/// Names that may lead to `other`, if somebody joins them to a path, a key or a query.
fn names(other: &str) -> Vec<String> {
    let mut names: Vec<String> =
        ["", ".", "..", "/", "*", "?", "%", "_", "\0", ":", "#", "state", "vault", "default"].map(Into::into).into();
    for base in [other, "vault", "default", "secret", "count", "door", "password"] {
        names.extend([
            base.to_owned(),
            base.to_uppercase(),
            format!("../{base}"),
            format!("../../{base}"),
            format!("/{base}"),
            format!("./{base}"),
            format!("{base}/"),
            format!("{base}*"),
            format!("{base}%"),
            format!("{base}\0"),
            format!(" {base} "),
            format!("{{{base}}}"),
            format!("{base}\u{200b}"),
            format!("\u{202e}{base}"),
            base.chars().map(|char| char::from_u32(char as u32 + 0xfee0).unwrap_or(char)).collect(),
        ]);
    }
    for (first, second) in
        [(other, "secret"), (other, "default"), (other, "vault"), ("default", "secret"), ("vault", "secret")]
    {
        for between in ["/", "/../", ":", ".", "\0", "%2f", "\u{1f}", "\u{ff0f}", "|", "' OR '1'='1", "\r\nGET "] {
            names.push(format!("{first}{between}{second}"));
            names.push(format!("../{first}{between}{second}"));
        }
        names.push(format!("{other}/{first}/{second}"));
        names.push(format!("lodge:{other}:{first}:{second}"));
    }
    names.extend([128, 129, 1024, 1025, 70_000].map(|length| "x".repeat(length)));
    names
}

/// Returns all that can be read, and the locks that somebody else has.
fn search(other: &str) -> String {
    let (mut found, all) = (String::new(), names(other));
    for name in &all {
        if let Ok(bucket) = store::open(name) {
            if let Ok(page) = bucket.list_keys(None) {
                found += &format!("{:?}\n", page.keys);
            }
            for (_, value) in batch::get_many(&bucket, &all[..200.min(all.len())]).into_iter().flatten() {
                found += &String::from_utf8_lossy(&value.unwrap_or_default());
            }
            for key in ["secret", "count", "../secret", "vault/secret"] {
                let value = bucket.get(key).ok().flatten().unwrap_or_default();
                found += &String::from_utf8_lossy(&value);
                // Nothing of the other may change either.
                let _ = bucket.delete(key);
            }
        }
        if let Ok(container) = blobstore::get_container(name) {
            let (names, _) = container.list_objects().unwrap().read_stream_object_names(1000).unwrap();
            found += &format!("{names:?}\n");
            for object in ["secret", "../secret", "vault/secret"] {
                let _ = container.delete_object(object);
            }
        }
        for container in ["vault", name] {
            found += &object(container, name);
            let place = |object: &str| ObjectId { container: container.into(), object: object.into() };
            if blobstore::copy_object(&place(name), &place("copied")).is_ok() {
                found += &object(container, "copied");
            }
        }
        found += &config::get(name).ok().flatten().unwrap_or_default();
        match try_acquire(name, 1000) {
            Ok(Some(lock)) => Lock::release(lock).unwrap(),
            Ok(None) => found += &format!("BUSY {name:?}\n"),
            Err(_) => {}
        }
        found += &std::env::var(name.replace(['\0', '='], "")).unwrap_or_default();
        for path in [name.clone(), format!("{name}.toml"), format!("{name}.wasm")] {
            found += &std::fs::read_to_string(&path).unwrap_or_default();
        }
    }
    for (name, value) in std::env::vars() {
        found += &format!("{name}={value}\n");
    }
    for (key, value) in config::get_all().unwrap() {
        found += &format!("{key}={value}\n");
    }
    for path in ["/proc/self/environ", "/etc/passwd", ".lodge/state.db", "/", "."] {
        found += &std::fs::read_to_string(path).unwrap_or_default();
        found += &std::fs::read_dir(path).map_or(String::new(), |entries| format!("DIRECTORY {}", entries.count()));
    }
    found + "end"
}

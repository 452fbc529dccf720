//! Does an operation on a key-value store: `/SERVICE/INTERFACE/OPERATION/BUCKET/KEY?VALUE`. Responds with the result as text, and with
//! status 500 and the error if there is one. Interfaces: `draft`, `draft2` and `spin`; `kept` with a bucket that
//! outlives requests; `none` does nothing.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    path: ["../kit/wit/spin@2.0.0"],
    inline: "
        package lodge:keyvalue;

        world keyvalue {
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import fermyon:spin/key-value@2.0.0;
        }

        package wasi:keyvalue@0.2.0-draft {
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<u64> }
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                }
                open: func(identifier: string) -> result<bucket, error>;
            }
            interface atomics {
                use store.{bucket, error};
                increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
        }

        package wasi:keyvalue@0.2.0-draft2 {
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<string> }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<string>) -> result<key-response, error>;
                }
            }
            interface atomics {
                use store.{bucket, error};
                variant cas-error { store-error(error), cas-failed(cas) }
                resource cas {
                    new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
                    current: func() -> result<option<list<u8>>, error>;
                }
                increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
                swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<tuple<string, option<list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
        }
    ",
    generate_all,
});

use fermyon::spin::key_value as spin;
use wasi::keyvalue0_2_0_draft as draft;
use wasi::keyvalue0_2_0_draft2 as draft2;

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, value) = target.split_once('?').unwrap_or((&target, ""));
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(6, '/').skip(2).collect();
        let result = match parts[..] {
            [interface, operation, bucket, key] => run(interface, operation, bucket, key, value),
            _ => Err(format!("no operation: {path}")),
        };
        kit::result(outparam, result);
    }
}

fn run(interface: &str, operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, String> {
    match interface {
        "draft" => with_draft(operation, bucket, key, value).map_err(|error| format!("{error:?}")),
        "draft2" => with_draft2(operation, bucket, key, value).map_err(|error| format!("{error:?}")),
        "kept" => with_kept(operation, bucket, key, value).map_err(|error| format!("{error:?}")),
        // The cost of the guest itself.
        "none" => Ok(String::new()),
        "spin" => with_spin(operation, bucket, key, value).map_err(|error| format!("{error:?}")),
        _ => Err(format!("no interface: {interface}")),
    }
}

thread_local! {
    static KEPT: RefCell<Option<draft2::store::Bucket>> = const { RefCell::new(None) };
}

fn with_kept(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, draft2::store::Error> {
    KEPT.with_borrow_mut(|kept| {
        let bucket = match kept {
            Some(kept) => kept,
            none => none.insert(draft2::store::open(bucket)?),
        };
        Ok(match operation {
            "get" => text(bucket.get(key)?),
            "set" => format!("{:?}", bucket.set(key, value.as_bytes())?),
            _ => format!("no operation: {operation}"),
        })
    })
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or("none".into(), |value| String::from_utf8_lossy(&value).into_owned())
}

/// `a,b,c` with the number of each.
fn many(keys: &str) -> Vec<String> {
    keys.split(',').map(str::to_owned).collect()
}

fn with_draft(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, draft::store::Error> {
    let bucket = draft::store::open(bucket)?;
    Ok(match operation {
        "get" => text(bucket.get(key)?),
        "set" => format!("{:?}", bucket.set(key, value.as_bytes())?),
        "delete" => format!("{:?}", bucket.delete(key)?),
        "exists" => bucket.exists(key)?.to_string(),
        "increment" => draft::atomics::increment(&bucket, key, value.parse().unwrap())?.to_string(),
        "get-many" => {
            let entries = draft::batch::get_many(&bucket, &many(key))?;
            let entries = entries
                .into_iter()
                .map(|entry| entry.map_or("none".into(), |(key, value)| key + "=" + &text(Some(value))));
            entries.collect::<Vec<_>>().join(",")
        }
        "set-many" => {
            let entries: Vec<_> = many(key).into_iter().map(|key| (key, value.as_bytes().to_vec())).collect();
            format!("{:?}", draft::batch::set_many(&bucket, &entries)?)
        }
        "delete-many" => format!("{:?}", draft::batch::delete_many(&bucket, &many(key))?),
        "list" => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break keys.join(",");
                }
            }
        }
        "page" => format!("{:?}", bucket.list_keys(Some(value.parse().unwrap()))?.keys),
        _ => format!("no operation: {operation}"),
    })
}

fn with_draft2(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, draft2::store::Error> {
    use draft2::atomics::{Cas, CasError, swap};
    let bucket = draft2::store::open(bucket)?;
    Ok(match operation {
        "get" => text(bucket.get(key)?),
        "set" => format!("{:?}", bucket.set(key, value.as_bytes())?),
        "delete" => format!("{:?}", bucket.delete(key)?),
        "exists" => bucket.exists(key)?.to_string(),
        "increment" => draft2::atomics::increment(&bucket, key, value.parse().unwrap())?.to_string(),
        "get-many" => {
            let entries = draft2::batch::get_many(&bucket, &many(key))?;
            entries.into_iter().map(|(key, value)| key + "=" + &text(value)).collect::<Vec<_>>().join(",")
        }
        "set-many" => {
            let entries: Vec<_> = many(key).into_iter().map(|key| (key, value.as_bytes().to_vec())).collect();
            format!("{:?}", draft2::batch::set_many(&bucket, &entries)?)
        }
        "delete-many" => format!("{:?}", draft2::batch::delete_many(&bucket, &many(key))?),
        "list" => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor.as_deref())?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break keys.join(",");
                }
            }
        }
        // Adds one by compare-and-swap, as often as it takes.
        "count" => {
            let mut cas = Cas::new(&bucket, key)?;
            loop {
                let before: u64 = cas.current()?.map_or(0, |value| text(Some(value)).parse().unwrap());
                match swap(cas, (before + 1).to_string().as_bytes()) {
                    Ok(()) => break (before + 1).to_string(),
                    Err(CasError::CasFailed(newer)) => cas = newer,
                    Err(CasError::StoreError(error)) => return Err(error),
                }
            }
        }
        // Of two handles for one entry, the second to swap fails and holds what the first has stored.
        "race" => {
            let (first, second) = (Cas::new(&bucket, key)?, Cas::new(&bucket, key)?);
            assert!(swap(first, b"first").is_ok());
            let Err(CasError::CasFailed(newer)) = swap(second, b"second") else { panic!("the second swap was done") };
            let current = text(newer.current()?);
            assert!(swap(newer, value.as_bytes()).is_ok());
            current
        }
        // A handle is for the value that was there when it was made, even if a later one was read through it.
        "moved" => {
            let cas = Cas::new(&bucket, key)?;
            bucket.set(key, value.as_bytes())?;
            let current = text(cas.current()?);
            let Err(CasError::CasFailed(_)) = swap(cas, b"lost") else { panic!("the swap was done") };
            current
        }
        // Makes handles of compare-and-swap until that fails.
        "hold" => {
            let mut held = Vec::new();
            loop {
                match Cas::new(&bucket, key) {
                    Ok(cas) => held.push(cas),
                    Err(error) => break format!("{} {error:?}", held.len()),
                }
            }
        }
        // Opens buckets until that fails.
        "open" => {
            let mut opened = Vec::new();
            loop {
                match draft2::store::open(key) {
                    Ok(bucket) => opened.push(bucket),
                    Err(_) => break opened.len().to_string(),
                }
            }
        }
        "spin" => loop {
            bucket.exists(key)?;
        },
        _ => format!("no operation: {operation}"),
    })
}

fn with_spin(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, spin::Error> {
    let store = spin::Store::open(bucket)?;
    Ok(match operation {
        "get" => text(store.get(key)?),
        "set" => format!("{:?}", store.set(key, value.as_bytes())?),
        "delete" => format!("{:?}", store.delete(key)?),
        "exists" => store.exists(key)?.to_string(),
        "list" => store.get_keys()?.join(","),
        _ => format!("no operation: {operation}"),
    })
}

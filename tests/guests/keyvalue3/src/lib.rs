//! Does an operation on a key-value store: `/SERVICE/INTERFACE/OPERATION/BUCKET/KEY?VALUE`. Responds with the result as text, and with
//! status 500 and the error if there is one. Interfaces: `wasmcloud` and `spin`.

use wasip3::http::types::{ErrorCode, Request, Response};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        path: ["../kit/wit/spin-key-value@3.0.0"],
        inline: "
        package lodge:keyvalue3;

        world keyvalue3 {
            import wasmcloud:keyvalue/types@0.2.0;
            import wasmcloud:keyvalue/store@0.2.0;
            import wasmcloud:keyvalue/atomics@0.2.0;
            import wasmcloud:keyvalue/cas@0.2.0;
            import wasmcloud:keyvalue/batch@0.2.0;
            import spin:key-value/key-value@3.0.0;
        }

        package wasmcloud:keyvalue@0.2.0 {
            interface types {
                variant error {
                    no-such-store,
                    access-denied,
                    invalid-argument,
                    precondition-failed,
                    timeout,
                    store-unavailable,
                    quota-exceeded,
                    other(string),
                }
                record key-response { keys: list<string>, cursor: option<string> }
                record set-options { ttl-ms: option<u64>, if-not-exists: bool }
                resource bucket {
                    get: async func(key: string) -> result<option<list<u8>>, error>;
                    set: async func(key: string, value: list<u8>, options: option<set-options>) -> result<_, error>;
                    delete: async func(key: string) -> result<_, error>;
                    exists: async func(key: string) -> result<bool, error>;
                    list-keys: async func(prefix: option<string>, cursor: option<string>) -> result<key-response, error>;
                }
            }
            interface store {
                use types.{bucket, error};
                open: async func(identifier: string) -> result<bucket, error>;
            }
            interface atomics {
                use types.{bucket, error};
                increment: async func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
            }
            interface cas {
                use types.{bucket, error};
                type version = string;
                record entry { value: list<u8>, version: version }
                current: async func(bucket: borrow<bucket>, key: string) -> result<option<entry>, error>;
                record cas-options { require-version: option<version>, require-value: option<list<u8>> }
                variant cas-result { swapped, stale(option<entry>) }
                swap: async func(bucket: borrow<bucket>, key: string, value: list<u8>, options: cas-options)
                    -> result<cas-result, error>;
            }
            interface batch {
                use types.{bucket, error};
                get-many: async func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: async func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                    -> result<_, error>;
                delete-many: async func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
        }
    ",
        generate_all,
    });
}

use bindings::spin::key_value::key_value as spin_kv;
use bindings::wasmcloud::keyvalue::types::{Error, SetOptions};
use bindings::wasmcloud::keyvalue::{atomics, batch, cas, store};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, value) = target.split_once('?').unwrap_or((&target, ""));
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(6, '/').skip(2).collect();
        let result = match parts[..] {
            ["wasmcloud", operation, bucket, key] => {
                with_wasmcloud(operation, bucket, key, value).await.map_err(|error| format!("{error:?}"))
            }
            ["spin", operation, bucket, key] => {
                with_spin(operation, bucket, key, value).await.map_err(|error| format!("{error:?}"))
            }
            _ => Err(format!("no operation: {path}")),
        };
        Ok(kit3::result(result))
    }
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or("none".into(), |value| String::from_utf8_lossy(&value).into_owned())
}

/// Waits for all of them at once.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in waiting.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if waiting.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

fn many(keys: &str) -> Vec<String> {
    keys.split(',').map(str::to_owned).collect()
}

async fn with_wasmcloud(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, Error> {
    let bucket = store::open(bucket.into()).await?;
    let key = key.to_owned();
    Ok(match operation {
        "get" => text(bucket.get(key).await?),
        "set" => format!("{:?}", bucket.set(key, value.into(), None).await?),
        // The time to live is the value, in milliseconds.
        "expire" => {
            let options = SetOptions { ttl_ms: Some(value.parse().unwrap()), if_not_exists: false };
            format!("{:?}", bucket.set(key, value.into(), Some(options)).await?)
        }
        "add" => {
            let options = SetOptions { ttl_ms: None, if_not_exists: true };
            format!("{:?}", bucket.set(key, value.into(), Some(options)).await?)
        }
        "delete" => format!("{:?}", bucket.delete(key).await?),
        "exists" => bucket.exists(key).await?.to_string(),
        "increment" => atomics::increment(&bucket, key, value.parse().unwrap()).await?.to_string(),
        "get-many" => {
            let entries = batch::get_many(&bucket, many(&key)).await?;
            let entries = entries
                .into_iter()
                .map(|entry| entry.map_or("none".into(), |(key, value)| key + "=" + &text(Some(value))));
            entries.collect::<Vec<_>>().join(",")
        }
        "set-many" => {
            let entries: Vec<_> = many(&key).into_iter().map(|key| (key, value.as_bytes().to_vec())).collect();
            format!("{:?}", batch::set_many(&bucket, entries).await?)
        }
        "delete-many" => format!("{:?}", batch::delete_many(&bucket, many(&key)).await?),
        // All keys that begin with the key.
        "list" => {
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(Some(key.clone()).filter(|key| key != "*"), cursor).await?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break keys.join(",");
                }
            }
        }
        // Sends 1 MiB this many times at once, and counts how often that was possible.
        "flood" => {
            let sets = 0..value.parse::<usize>().unwrap();
            let results = all(sets.map(|number| bucket.set(format!("{key}-{number}"), vec![7; 1 << 20], None))).await;
            let error = results.iter().find_map(|result| result.as_ref().err().map(|error| format!("{error:?}")));
            format!("{} {}", results.iter().filter(|result| result.is_ok()).count(), error.unwrap_or_default())
        }
        // Reads a value this many times at once, and counts its bytes.
        "drink" => {
            let values = all((0..value.parse::<usize>().unwrap()).map(|_| bucket.get(key.clone()))).await;
            let sizes: Result<Vec<_>, _> =
                values.into_iter().map(|value| value.map(|value| value.map_or(0, |value| value.len()))).collect();
            sizes?.into_iter().sum::<usize>().to_string()
        }
        "count" => loop {
            let entry = cas::current(&bucket, key.clone()).await?;
            let before: u64 = entry.as_ref().map_or(0, |entry| text(Some(entry.value.clone())).parse().unwrap());
            let options = cas::CasOptions { require_version: entry.map(|entry| entry.version), require_value: None };
            let swapped = cas::swap(&bucket, key.clone(), (before + 1).to_string().into(), options).await?;
            if matches!(swapped, cas::CasResult::Swapped) {
                break (before + 1).to_string();
            }
        },
        // Stores a value in the place of `old`.
        "replace" => {
            let options = cas::CasOptions { require_version: None, require_value: Some(b"old".to_vec()) };
            match cas::swap(&bucket, key, value.into(), options).await? {
                cas::CasResult::Swapped => "swapped".into(),
                cas::CasResult::Stale(entry) => format!("stale {}", text(entry.map(|entry| entry.value))),
            }
        }
        "version" => {
            let options = cas::CasOptions { require_version: Some(value.into()), require_value: None };
            format!("{:?}", cas::swap(&bucket, key, value.into(), options).await?)
        }
        _ => format!("no operation: {operation}"),
    })
}

async fn with_spin(operation: &str, bucket: &str, key: &str, value: &str) -> Result<String, spin_kv::Error> {
    let store = spin_kv::Store::open(bucket.into()).await?;
    let key = key.to_owned();
    Ok(match operation {
        "get" => text(store.get(key).await?),
        "set" => format!("{:?}", store.set(key, value.into()).await?),
        "delete" => format!("{:?}", store.delete(key).await?),
        "exists" => store.exists(key).await?.to_string(),
        // Listings that are not read, as many as the value says.
        "hoard" => {
            let mut open = Vec::new();
            for _ in 0..value.parse().unwrap() {
                open.push(store.get_keys().await);
            }
            open.len().to_string()
        }
        "list" => {
            let (keys, result) = store.get_keys().await;
            let keys = keys.collect().await;
            result.await?;
            keys.join(",")
        }
        _ => format!("no operation: {operation}"),
    })
}

//! Does an operation on objects: `/SERVICE/OPERATION/CONTAINER/OBJECT?ARGUMENT`, encoded with `~` in the place of `%`, which the host
//! would read. Responds with the result as text or content, and with status 500 and the error if there is one.

use percent_encoding::percent_decode_str;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        inline: "
        package lodge:blobs3;

        world blobs3 {
            import wasmcloud:blobstore/types@0.1.0;
            import wasmcloud:blobstore/container@0.1.0;
            import wasmcloud:blobstore/blobstore@0.1.0;
        }

        package wasmcloud:blobstore@0.1.0 {
            interface types {
                type container-name = string;
                type object-name = string;
                type timestamp = u64;
                type object-size = u64;
                variant error {
                    no-such-container,
                    container-already-exists,
                    no-such-object,
                    access-denied,
                    timeout,
                    store-unavailable,
                    quota-exceeded,
                    other(string),
                }
                record container-metadata { name: container-name, created-at: timestamp }
                record object-metadata {
                    name: object-name,
                    container: container-name,
                    created-at: timestamp,
                    size: object-size,
                }
                record object-id { container: container-name, object: object-name }
            }
            interface container {
                use types.{container-metadata, error, object-metadata, object-name};
                resource container {
                    name: async func() -> result<string, error>;
                    info: async func() -> result<container-metadata, error>;
                    get-data: async func(name: object-name, start: u64, end: u64) -> result<stream<u8>, error>;
                    write-data: async func(name: object-name, data: stream<u8>) -> result<_, error>;
                    list-objects: async func() -> result<stream<object-name>, error>;
                    delete-object: async func(name: object-name) -> result<_, error>;
                    delete-objects: async func(names: list<object-name>) -> result<_, error>;
                    has-object: async func(name: object-name) -> result<bool, error>;
                    object-info: async func(name: object-name) -> result<object-metadata, error>;
                    clear: async func() -> result<_, error>;
                }
            }
            interface blobstore {
                use container.{container};
                use types.{error, container-name, object-id};
                create-container: async func(name: container-name) -> result<container, error>;
                get-container: async func(name: container-name) -> result<container, error>;
                delete-container: async func(name: container-name) -> result<_, error>;
                container-exists: async func(name: container-name) -> result<bool, error>;
                copy-object: async func(src: object-id, dest: object-id) -> result<_, error>;
                move-object: async func(src: object-id, dest: object-id) -> result<_, error>;
            }
        }
        ",
        generate_all,
    });
}

use bindings::wasmcloud::blobstore::blobstore;
use bindings::wasmcloud::blobstore::types::{Error, ObjectId};

type Content = wit_bindgen::StreamReader<u8>;

struct Guest;

wasip3::http::service::export!(Guest);

enum Done {
    Text(String),
    Content(Content),
}

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        // The first part is the name of the service.
        let mut parts = path.splitn(5, '/').skip(2).map(decoded);
        let [operation, container, object] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        let (_, consumed) = wit_future::new(|| Ok(()));
        let (body, _trailers) = Request::consume_body(request, consumed);
        Ok(match run(&operation, &container, &object, argument, body).await {
            Ok(Done::Text(text)) => kit3::result(Ok(text)),
            Ok(Done::Content(content)) => stream(content),
            Err(error) => kit3::result(Err(format!("{error:?}"))),
        })
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('~', "%")).decode_utf8().unwrap().into_owned()
}

/// A response with what can be read.
fn stream(mut content: Content) -> Response {
    let (mut to, body) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    spawn_local(async move {
        loop {
            let (status, piece) = content.read(Vec::with_capacity(50_000)).await;
            if !to.write_all(piece).await.is_empty() || status == wit_bindgen::StreamResult::Dropped {
                break;
            }
        }
        drop((to, end));
    });
    response
}

async fn run(
    operation: &str,
    container: &str,
    object: &str,
    argument: &str,
    mut body: wasip3::wit_bindgen::StreamReader<u8>,
) -> Result<Done, Error> {
    let get = || blobstore::get_container(container.into());
    let place = |container: &str, object: &str| ObjectId { container: container.into(), object: object.into() };
    let object = object.to_owned();
    Ok(Done::Text(match operation {
        "create" => blobstore::create_container(container.into()).await?.name().await?,
        "delete-container" => format!("{:?}", blobstore::delete_container(container.into()).await?),
        "exists" => blobstore::container_exists(container.into()).await?.to_string(),
        "clear" => format!("{:?}", get().await?.clear().await?),
        "info" => {
            let info = get().await?.info().await?;
            assert!(info.created_at > 1_700_000_000_000_000_000, "{}", info.created_at);
            info.name
        }
        "put" | "trap" => {
            let traps = operation == "trap";
            let (mut to, data) = bindings::wit_stream::new::<u8>();
            wit_bindgen::spawn_local(async move {
                loop {
                    let (status, piece) = body.read(Vec::with_capacity(100_000)).await;
                    if !to.write_all(piece).await.is_empty() || status == wasip3::wit_bindgen::StreamResult::Dropped {
                        assert!(!traps, "as asked for");
                        break;
                    }
                }
            });
            get().await?.write_data(object, data).await?;
            "stored".into()
        }
        "get" => {
            let (start, end) = argument.split_once('-').unwrap_or(("0", ""));
            let (start, end) = (start.parse().unwrap(), end.parse().unwrap_or(u64::MAX));
            return Ok(Done::Content(get().await?.get_data(object, start, end).await?));
        }
        // Streams that are not read until there is an error, and one after they are dropped.
        "hoard" => {
            let (of, mut open) = (get().await?, Vec::new());
            let error = loop {
                match (of.get_data(object.clone(), 0, u64::MAX).await, of.list_objects().await) {
                    (Ok(content), Ok(names)) => open.push((content, names)),
                    (content, names) => break format!("{:?}", content.err().or(names.err())),
                }
            };
            drop(open);
            format!("{error} {}", of.get_data(object, 0, u64::MAX).await.is_ok())
        }
        "list" => {
            let mut names = get().await?.list_objects().await?.collect().await;
            names.sort();
            names.join(",")
        }
        "delete" => format!("{:?}", get().await?.delete_object(object).await?),
        "delete-many" => {
            let names = object.split(',').map(str::to_owned).collect();
            format!("{:?}", get().await?.delete_objects(names).await?)
        }
        "has" => get().await?.has_object(object).await?.to_string(),
        "object-info" => {
            let info = get().await?.object_info(object).await?;
            assert!(info.created_at > 1_700_000_000_000_000_000, "{}", info.created_at);
            format!("{} {} {}", info.container, info.name, info.size)
        }
        "copy" | "move" => {
            let to = decoded(argument);
            let (to, name) = to.split_once('/').unwrap();
            let (from, to) = (place(container, &object), place(to, name));
            match operation {
                "copy" => blobstore::copy_object(from, to).await?,
                _ => blobstore::move_object(from, to).await?,
            }
            "()".into()
        }
        _ => return Err(Error::Other(format!("no operation: {operation}"))),
    }))
}

//! Responds with a value of its configuration: `/SERVICE/INTERFACE/KEY`. Interfaces: `spin` and `secrets`.

use wasip3::http::types::{ErrorCode, Request, Response};

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        path: ["../kit/wit/spin-variables@3.0.0"],
        inline: "
            package lodge:configured3;

            world configured3 {
                import spin:variables/variables@3.0.0;
                import wasmcloud:secrets/store@2.1.0;
                import wasmcloud:secrets/reveal@2.1.0;
            }

            package wasmcloud:secrets@2.1.0 {
                interface store {
                    variant secrets-error { upstream(string), io(string), not-found }
                    variant secret-value { %string(string), bytes(list<u8>) }
                    resource secret;
                    get: async func(key: string) -> result<secret, secrets-error>;
                }
                interface reveal {
                    use store.{secret, secret-value};
                    reveal: async func(s: borrow<secret>) -> secret-value;
                }
            }
        ",
        generate_all,
    });
}

use bindings::spin::variables::variables;
use bindings::wasmcloud::secrets::{reveal::reveal, store};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let parts: Vec<_> = target.splitn(4, '/').skip(2).collect();
        let text = match parts[..] {
            ["spin", key] => variables::get(key.into()).await.unwrap_or_else(|error| format!("{error:?}")),
            ["secrets", key] => match store::get(key.into()).await {
                Ok(secret) => format!("{:?}", reveal(&secret).await),
                Err(error) => format!("{error:?}"),
            },
            _ => format!("no key: {target}"),
        };
        Ok(kit3::respond(200, text))
    }
}

//! Acquires locks through the interface with async functions: `/SERVICE/OPERATION/NAME?LEASE,WAIT`, in milliseconds. Responds
//! with the result as text, and with status 500 and the error if there is one.

use std::cell::RefCell;

use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::wit_bindgen::spawn_local;

/// Apart, because the names of streams and futures are those of `wasip3`, too.
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package lodge:locker3;
            world locker3 { import lodge:lock/async-locks@0.1.0; }
        ",
        path: "../../../wit/deps/lock.wit",
        world: "lodge:locker3/locker3",
        generate_all,
    });
}

use bindings::lodge::lock::async_locks::{Error, Lock, acquire, try_acquire};

thread_local! {
    /// A handle that stays for the next request.
    static KEPT: RefCell<Option<Lock>> = const { RefCell::new(None) };
}

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, numbers) = target.split_once('?').unwrap_or((&target, ""));
        let numbers: Vec<u64> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
        let (lease, wait) = (numbers.first().copied().unwrap_or(1000), numbers.get(1).copied().unwrap_or(0));
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        let result = match parts[..] {
            [operation, name] => run(operation, name, lease, wait).await.map_err(|error| format!("{error:?}")),
            _ => Err(format!("no operation: {path}")),
        };
        Ok(kit3::result(result))
    }
}

async fn run(operation: &str, name: &str, lease: u64, wait: u64) -> Result<String, Error> {
    let told = |lock: Option<Lock>| lock.map_or("busy".into(), |lock| format!("token {}", lock.token()));
    Ok(match operation {
        "try" => told(try_acquire(name.into(), lease).await?),
        "acquire" => told(acquire(name.into(), lease, wait).await?),
        // One task of this request waits until another has released.
        "hand-over" => {
            let first = acquire(name.into(), lease, wait).await?.expect("it is free");
            let token = first.token();
            spawn_local(async move {
                first.renew(lease).await.unwrap();
                Lock::release(first).await.unwrap();
            });
            let second = acquire(name.into(), lease, wait).await?.expect("it is released");
            format!("larger {}", second.token() > token)
        }
        "keep" => {
            KEPT.set(Some(acquire(name.into(), lease, wait).await?.expect("it is free")));
            "kept".into()
        }
        "kept" => match KEPT.take() {
            Some(lock) => format!("{:?} {:?}", lock.renew(lease).await, Lock::release(lock).await),
            None => "none".into(),
        },
        "trap" => {
            let _lock = acquire(name.into(), lease, wait).await?.expect("it is free");
            panic!("it holds a lock");
        }
        _ => format!("no operation: {operation}"),
    })
}

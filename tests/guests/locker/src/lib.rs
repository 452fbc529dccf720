//! Acquires locks: `/SERVICE/OPERATION/NAME?LEASE,WAIT`, in milliseconds. Responds with the result as text, and with status
//! 500 and the error if there is one.

use std::cell::RefCell;

use exports::wasi::http::incoming_handler::Guest;
use lodge::lock::locks::{Error, Lock, acquire, try_acquire};
use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasi::keyvalue::atomics::{Cas, increment, swap};
use wasi::keyvalue::store::{Bucket, open};

wit_bindgen::generate!({ path: "../../../wit", world: "service-with-locks", generate_all });

struct Locker;

export!(Locker);

thread_local! {
    /// A handle that stays for the next request.
    static KEPT: RefCell<Option<Lock>> = const { RefCell::new(None) };
}

impl Guest for Locker {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, numbers) = target.split_once('?').unwrap_or((&target, ""));
        let numbers: Vec<u64> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
        let (lease, wait) = (numbers.first().copied().unwrap_or(1000), numbers.get(1).copied().unwrap_or(0));
        // The first part is the name of the service.
        let parts: Vec<_> = path.splitn(4, '/').skip(2).collect();
        if let ["stall", name] = parts[..] {
            return stall(name, lease, outparam);
        }
        let result = match parts[..] {
            [operation, name] => run(operation, name, lease, wait).map_err(|error| format!("{error:?}")),
            _ => Err(format!("no operation: {path}")),
        };
        let (status, text) = result.map_or_else(|error| (500, error), |text| (200, text));
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).unwrap();
        let body = response.body().unwrap();
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(text.as_bytes()).unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}

fn run(operation: &str, name: &str, lease: u64, wait: u64) -> Result<String, Error> {
    let told = |lock: Option<Lock>| lock.map_or("busy".into(), |lock| format!("token {}", lock.token()));
    Ok(match operation {
        "try" => told(try_acquire(name, lease)?),
        "acquire" => told(acquire(name, lease, wait)?),
        "renew" => {
            let lock = acquire(name, lease, wait)?.expect("it is free");
            lock.renew(lease)?;
            Lock::release(lock)?;
            "renewed".into()
        }
        // Counts those that are inside at the same time.
        "exclusive" => {
            let Some(lock) = acquire(name, lease, wait)? else { return Ok("busy".into()) };
            let bucket = bucket();
            let inside = increment(&bucket, &format!("inside-{name}"), 1).unwrap();
            pause(3);
            increment(&bucket, &format!("inside-{name}"), -1).unwrap();
            let token = lock.token();
            Lock::release(lock)?;
            format!("inside {inside} token {token}")
        }
        "fenced" => {
            let lock = acquire(name, lease, wait)?.expect("it is free by then");
            let written = write_fenced(name, lock.token());
            Lock::release(lock)?;
            written.into()
        }
        // Is away until it is told to go on, whatever happens to its lease meanwhile.
        "paused" => {
            let lock = acquire(name, lease, wait)?.expect("it is free");
            let bucket = bucket();
            bucket.set(&format!("paused-{name}"), b"").unwrap();
            while !bucket.exists(&format!("go-{name}")).unwrap() {
                pause(5);
            }
            let written = write_fenced(name, lock.token());
            format!("{written} {:?} {:?}", lock.renew(lease), Lock::release(lock))
        }
        // Reports or changes a key of the store.
        "exists" => bucket().exists(name).unwrap().to_string(),
        "set" => format!("{:?}", bucket().set(name, b"")),
        "forget" => {
            std::mem::forget(acquire(name, lease, wait)?.expect("it is free"));
            "forgotten".into()
        }
        "keep" => {
            KEPT.set(Some(acquire(name, lease, wait)?.expect("it is free")));
            "kept".into()
        }
        "kept" => match KEPT.take() {
            Some(lock) => format!("{:?} {:?}", lock.renew(lease), Lock::release(lock)),
            None => "none".into(),
        },
        "trap" => {
            let _lock = acquire(name, lease, wait)?.expect("it is free");
            panic!("it holds a lock");
        }
        "spin" => {
            let _lock = acquire(name, lease, wait)?.expect("it is free");
            loop {
                std::hint::spin_loop();
            }
        }
        "sleep" => {
            let _lock = acquire(name, lease, wait)?.expect("it is free");
            pause(3_600_000);
            unreachable!("its wall time is shorter");
        }
        // Acquires as many as it may.
        "many" => {
            let mut locks = Vec::new();
            let problem = loop {
                match try_acquire(&format!("{name}-{}", locks.len()), lease) {
                    Ok(lock) => locks.push(lock.expect("it is free")),
                    Err(error) => break error,
                }
            };
            let all = locks.len();
            drop(locks.pop());
            let again = try_acquire(&format!("{name}-again"), lease).is_ok_and(|lock| lock.is_some());
            format!("{all} {problem:?} {again}")
        }
        "long" => told(acquire(&"x".repeat(lease as usize), 1000, 0)?),
        _ => format!("no operation: {operation}"),
    })
}

/// Begins a response, and never ends it.
fn stall(name: &str, lease: u64, outparam: ResponseOutparam) {
    let _lock = acquire(name, lease, 10_000).unwrap().expect("it is free by then");
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(outparam, Ok(response));
    body.write().unwrap().blocking_write_and_flush(b"it has the lock").unwrap();
    pause(3_600_000);
}

/// What a lock protects: a number that only grows. Refuses a token that is smaller than one that it has seen.
fn write_fenced(name: &str, token: u64) -> &'static str {
    let mut cas = Cas::new(&bucket(), &format!("fence-{name}")).unwrap();
    loop {
        let seen = cas.current().unwrap().map_or(0, |text| String::from_utf8(text).unwrap().parse().unwrap());
        if token < seen {
            return "refused";
        }
        match swap(cas, token.to_string().as_bytes()) {
            Ok(()) => return "written",
            Err(wasi::keyvalue::atomics::CasError::CasFailed(now)) => cas = now,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn bucket() -> Bucket {
    open("").unwrap()
}

fn pause(milliseconds: u64) {
    subscribe_duration(milliseconds * 1_000_000).block();
}

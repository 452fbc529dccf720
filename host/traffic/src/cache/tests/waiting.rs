//! Promise: however many requests wait for one response, each of them is woken a fixed number of times, and requests that fail do
//! not send the others to the service at once, nor make them wait for longer than `limits.queue_wait`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, sleep};

use super::fakes::{Body, FAILED, Failed, REFUSED};
use super::proxy::{Proxy, clock_reads};
use crate::cache::Settled;

const WAITING: usize = 400;

/// The number of looks of one request: when it comes, when it is woken, when its own request begins and when it ends, and one to spare.
const LOOKS: usize = 5;

/// What the origin server makes of the request with this number.
type Origin = fn(&Proxy, usize) -> Result<Response<Body>, Failed>;

fn stored(proxy: &Proxy) -> Result<Response<Body>, Failed> {
    Ok(proxy.responds("cache-control: max-age=60")(&super::proxy::headers("")))
}

/// `WAITING` requests wait for one that `end` ends. Returns how many requests there were to the service, and how many looks.
async fn run(end: impl FnOnce(&Proxy, crate::cache::CacheFill), origin: Origin) -> (usize, usize) {
    let proxy = Rc::new(Proxy::new("cache = true\nlimits = { queue = 1000, queue_wait = '1h' }"));
    let first = proxy.begin("").await;
    let (before, sent) = (clock_reads(), Rc::new(Cell::new(0)));
    let local = LocalSet::new();
    local
        .run_until(async {
            let tasks: Vec<_> = (0..WAITING)
                .map(|_| {
                    let (proxy, sent) = (Rc::clone(&proxy), Rc::clone(&sent));
                    tokio::task::spawn_local(async move {
                        let answer = |_: &http::HeaderMap| {
                            sent.set(sent.get() + 1);
                            origin(&proxy, sent.get())
                        };
                        let _ = proxy.send_by(0, ("GET", "/a"), "", answer).await;
                    })
                })
                .collect();
            while clock_reads() < before + WAITING {
                yield_now().await;
            }
            end(&proxy, first);
            for task in tasks {
                task.await.unwrap();
            }
        })
        .await;
    assert_eq!(proxy.cache.coalescer.active_fills(), 0);
    (sent.get(), clock_reads() - before)
}

/// Requests that are refused one after the other do not wake all that are left each time.
#[tokio::test]
async fn the_cost_of_refusals_is_linear() {
    let (sent, looks) = run(|_, first| drop(first), |_, _| Err(REFUSED)).await;
    assert!(sent == WAITING && looks <= LOOKS * WAITING, "{sent} {looks}");
    // The last half of them is not refused: one response is for all.
    let half = |proxy: &Proxy, number| if number < WAITING / 2 { Err(REFUSED) } else { stored(proxy) };
    let (sent, looks) = run(|_, first| drop(first), half).await;
    assert!(sent == WAITING / 2 && looks <= LOOKS * WAITING, "{sent} {looks}");
}

/// Nor do requests that fail.
#[tokio::test]
async fn the_cost_of_failures_is_linear() {
    let (sent, looks) = run(|_, first| drop(first), |_, _| Err(FAILED)).await;
    assert!(sent == WAITING && looks <= LOOKS * WAITING, "{sent} {looks}");
}

/// A call that changes the path while requests wait costs one more fetch, and not one for each of them.
#[tokio::test]
async fn a_change_of_the_path_costs_one_fetch() {
    let (sent, looks) = run(
        |proxy, first| {
            proxy.change();
            drop(first);
        },
        |proxy, _| stored(proxy),
    )
    .await;
    assert!(sent == 1 && looks <= LOOKS * WAITING, "{sent} {looks}");
    let (sent, looks) = run(
        |proxy, first| {
            proxy.cache.purge("users", "/");
            drop(first);
        },
        |proxy, _| stored(proxy),
    )
    .await;
    assert!(sent == 1 && looks <= LOOKS * WAITING, "{sent} {looks}");
}

/// `limits.queue_wait`, in milliseconds.
const QUEUE_WAIT: u64 = 1_000;

/// When a request comes, how long the service takes for it, and what its client causes: the status of its response, or one of two failures.
type Client = (u64, u64, u16);

const FAILURES: &[u16] = &[0, 1, 400, 403, 408, 416, 422, 429, 500, 502, 503];

/// A request at the service: when it came, began and ended, in milliseconds.
type Visit = (u64, u64, u64);

/// Runs requests of these clients, and returns those that reached the service.
fn visits(clients: &[Client]) -> Vec<Visit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let manifest = format!("cache = true\nlimits = {{ queue = 1000, queue_wait = '{QUEUE_WAIT}ms' }}");
    let (proxy, visits) = (Rc::new(Proxy::new(&manifest)), Rc::new(RefCell::new(Vec::new())));
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let start = Instant::now();
        let now = move || u64::try_from(start.elapsed().as_millis()).unwrap();
        let tasks = clients.iter().map(|&(comes, takes, status)| {
            let (proxy, visits) = (Rc::clone(&proxy), Rc::clone(&visits));
            tokio::task::spawn_local(async move {
                sleep(Duration::from_millis(comes)).await;
                let Some(fill) = proxy.look("").await else { return };
                let began = now();
                sleep(Duration::from_millis(takes)).await;
                visits.borrow_mut().push((comes, began, now()));
                let result = match status {
                    0 => Err(FAILED),
                    1 => Err(REFUSED),
                    _ => {
                        Ok(proxy.responds(&format!("status: {status}\ncache-control: max-age=60"))(&Default::default()))
                    }
                };
                if let Settled::Done(Ok(response)) = fill.settle(result) {
                    response.into_body().collect().await.unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
    assert_eq!(proxy.cache.coalescer.active_fills(), 0);
    visits.take()
}

/// The number of requests that are at the service when one begins.
fn company(visits: &[Visit], at: u64) -> usize {
    visits.iter().filter(|(_, began, ended)| *began <= at && at < *ended).count()
}

fn clients(takes: std::ops::Range<u64>, statuses: &'static [u16]) -> impl Strategy<Value = Vec<Client>> {
    proptest::collection::vec((0..100_u64, takes, proptest::sample::select(statuses)), 1..12)
}

proptest! {
    /// Requests that fail in time are at the service one after the other.
    #[test]
    fn failures_come_one_at_a_time(clients in clients(1..50, FAILURES)) {
        let visits = visits(&clients);
        prop_assert_eq!(visits.len(), clients.len());
        for (_, began, _) in &visits {
            prop_assert_eq!(company(&visits, *began), 1, "{:?}", visits);
        }
    }

    /// None waits for longer than it may, and only those that have waited as long go beside one that is at the service.
    #[test]
    fn failures_delay_nobody_for_longer_than_its_time(
        clients in clients(1..3_000, &[0, 1, 400, 429, 500, 200]),
    ) {
        let visits = visits(&clients);
        for (came, began, _) in &visits {
            prop_assert!(began - came <= QUEUE_WAIT + 1, "{:?}", visits);
            let late = visits.iter().filter(|(came, at, _)| at <= began && at - came >= QUEUE_WAIT).count();
            prop_assert!(company(&visits, *began) <= 1 + late, "{:?}", visits);
        }
    }
}

/// What is stored after failures is for all that still wait.
#[test]
fn one_response_after_a_failure_is_for_all() {
    for failure in FAILURES {
        let mut clients = vec![(0, 100, *failure)];
        clients.extend([(10, 100, 200); 40]);
        assert_eq!(visits(&clients).len(), 2, "{failure}");
    }
}

use std::task::Waker;
use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::account::{Account, Charge, Plan};
use super::metered::Metered;
use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(vec![0; length]);
    bytes
}

/// Returns how many of these bytes a connection reads before it has to wait.
fn read(account: &Account, bytes: &[u8]) -> usize {
    read_in_turns(account, bytes, |_| ())
}

/// The same; calls `turned` with the number of bytes read whenever hyper would process them.
fn read_in_turns(account: &Account, bytes: &[u8], mut turned: impl FnMut(usize)) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        match account.plan(bytes.len() - at, Waker::noop()) {
            Plan::Read(most) => {
                let end = bytes.len().min(at + most);
                assert!(end > at, "a plan to read nothing");
                account.read(&bytes[at..end]);
                at = end;
            }
            Plan::Turn => {
                turned(at);
                account.turn();
            }
            _ => break,
        }
    }
    at
}

fn h2(buffers: &Arc<Buffers>) -> Arc<Account> {
    let account = Account::new(buffers, 200);
    assert_eq!(read(&account, PREFACE), PREFACE.len());
    account
}

fn request(account: &Arc<Account>, upload: bool) -> Charge {
    account.turn();
    account.begin(&HeaderMap::new(), upload)
}

/// A request over HTTP/1.1 is covered by its connection; a long head and a body are charged until they are read.
#[test]
fn http1_charges() {
    let buffers = Buffers::new(8 << 20);
    let account = Account::new(&buffers, 200);
    assert_eq!(read(&account, &[b'x'; 900]), 900);
    let charge = request(&account, false);
    assert_eq!(account.taken(), BASE);
    drop(charge);
    assert_eq!(read(&account, &[b'x'; 60_000]), 60_000);
    assert!((100_000..=BASE + ONE).contains(&account.taken()), "{}", account.taken());
    let charge = request(&account, true);
    account.took_all();
    assert!(account.taken() <= BASE + ONE, "{}", account.taken());
    for _ in 0..100 {
        assert_eq!(read(&account, &[b'x'; 8 << 10]), 8 << 10, "hyper reads at most what fits into its buffer");
    }
    assert!(account.taken() <= BASE + ONE + GRANULE);
    account.uploaded(true);
    drop(charge);
    account.plan(1, Waker::noop());
    assert!(account.taken() <= BASE + 2 * GRANULE, "{}", account.taken());
    assert_eq!(read(&account, &[b'x'; 900]), 900);
    drop(request(&account, false));
    account.plan(1, Waker::noop());
    assert_eq!(account.taken(), BASE);
    drop(account);
    assert_eq!(buffers.used(), 0);
}

/// Bodies that no guest reads are received as far as there is memory, and further once they are read.
#[test]
fn unread_bodies_wait() {
    let buffers = Buffers::new(4 << 20);
    let mut wire = frame(1, 4, 30);
    (0..64).for_each(|_| wire.extend(frame(0, 0, 16 << 10)));
    let mut stalled = Vec::new();
    loop {
        let account = h2(&buffers);
        let head = read(&account, &wire[..39]);
        assert_eq!(head, 39);
        let charge = request(&account, true);
        let got = read(&account, &wire[39..]);
        assert!(buffers.used() <= 4 << 20);
        stalled.push((account, charge));
        if got < 64 << 10 {
            break;
        }
        assert!(stalled.len() < 100, "memory is not bounded");
    }
    // Other connections are served meanwhile, and a body that is read continues.
    let account = h2(&buffers);
    assert_eq!(read(&account, &wire[..39]), 39);
    let charge = request(&account, true);
    let (mut at, mut rounds) = (39, 0);
    while at < wire.len() {
        let got = read(&account, &wire[at..]);
        assert!(got > 0, "stuck at {at}");
        (at, rounds) = (at + got, rounds + 1);
        account.turn();
        account.took(usize::MAX);
    }
    assert!(rounds > 30, "the sender did not have to wait");
    account.uploaded(true);
    drop((charge, account, stalled));
    assert_eq!(buffers.used(), 0);
}

/// Bytes between two small frames stay in memory with them, and flow control does not count them.
#[test]
fn bytes_between_frames_are_charged() {
    let buffers = Buffers::new(16 << 20);
    let account = h2(&buffers);
    read(&account, &frame(1, 4, 30));
    let charge = request(&account, true);
    let mut wire = Vec::new();
    (0..500).for_each(|_| {
        wire.extend(frame(0, 0, 256));
        wire.extend(frame(99, 0, 16_000));
    });
    let got = read(&account, &wire);
    assert!(got < 3 << 20 && account.taken() <= buffers.share() + 2 * (BASE + FRAME), "{got}");
    account.uploaded(false);
    drop(charge);
    account.turn();
    assert!(read(&account, &wire) == wire.len(), "without a body nothing stays in memory");
}

/// A connection with the most memory that one may have is not read until it needs less, however much is left for others.
#[tokio::test]
async fn share_of_a_connection_is_bounded() {
    let buffers = Buffers::new(64 << 20);
    let account = Account::new(&buffers, 200);
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let mut metered = Metered::new(server, Arc::clone(&account));
    let mut wire = PREFACE.to_vec();
    wire.extend(frame(1, 4, 30));
    wire.extend(frame(0, 0, 256));
    let head = wire.len();
    (0..2_000).for_each(|_| wire.extend(frame(99, 0, 16_000)));
    let length = wire.len();
    let sending = tokio::spawn(async move {
        // The host has closed when it is refused.
        let _ = client.write_all(&wire).await;
    });
    let (mut charge, mut got) = (None, 0);
    let mut read = async |charge: &mut Option<Charge>, got: &mut usize, until: usize| {
        let mut bytes = vec![0; 64 << 10];
        while *got < until {
            account.turn();
            let reading = tokio::time::timeout(Duration::from_millis(300), metered.read(&mut bytes));
            let Ok(read) = reading.await else { return };
            *got += read.unwrap();
            if *got >= head && charge.is_none() {
                *charge = Some(account.begin(&HeaderMap::new(), true));
            }
        }
    };
    read(&mut charge, &mut got, length).await;
    let taken = account.taken();
    assert!(got < length && taken <= buffers.share() + BASE + FRAME, "{taken} of {}", buffers.share());
    // The body has ended, and no byte of it is in memory.
    account.uploaded(true);
    drop(charge.take());
    read(&mut Some(account.begin(&HeaderMap::new(), false)), &mut got, length).await;
    assert_eq!(got, length);
    sending.await.unwrap();
}

/// Each request is charged, and a connection has no more of them than it has memory for.
#[test]
fn requests_are_charged() {
    let buffers = Buffers::new(4 << 20);
    let (mut accounts, mut charges) = (Vec::new(), Vec::new());
    let wire: Vec<u8> = (0..200).flat_map(|_| frame(1, 5, 4)).collect();
    for _ in 0..20 {
        let account = h2(&buffers);
        let mut begun = Vec::new();
        let begin = |at: usize, begun: &mut Vec<Charge>| {
            let more = at.div_ceil(13) - begun.len();
            begun.extend((0..more).map(|_| account.begin(&HeaderMap::new(), false)));
        };
        let got = read_in_turns(&account, &wire, |at| begin(at, &mut begun));
        begin(got, &mut begun);
        assert!(!begun.is_empty(), "each connection has at least one request");
        charges.extend(begun);
        accounts.push(account);
    }
    assert!(charges.len() * REQUEST <= (4 << 20) + 2 * accounts.len() * REQUEST, "{} requests", charges.len());
    charges.clear();
    for account in &accounts {
        assert_eq!(account.taken(), BASE + FRAME);
    }
}

/// A slow header block is charged while it arrives.
#[test]
fn header_blocks_are_charged() {
    let buffers = Buffers::new(4 << 20);
    let account = h2(&buffers);
    read(&account, &frame(1, 0, 16_000));
    account.turn();
    read(&account, &frame(9, 0, 16_000));
    account.turn();
    assert!(account.taken() >= 2 * 32_000, "{}", account.taken());
    read(&account, &frame(9, 4, 1));
    account.turn();
    let mut headers = HeaderMap::new();
    headers.insert("a", http::HeaderValue::from_bytes(&[b'x'; 32_000]).unwrap());
    let charge = account.begin(&headers, false);
    read(&account, &frame(6, 0, 8));
    account.turn();
    read(&account, &frame(6, 0, 8));
    drop(charge);
    account.turn();
    read(&account, &frame(6, 0, 8));
    assert_eq!(account.taken(), BASE + FRAME);
}

/// A waiting connection gets memory when another returns it.
#[tokio::test]
async fn waiting_connection_gets_memory() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let buffers = Buffers::new(2 * (BASE + FRAME));
    let first = h2(&buffers);
    let (mut client, stream) = tokio::io::duplex(64);
    let mut second = Metered::new(stream, Account::new(&buffers, 200));
    client.write_all(b"GET").await.unwrap();
    let mut bytes = [0; 3];
    let reading = tokio::time::timeout(std::time::Duration::from_millis(20), second.read(&mut bytes));
    assert!(reading.await.is_err());
    assert_eq!(buffers.waiting(), 1);
    drop(first);
    assert_eq!(second.read(&mut bytes).await.unwrap(), 3);
    assert_eq!(buffers.waiting(), 0);
}

proptest! {
    /// In any order of events: the memory in use exceeds the bound by at most one frame per connection, all of it is returned,
    /// and a connection without unread bytes can be read.
    #[test]
    fn any_order(steps in proptest::collection::vec((0usize..3, 0u8..7, 1usize..20_000), 1..200)) {
        let size = 4 << 20;
        let buffers = Buffers::new(size);
        let accounts: Vec<_> = (0..3).map(|_| h2(&buffers)).collect();
        let mut charges: Vec<Vec<Charge>> = (0..3).map(|_| Vec::new()).collect();
        let mut uploads = [0; 3];
        for (n, step, length) in steps {
            let account = &accounts[n];
            match step {
                0 => drop(read(account, &frame(1, 4, length.min(16_384)))),
                1 => drop(read(account, &frame(0, 0, length.min(16_384)))),
                2 => {
                    charges[n].push(request(account, true));
                    uploads[n] += 1;
                }
                3 => charges[n].push(request(account, false)),
                4 if uploads[n] > 0 => {
                    uploads[n] -= 1;
                    account.uploaded(length % 2 == 0);
                }
                5 => drop(charges[n].pop()),
                _ => account.took(length),
            }
            prop_assert!(buffers.used() <= size);
        }
        for (n, account) in accounts.iter().enumerate() {
            (0..uploads[n]).for_each(|_| account.uploaded(true));
            charges[n].clear();
        }
        for account in &accounts {
            account.turn();
            prop_assert!(matches!(account.plan(1, Waker::noop()), Plan::Read(1)));
        }
        drop((accounts, charges));
        prop_assert_eq!(buffers.used(), 0);
    }
}

#[test]
fn windows_are_small_on_a_small_host() {
    assert_eq!(windows(512 << 20), (256 << 10, 512 << 10));
    assert_eq!(windows(64 << 20), (256 << 10, 512 << 10));
    assert_eq!(windows(32 << 20), (128 << 10, 256 << 10));
    assert_eq!(windows(4 << 20), (64 << 10, 128 << 10));
}

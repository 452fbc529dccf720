//! A DNS server on loopback for tests, with records that a test can change or break.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::Resolver;

/// Far longer than any step of a test takes.
pub(in crate::upstreams) const LONG: Duration = Duration::from_secs(20);

/// The response for a name and a type. All other names do not exist.
#[derive(Clone)]
pub(in crate::upstreams) enum Says {
    Records(Vec<RData>),
    Broken,
}

/// A DNS server with changing records.
#[derive(Clone, Default)]
pub(in crate::upstreams) struct Server {
    zone: Arc<Mutex<HashMap<(String, RecordType), Says>>>,
    pub(super) asked: Arc<AtomicUsize>,
    /// The TTL of the records in seconds. The default is longer than any maximum in the tests.
    pub(super) ttl: Arc<AtomicU32>,
}

impl Server {
    pub(in crate::upstreams) async fn start() -> (Self, Arc<Resolver>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::server(socket.local_addr().unwrap());
        let server = Self::default();
        server.ttl.store(3600, Ordering::Relaxed);
        tokio::spawn(server.clone().serve(socket));
        (server, Arc::new(resolver))
    }

    async fn serve(self, socket: UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            self.answer(&mut message);
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    }

    fn answer(&self, message: &mut Message) {
        let query = message.queries[0].clone();
        let (name, kind) = (query.name().to_ascii().to_lowercase(), query.query_type());
        let zone = self.zone.lock().unwrap();
        match zone.get(&(name.clone(), kind)).cloned() {
            Some(Says::Broken) => message.metadata.response_code = ResponseCode::ServFail,
            Some(Says::Records(data)) => {
                let ttl = self.ttl.load(Ordering::Relaxed);
                message.add_answers(data.into_iter().map(|data| Record::from_rdata(query.name().clone(), ttl, data)));
            }
            None if zone.keys().all(|(other, _)| *other != name) => {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            None => {}
        }
    }

    pub(in crate::upstreams) fn says(&self, name: &str, kind: RecordType, message: Says) {
        self.zone.lock().unwrap().insert((format!("{name}."), kind), message);
    }

    pub(in crate::upstreams) fn addresses(&self, name: &str, addresses: &[&str]) {
        let (v4, v6): (Vec<IpAddr>, Vec<_>) =
            addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).partition(IpAddr::is_ipv4);
        for (kind, addresses) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
            self.zone.lock().unwrap().remove(&(format!("{name}."), kind));
            if !addresses.is_empty() {
                self.says(name, kind, Says::Records(addresses.into_iter().map(RData::from).collect()));
            }
        }
    }

    pub(in crate::upstreams) fn services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, format!("{target}.").parse().unwrap()))
        };
        self.says(name, RecordType::SRV, Says::Records(services.iter().map(record).collect()));
    }

    pub(in crate::upstreams) fn forgets(&self) {
        self.zone.lock().unwrap().clear();
    }

    /// Waits for `more` further queries.
    pub(in crate::upstreams) async fn asked(&self, more: usize) {
        let asked = || self.asked.load(Ordering::Relaxed);
        let until = asked() + more;
        let waits = async {
            while asked() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, waits).await.unwrap();
    }
}

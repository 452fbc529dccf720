//! Following one source: asking, taking in what it says, and waiting until it is time to ask again.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::memory::{Answer, Memory};
use super::names::{Names, Service};
use super::settling::{CHANGING, Look, Settling};
use super::{Board, Endpoint, Pace};
use crate::base::files;
use crate::manifest::upstream::MOST_REPLICAS;
use crate::manifest::upstream::protocol::Scheme;
use crate::manifest::upstream::source;
use crate::manifest::upstream::source::{Fixed, Source};
use crate::upstreams::count;
use crate::upstreams::transport::Target;

/// The largest file of replicas, in bytes.
const FILE: u64 = 1 << 20;

/// A source, followed.
#[derive(Clone)]
pub(super) struct Follow {
    /// Its place on the board.
    pub(super) at: usize,
    pub(super) board: Arc<Board>,
    pub(super) names: Arc<Names>,
    pub(super) pace: Pace,
}

/// A line of a file that names its replica, followed.
struct Line {
    fixed: Fixed,
    memory: Memory,
    trouble: Option<String>,
    next: Instant,
}

impl Follow {
    /// A replica that is known by its address: there is nothing to follow.
    pub(super) fn fixed(&self, fixed: &Fixed) {
        self.board.put(self.at, fixed.address().map(|ip| endpoint(fixed, ip)).into_iter().collect());
        self.board.asked();
    }

    /// Names and service records, for ever.
    pub(super) async fn named(self, source: Source) {
        let mut memory = Memory::default();
        let mut first = true;
        loop {
            let answer = self.ask(&source, memory.known()).await;
            self.board.troubles.put(self.at, answer.trouble());
            let lesson = memory.learn(answer, Instant::now(), &self.pace, jitter());
            tell(&source, lesson.says);
            if lesson.changed {
                self.board.put(self.at, memory.known().to_vec());
            }
            if std::mem::take(&mut first) {
                self.board.asked();
            }
            tokio::time::sleep(lesson.next).await;
        }
    }

    /// A file, and the names in it, for ever.
    pub(super) async fn file(self, path: PathBuf) {
        let source = Source::File(path.clone());
        let mut lines: Vec<Line> = Vec::new();
        let (mut trouble, mut settling) = (None, Settling::default());
        // What is wrong with the content that was looked at last, which stays so until that changes.
        let mut wrong = None;
        // That the file never settles is logged once, until it does.
        let mut restless = false;
        let mut first = true;
        loop {
            match read(&path).await.map(|text| settling.look(text, Instant::now(), |text| named(text).is_ok())) {
                Ok(Look::Same) => (trouble, restless) = (wrong.clone(), false),
                Ok(Look::Wait) => {}
                Ok(Look::Take { text, settled }) => match named(&text) {
                    Ok(named) => {
                        if !settled && !std::mem::replace(&mut restless, true) {
                            let long = humantime::format_duration(CHANGING);
                            tracing::warn!(
                                "{source}: it has changed at every look for {long}; its last readable content is used; \
                                 write it to another name and rename it"
                            );
                        }
                        restless &= !settled;
                        tracing::info!("{source}: {} named", count(named.len()));
                        reconcile(&mut lines, named);
                        (trouble, wrong) = (None, None);
                    }
                    Err(why) => {
                        complain(&source, &mut trouble, why, lines.len());
                        wrong.clone_from(&trouble);
                    }
                },
                Err(why) => {
                    settling.unreadable();
                    complain(&source, &mut trouble, why, lines.len());
                }
            }
            self.look(&source, &mut lines).await;
            let of_line = || lines.iter().find_map(|line| Some(format!("{}: {}", line.fixed, line.trouble.as_ref()?)));
            self.board.troubles.put(self.at, trouble.clone().or_else(of_line));
            let known = lines.iter().flat_map(|line| line.memory.known().iter().cloned());
            self.board.put(self.at, known.collect());
            if std::mem::take(&mut first) {
                self.board.asked();
            }
            tokio::time::sleep(self.pace.file).await;
        }
    }

    /// Looks up the names in a file whose time has come.
    async fn look(&self, source: &Source, lines: &mut [Line]) {
        for line in lines {
            let now = Instant::now();
            if now < line.next {
                continue;
            }
            let answer = self.one(&line.fixed, line.memory.known()).await;
            line.trouble = answer.trouble();
            let lesson = line.memory.learn(answer, now, &self.pace, jitter());
            line.next = now + lesson.next;
            // Addresses have no news but those of the file.
            if line.fixed.address().is_none() {
                tell(source, lesson.says.map(|(text, bad)| (format!("{}: {text}", line.fixed), bad)));
            }
        }
    }

    async fn ask(&self, source: &Source, known: &[Endpoint]) -> Answer<Vec<Endpoint>> {
        match source {
            Source::Fixed(fixed) => self.one(fixed, known).await,
            Source::Dns { scheme, name, port } => self.all(*scheme, name, *port, 1, known).await,
            Source::Srv { scheme, name } => self.services(*scheme, name, known).await,
            Source::File(path) => Answer::Failed(format!("{}: is a file", path.display())),
        }
    }

    /// One replica: the first of its name's addresses, and the first of the other family.
    async fn one(&self, fixed: &Fixed, known: &[Endpoint]) -> Answer<Vec<Endpoint>> {
        if let Some(ip) = fixed.address() {
            return Answer::Good(vec![endpoint(fixed, ip)], self.pace.most);
        }
        match self.all(fixed.scheme, &fixed.host, fixed.port, fixed.weight, known).await {
            Answer::Good(found, lasts) => {
                let first = found.first().cloned();
                let one = first.map(|mut first| {
                    let v4 = first.target.address.is_ipv4();
                    let mut others = found.iter().map(|endpoint| endpoint.target.address);
                    first.target.other = others.find(|address| address.is_ipv4() != v4);
                    first
                });
                Answer::Good(one.into_iter().collect(), lasts)
            }
            other => other,
        }
    }

    /// A replica for each address of a name. `known` are those that there were, of whatever name.
    async fn all(
        &self,
        scheme: Scheme,
        name: &str,
        port: u16,
        weight: u32,
        known: &[Endpoint],
    ) -> Answer<Vec<Endpoint>> {
        // The certificate is for the name without the root's dot.
        let host: Arc<str> = name.strip_suffix('.').unwrap_or(name).into();
        let known = known.iter().map(|endpoint| &endpoint.target).filter(|target| target.host == host);
        let known: Vec<_> = known.flat_map(|target| [target.address].into_iter().chain(target.other)).collect();
        let known: Vec<_> = known.iter().map(SocketAddr::ip).collect();
        match self.names.addresses(name, &known).await {
            Answer::Good(addresses, lasts) => {
                let replica = |ip: IpAddr| {
                    let address = SocketAddr::new(ip, port);
                    Endpoint { target: Target { scheme, host: Arc::clone(&host), address, other: None }, weight }
                };
                Answer::Good(addresses.into_iter().take(MOST_REPLICAS).map(replica).collect(), lasts)
            }
            Answer::Empty(why) => Answer::Empty(why),
            Answer::Failed(why) => Answer::Failed(why),
        }
    }

    /// The targets of the best priority that has any: those of the next are for when all of it is gone from DNS.
    async fn services(&self, scheme: Scheme, name: &str, known: &[Endpoint]) -> Answer<Vec<Endpoint>> {
        let (services, mut lasts) = match self.names.services(name).await {
            Answer::Good(services, lasts) => (services, lasts),
            Answer::Empty(why) => return Answer::Empty(why),
            Answer::Failed(why) => return Answer::Failed(why),
        };
        let mut found: Vec<Endpoint> = Vec::new();
        for group in services.chunk_by(|a, b| a.priority == b.priority) {
            for Service { weight, port, name, .. } in group {
                match self.all(scheme, name, *port, u32::from(*weight).max(1), known).await {
                    Answer::Good(replicas, long) => {
                        found.extend(replicas);
                        lasts = lasts.min(long);
                    }
                    Answer::Empty(_) => {}
                    // Half an answer would take the other half away.
                    Answer::Failed(why) => return Answer::Failed(why),
                }
            }
            if !found.is_empty() {
                found.truncate(MOST_REPLICAS);
                return Answer::Good(found, lasts);
            }
        }
        Answer::Empty(format!("no target of {name} has an address"))
    }
}

fn endpoint(fixed: &Fixed, ip: IpAddr) -> Endpoint {
    let address = SocketAddr::new(ip, fixed.port);
    let target = Target { scheme: fixed.scheme, host: Arc::clone(&fixed.host), address, other: None };
    Endpoint { target, weight: fixed.weight }
}

/// Keeps what is known of lines that are still there.
fn reconcile(lines: &mut Vec<Line>, named: Vec<Fixed>) {
    let mut before = std::mem::take(lines);
    let now = Instant::now();
    lines.extend(named.into_iter().map(|fixed| {
        let same = before.iter().position(|line| line.fixed == fixed);
        same.map_or_else(
            || Line { fixed, memory: Memory::default(), trouble: None, next: now },
            |at| before.swap_remove(at),
        )
    }));
}

/// The replicas that a file names: at least one, at most [`MOST_REPLICAS`].
fn named(text: &str) -> Result<Vec<Fixed>, String> {
    let named = source::lines(text)?;
    match named.len() {
        0 => Err("names no replicas: to have none, take it out of the configuration".into()),
        many if many > MOST_REPLICAS => Err(format!("names {many} replicas, more than {MOST_REPLICAS}")),
        _ => Ok(named),
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let path = path.to_owned();
    // On a thread of the runtime's blocking pool, whose threads do not hold the host's end (`cli::block_on`).
    match tokio::task::spawn_blocking(move || files::read_text(&path, FILE)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Says what is wrong with a file, unless it was said last.
fn complain(source: &Source, said: &mut Option<String>, why: String, lines: usize) {
    if said.as_ref() != Some(&why) {
        tracing::warn!("{source}: {why}; what it said before counts: {}", count(lines));
    }
    *said = Some(why);
}

fn tell(source: &Source, says: Option<(String, bool)>) {
    match says {
        Some((text, true)) => tracing::warn!("{source}: {text}"),
        Some((text, false)) => tracing::info!("{source}: {text}"),
        None => {}
    }
}

fn jitter() -> u32 {
    getrandom::u32().unwrap_or_default()
}

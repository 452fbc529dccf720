//! Certificates from an authority, by ACME (RFC 8555).
//!
//! One task orders them, one after another, and renews them. Each certificate is a file with its key, which is replaced as a whole;
//! [`Certificates`](super::Certificates) reads it as it reads the files of operators, and uses the one before until then. So a
//! failure of the authority concerns no handshake. Account and certificates are in a directory per authority:
//! `PATH/AUTHORITY/account.json` and `PATH/AUTHORITY/FIRST-NAME.pem`. Hosts that share certificates copy these files by the server
//! of their state, and one of them orders.

mod account;
mod client;
mod directory;
mod failure;
mod order;
pub mod proofs;
mod schedule;
mod shared;
mod turn;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::timeout;

use self::account::blocking;
use self::client::AuthorityClient;
use self::directory::{file_of, is_for, of_authority, place, prepare, record, reserve, stored, write};
use self::failure::{FailureKind, OrderFailure};
use self::order::CertificateRequest;
use self::proofs::{ProofPlaces, Proofs};
use self::schedule::{OrderAttempts, renewal};
use self::shared::SharedFiles;
use super::MOST_BYTES;
use super::certificate::Certificate;
use crate::guests::stores::Stores;
use lodge_base::config::{self, Config};
use lodge_base::files::{self, SecretReplacement};
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_base::time::rfc3339;

/// The longest time between two looks at the files: somebody may remove one, and the clock may be set.
const LOOK: u64 = 60;

/// The longest time of an order.
const ORDER: Duration = Duration::from_secs(10 * 60);

/// The pause while another process of this directory, or another host, orders.
const BUSY: u64 = 3;

/// The certificates that the host gets from an authority.
pub struct AcmeClient {
    settings: config::acme::Acme,
    directory: PathBuf,
    proofs: Arc<Proofs>,
    /// What this host shares with others.
    shared: Option<SharedFiles>,
    metrics: Arc<Metrics>,
    wanted: Vec<Wanted>,
}

/// A certificate that the host is to have.
struct Wanted {
    names: Vec<String>,
    /// The file with its key and chain.
    file: PathBuf,
    state: Mutex<OrderState>,
}

/// What is known of a certificate.
#[derive(Default)]
struct OrderState {
    attempts: OrderAttempts,
    /// What decides when this certificate is renewed.
    chance: u32,
    /// Validity of the certificate in the file.
    validity: Option<(i64, i64)>,
    /// Why the last attempt failed.
    problem: Option<String>,
}

/// A certificate from an authority, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedCertificate {
    /// Its names, the first of which is that of its file.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970; `None` if there is none yet.
    pub expires: Option<i64>,
    /// When it is ordered or renewed, in seconds since 1970; the present time while it is.
    pub renewal: u64,
    /// Why the last attempt to get or renew it failed.
    pub problem: Option<String>,
}

impl AcmeClient {
    /// Prepares the directory; `None` if no certificates are wanted.
    ///
    /// # Errors
    /// One line, if the directory cannot be written, since what an authority issues could not be kept, or the keys for what hosts
    /// share cannot be used.
    pub fn new(config: &Config, metrics: &Arc<Metrics>, stores: &Arc<Stores>) -> Result<Option<Self>, String> {
        let settings = config.tls.acme.clone();
        if settings.certificates.is_empty() {
            return Ok(None);
        }
        let shared = SharedFiles::new(config, stores)?;
        let directory = place(config).join(of_authority(&settings));
        prepare(&directory)
            .map_err(|error| format!("tls.acme.path: {} cannot be used: {error}", directory.display()))?;
        let wanted = settings.certificates.iter().filter_map(|names| {
            let file = file_of(&directory, names.first()?);
            let state = Mutex::new(OrderState { attempts: stored(&file), chance: chance(), ..OrderState::default() });
            Some(Wanted { names: names.clone(), file, state })
        });
        let wanted: Vec<_> = wanted.collect();
        Ok(Some(Self { settings, directory, proofs: Arc::default(), shared, metrics: Arc::clone(metrics), wanted }))
    }

    /// Returns the proofs for the orders in progress.
    pub fn proofs(&self) -> &Arc<Proofs> {
        &self.proofs
    }

    /// Returns the files of the certificates, which need not exist.
    pub fn files(&self) -> Vec<PathBuf> {
        self.wanted.iter().map(|wanted| wanted.file.clone()).collect()
    }

    /// Returns how names are proven.
    pub fn challenge(&self) -> config::acme::AcmeChallenge {
        self.settings.challenge
    }

    /// Returns what is known of each certificate.
    pub fn certificates(&self) -> Vec<OrderedCertificate> {
        let shown = self.wanted.iter().map(|wanted| {
            let state = lock(&wanted.state);
            let (names, problem) = (wanted.names.clone(), state.problem.clone());
            OrderedCertificate {
                names,
                expires: state.validity.map(|(_, to)| to),
                renewal: state.due().max(seconds()),
                problem,
            }
        });
        shown.collect()
    }

    /// Orders and renews certificates, and follows the proofs of other hosts. Never returns.
    pub async fn run(self: Arc<Self>) {
        match &self.shared {
            Some(shared) => {
                tokio::join!(Arc::clone(&self).attend_all(), self.proofs.follow(self.settings.challenge, shared)).0
            }
            None => self.attend_all().await,
        }
    }

    async fn attend_all(self: Arc<Self>) {
        loop {
            let mut next = seconds().saturating_add(LOOK);
            for number in 0..self.wanted.len() {
                next = next.min(Arc::clone(&self).attend(number).await);
            }
            let pause = next.saturating_sub(seconds()).clamp(1, LOOK);
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    /// Orders a certificate if it is due, and returns when it is looked at next.
    async fn attend(self: Arc<Self>, number: usize) -> u64 {
        let Some(wanted) = self.wanted.get(number) else { return u64::MAX };
        self.look(number).await;
        let due = lock(&wanted.state).due();
        if due > seconds() {
            return due;
        }
        let _turn = match self.begin_turn(number).await {
            Ok(Some(turn)) => turn,
            Ok(None) => return seconds().saturating_add(BUSY),
            Err(failure) => {
                self.metrics.acme_orders.count(self.failed(number, failure, None));
                return lock(&wanted.state).due();
            }
        };
        // Another process or host may have renewed it while this one waited.
        self.look(number).await;
        if lock(&wanted.state).due() > seconds() {
            return lock(&wanted.state).due();
        }
        // A panic of a library is a failure of this attempt, not of all certificates.
        let ended = isolated(Arc::clone(&self).get(number)).await;
        let result = match ended.unwrap_or_else(|why| Err((OrderFailure::unusable(why), None))) {
            Ok(()) => {
                self.look(number).await;
                self.issued(number)
            }
            Err((failure, wait)) => self.failed(number, failure, wait),
        };
        let this = Arc::clone(&self);
        if let Err(failure) = blocking(move || this.record(number)).await {
            tracing::warn!("tls.acme.path: {}", failure.why);
        }
        self.give(number).await;
        self.metrics.acme_orders.count(result);
        lock(&wanted.state).due()
    }

    /// Reads the files of a certificate. One that is damaged or for other names counts as none.
    async fn look(self: &Arc<Self>, number: usize) {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let wanted = this.wanted.get(number)?;
            let text = files::read(&wanted.file, MOST_BYTES).ok();
            let found = text.and_then(|text| Certificate::new(&text, &text).ok());
            let found = found.filter(|found| is_for(found, &wanted.names));
            Some((found.map(|found| (found.not_before, found.not_after)), stored(&wanted.file)))
        });
        let (Ok(Some((validity, attempts))), Some(wanted)) = (read.await, self.wanted.get(number)) else { return };
        let mut state = lock(&wanted.state);
        state.attempts.look(attempts, seconds());
        if state.validity != validity {
            (state.validity, state.chance) = (validity, chance());
        }
    }

    /// Gets a certificate and writes it. An error has the time that the authority asks to wait until.
    async fn get(self: Arc<Self>, number: usize) -> Result<(), (OrderFailure, Option<SystemTime>)> {
        let without = |failure| (failure, None);
        let Some(wanted) = self.wanted.get(number) else { return Ok(()) };
        let ca = self.settings.ca.clone();
        let client = blocking(move || AuthorityClient::new(ca.as_deref()).map_err(OrderFailure::unusable)).await;
        let client = client.map_err(without)?;
        let attempt = async {
            match self.order(number, &client).await {
                // An authority that was set up anew does not know the account of before.
                Err(failure) if failure.kind == FailureKind::UnknownAccount => {
                    tracing::warn!("{}; a new account is created", failure.why);
                    let directory = self.directory.clone();
                    blocking(move || account::forget(&directory)).await?;
                    self.order(number, &client).await
                }
                other => other,
            }
        };
        let late = || OrderFailure::refused(format!("no certificate within {}", humantime::format_duration(ORDER)));
        let issued = timeout(ORDER, attempt).await.unwrap_or_else(|_| Err(late()));
        let (replacement, text) = issued.map_err(|failure| (failure, client.wait()))?;
        let (names, in_use) = (wanted.names.clone(), lock(&wanted.state).validity);
        let written = blocking(move || write(replacement, &names, &text, in_use, seconds())).await;
        written.map_err(|failure| (failure, client.wait()))
    }

    /// Orders a certificate. Returns its key and chain, as PEM in one text, and the place for them.
    async fn order(
        self: &Arc<Self>,
        number: usize,
        client: &AuthorityClient,
    ) -> Result<(SecretReplacement, String), OrderFailure> {
        let account = account::open(&self.settings, &self.directory, client.clone()).await?;
        let this = Arc::clone(self);
        let (request, replacement) = blocking(move || this.begin(number)).await?;
        self.announce_order(number).await?;
        let names = self.wanted.get(number).map_or(&[][..], |wanted| &wanted.names);
        let places = ProofPlaces { own: &self.proofs, shared: self.shared.as_ref() };
        let chain = order::order(&account, names, &request, self.settings.challenge, places).await?;
        Ok((replacement, format!("{}{chain}", request.key)))
    }

    /// Makes a key, reserves the place of the certificate, and records that an order begins. Without this record nothing is ordered:
    /// a host that restarts would do so again and again. Blocking.
    fn begin(&self, number: usize) -> Result<(CertificateRequest, SecretReplacement), OrderFailure> {
        let wanted = self.wanted.get(number).ok_or_else(|| OrderFailure::unusable("there is no such certificate"))?;
        let request = CertificateRequest::new(&wanted.names)?;
        let replacement = reserve(&wanted.file, &request.key)?;
        lock(&wanted.state).attempts.begin(seconds());
        self.record(number)?;
        Ok((request, replacement))
    }

    /// Writes the attempts for a certificate. Blocking.
    fn record(&self, number: usize) -> Result<(), OrderFailure> {
        let Some(wanted) = self.wanted.get(number) else { return Ok(()) };
        let attempts = lock(&wanted.state).attempts.clone();
        record(&wanted.file, &attempts)
    }

    /// Records a success, and returns the result for metrics. A certificate that is due again at once is no success: then the clock
    /// of one side is wrong.
    fn issued(&self, number: usize) -> &'static str {
        const ISSUED: &str = "issued";
        let Some(wanted) = self.wanted.get(number) else { return ISSUED };
        let (names, now) = (wanted.names.join(", "), seconds());
        let mut state = lock(&wanted.state);
        let Some((_, expires)) = state.validity.filter(|(from, to)| renewal(*from, *to, 0) > now) else {
            drop(state);
            let why = "the certificate that the authority issued is in use, but to be renewed at once; is the clock of this machine right?";
            return self.failed(number, OrderFailure::new(FailureKind::DueAtOnce, why), None);
        };
        state.attempts.succeed(now, u64::try_from(expires).unwrap_or(0).saturating_sub(now));
        state.problem = None;
        let (expires, next) = (shown(u64::try_from(expires).unwrap_or(0)), shown(state.due()));
        tracing::info!(
            "the authority has issued a certificate for {names}; it expires at {expires}, and is renewed at {next}"
        );
        ISSUED
    }

    /// Records a failure and logs it, and returns the result for metrics.
    fn failed(&self, number: usize, failure: OrderFailure, wait: Option<SystemTime>) -> &'static str {
        let result = failure.kind.name();
        let Some(wanted) = self.wanted.get(number) else { return result };
        let (now, wait) = (seconds(), wait.and_then(since_1970));
        let mut state = lock(&wanted.state);
        match failure.kind {
            FailureKind::Unreachable | FailureKind::Nonce => state.attempts.miss(now, wait, chance()),
            _ => state.attempts.fail(now, wait, chance()),
        }
        let pause = humantime::format_duration(Duration::from_secs(state.due().saturating_sub(now)));
        let kept = if state.validity.is_some() && failure.kind != FailureKind::DueAtOnce {
            "; the one before stays in use"
        } else {
            ""
        };
        let (names, authority) = (wanted.names.join(", "), self.settings.directory.host().unwrap_or_default());
        let why = failure.why;
        tracing::warn!("no certificate for {names} from {authority}: {why}; the next attempt is in {pause}{kept}");
        state.problem = Some(why);
        result
    }
}

impl OrderState {
    /// Returns when the certificate is ordered, in seconds since 1970.
    fn due(&self) -> u64 {
        let renewal = self.validity.map_or(0, |(from, to)| renewal(from, to, self.chance).max(self.attempts.rest()));
        renewal.max(self.attempts.due())
    }
}

/// Runs an attempt in a task of its own, which ends with the caller. An error says that it panicked.
async fn isolated<T: Send + 'static>(attempt: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let mut task = JoinSet::new();
    task.spawn(attempt);
    match task.join_next().await {
        Some(Ok(ended)) => Ok(ended),
        Some(Err(crash)) => Err(format!("the attempt has crashed: {crash}")),
        None => Err("the attempt did not run".into()),
    }
}

fn shown(at: u64) -> String {
    // The end of the year 9999, after which RFC 3339 has no times.
    UNIX_EPOCH.checked_add(Duration::from_secs(at.min(253_402_300_799))).map_or_else(|| "?".to_owned(), rfc3339)
}

fn since_1970(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn seconds() -> u64 {
    since_1970(SystemTime::now()).unwrap_or(0)
}

fn chance() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

impl std::fmt::Debug for AcmeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcmeClient").field("directory", &self.directory).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! Watches a canary: ends when the host withdraws it, and tells a canary that did well from one that nobody judged.

use std::time::{Duration, Instant};

use crate::admin::contract::{Judgement, ServiceDetails};
use crate::cli::client::{AdminClient, encoded};
use crate::cli::out::{self, CliError, clean, notice};
use crate::cli::units::count;

/// The interval between looks at a canary.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The longest wait for one response.
const RESPONSE: Duration = Duration::from_secs(10);

/// A version that is watched.
pub(super) struct Watch<'a> {
    pub(super) client: &'a AdminClient,
    pub(super) service: &'a str,
    /// The version: `users@canary`.
    pub(super) version: String,
    /// The SHA-256 of its component.
    pub(super) digest: Option<&'a str>,
    /// For how long.
    pub(super) time: Duration,
    /// The least requests that have to count; `None` for as many as a comparison with its service needs.
    pub(super) least: Option<u64>,
    /// The interval between looks: [`LOOK`].
    pub(super) interval: Duration,
}

/// What a look at a host shows.
enum Answer {
    Seen(Box<ServiceDetails>),
    /// The host does not respond, and may later.
    Away(CliError),
}

/// By how much a version was judged while it was watched.
#[derive(Default)]
struct Watched {
    requests: u64,
    comparisons: u64,
    last: Option<Judgement>,
}

impl Watched {
    /// Takes the counts of a look, which begin anew with the host and with a change of the service.
    fn add(&mut self, now: &Judgement) {
        if let Some(last) = &self.last {
            let since = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now);
            self.requests += since(now.requests, last.requests);
            self.comparisons += since(now.comparisons, last.comparisons);
        }
        self.last = Some(now.clone());
    }

    /// Whether it was judged by as many requests as are wanted.
    fn suffices(&self, least: Option<u64>) -> bool {
        least.map_or(self.comparisons > 0, |least| self.requests >= least)
    }
}

impl Watch<'_> {
    /// Watches until the time is over.
    ///
    /// # Errors
    /// If the host withdraws the version, has it no more, or cannot be reached at the end; if somebody else has replaced it; and
    /// [`CliError::Unjudged`] if it was not judged by as many requests as are wanted.
    pub(super) fn run(&self) -> Result<(), CliError> {
        let (start, mut watched, mut is_away) = (Instant::now(), Watched::default(), false);
        loop {
            let answer = self.look(self.time.saturating_sub(start.elapsed()))?;
            let is_over = start.elapsed() >= self.time;
            match answer {
                Answer::Seen(details) => {
                    is_away = false;
                    self.check(&details)?;
                    watched.add(&details.status.activity.judged.clone().unwrap_or_default());
                    if is_over {
                        return self.judge(&watched, &details);
                    }
                }
                Answer::Away(why) if is_over => return Err(why),
                Answer::Away(why) => {
                    if !std::mem::replace(&mut is_away, true) {
                        let left = humantime::format_duration(self.time.saturating_sub(start.elapsed()));
                        let left = left.to_string();
                        let whole = left.split(' ').next().unwrap_or_default();
                        notice(&format!("{}; trying again, for {whole} at most", why.into_text()));
                    }
                }
            }
            std::thread::park_timeout(self.interval.min(self.time.saturating_sub(start.elapsed())));
        }
    }

    fn look(&self, left: Duration) -> Result<Answer, CliError> {
        let path = format!("/v1/services/{}", encoded(&self.version));
        let client = self.client.clone().with_timeout(left.clamp(LOOK, RESPONSE));
        match client.exchange("GET", &path, None) {
            Ok(response) if response.status == 200 => {
                client.read(&response.text).map(|seen| Answer::Seen(Box::new(seen)))
            }
            Ok(response) if matches!(response.status, 502..=504) => Ok(Answer::Away(client.failure(&path, &response))),
            Ok(response) => Err(client.failure_of(&self.version, &path, &response)),
            Err(why @ CliError::Unreachable(_)) => Ok(Answer::Away(why)),
            Err(why) => Err(why),
        }
    }

    /// Fails if it is another component, or the host withdrew it.
    fn check(&self, seen: &ServiceDetails) -> Result<(), CliError> {
        let (version, now) = (&self.version, &seen.status.info.digest);
        if self.digest.is_some_and(|digest| digest != now) {
            let why = format!("another deployment has replaced {version}: it is {} now", now.get(..12).unwrap_or(now));
            return Err(CliError::new(why));
        }
        match &seen.status.activity.withdrawn {
            Some(why) => Err(CliError::new(format!("the host withdrew {version}: {why}"))),
            None => Ok(()),
        }
    }

    /// Says by how many requests it was judged, and fails if they are not enough.
    fn judge(&self, watched: &Watched, seen: &ServiceDetails) -> Result<(), CliError> {
        let Self { version, service, time, .. } = self;
        let (time, requests) = (humantime::format_duration(*time), count(watched.requests, "request"));
        if watched.suffices(self.least) {
            let compared = if watched.comparisons > 0 { "" } else { ", too few to compare it" };
            return out::line(&format!("{version} was judged by {requests} in {time}{compared}, and not withdrawn"));
        }
        let margins = seen.status.info.share.as_ref().and_then(|share| share.rollback.as_ref());
        let why = match (self.least, margins) {
            (_, None) => "its manifest has no [rollback], without which no request is judged".to_owned(),
            (Some(least), _) => format!("--min-requests is {least}"),
            (None, Some(margins)) => format!(
                "a comparison with {service} needs {} of each in a minute (rollback.minimum)",
                count(margins.minimum, "request")
            ),
        };
        Err(CliError::Unjudged(format!(
            "{version} was not judged: {requests} of it counted in {time}, and {why}; nothing was changed; give it more requests, \
             or say with --min-requests=N how many suffice (0: none)"
        )))
    }
}

/// Tells that a version was promoted that was never compared with its service.
pub(super) fn notice_unjudged(service: &str, judged: Option<&Judgement>) {
    if let Some(Judgement { requests, comparisons: 0 }) = judged {
        let requests = count(*requests, "request");
        let service = clean(service);
        notice(&format!(
            "what {service} serves now was not judged before: {requests} of it counted, and none was compared"
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Watches a host that gives these answers, one for each look, and the last one for all others: a status and a body, or no
    /// response. Returns the result, and how many looks there were.
    fn watch(least: Option<u64>, answers: &[(u16, &str)]) -> (Result<(), CliError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = AdminClient::new(listener.local_addr().unwrap(), None).unwrap();
        let answers: Vec<_> = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        let (done, is_done) = std::sync::mpsc::sync_channel::<()>(1);
        let server = std::thread::spawn(move || {
            let mut looks = 0;
            for stream in listener.incoming() {
                if is_done.try_recv().is_ok() {
                    break;
                }
                let (status, body) = answers.get(looks).or(answers.last()).unwrap();
                looks += 1;
                let mut stream = stream.unwrap();
                if *status == 0 {
                    continue;
                }
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
            }
            looks
        });
        let address = client.url();
        let watch = Watch {
            client: &client,
            service: "users",
            version: "users@canary".into(),
            digest: Some("ab"),
            time: Duration::from_millis(100),
            least,
            interval: Duration::from_millis(5),
        };
        let result = watch.run();
        done.send(()).unwrap();
        drop(std::net::TcpStream::connect(address.trim_start_matches("http://")));
        (result, server.join().unwrap())
    }

    fn seen(requests: u64, comparisons: u64, more: &str) -> String {
        let share = r#""share":{"percent":10,"rollback":{"errors":1,"p99":1.5,"minimum":100}}"#;
        let judged = format!(r#""judged":{{"requests":{requests},"comparisons":{comparisons}}}"#);
        format!(r#"{{"name":"users@canary","digest":"ab",{share},{judged}{more}}}"#)
    }

    /// A canary that nobody judged has not passed, unless that is what is wanted.
    #[test]
    fn only_what_was_judged_passes() {
        let (few, many) = (seen(7, 0, ""), seen(900, 3, ""));
        let (result, looks) = watch(None, &[(200, &seen(0, 0, "")), (200, &few)]);
        let Err(CliError::Unjudged(why)) = result else { panic!("{result:?}") };
        let needs = "users@canary was not judged: 7 requests of it counted in 100ms, and a comparison with users needs 100 requests";
        assert!(why.starts_with(needs) && why.contains("--min-requests=N") && looks > 2, "{why} {looks}");
        assert!(watch(None, &[(200, &few), (200, &many)]).0.is_ok());
        assert!(matches!(watch(None, &[(200, &many)]).0, Err(CliError::Unjudged(_))), "it was judged before");
        assert!(watch(Some(7), &[(200, &seen(0, 0, "")), (200, &few)]).0.is_ok());
        assert!(watch(Some(0), &[(200, &few)]).0.is_ok());
        let (result, _) = watch(Some(8), &[(200, &seen(0, 0, "")), (200, &few)]);
        assert!(matches!(&result, Err(CliError::Unjudged(why)) if why.contains("--min-requests is 8")), "{result:?}");
        let (result, _) = watch(None, &[(200, r#"{"name":"users@canary","digest":"ab"}"#)]);
        assert!(matches!(&result, Err(CliError::Unjudged(why)) if why.contains("no [rollback]")), "{result:?}");
    }

    /// A short outage of the host or of the proxy before it ends no watch; an answer that is final does, at once.
    #[test]
    fn outages_are_waited_for() {
        let good = seen(900, 3, "");
        for away in [(0, ""), (502, "bad gateway"), (503, "starting"), (504, "")] {
            let (result, looks) = watch(None, &[(200, &seen(0, 0, "")), away, away, (200, &good)]);
            assert!(result.is_ok() && looks > 4, "{away:?}: {result:?} {looks}");
            let (result, looks) = watch(None, &[(200, &good), away]);
            let Err(why) = result else { panic!("{away:?} {looks}") };
            assert!(!matches!(why, CliError::Unjudged(_)) && looks > 2, "{away:?}: {why:?} {looks}");
        }
        let withdrawn = seen(900, 3, r#","withdrawn":"10 % of its requests failed""#);
        let other = good.replace(r#""ab""#, r#""cd""#);
        for (last, expected) in [
            ((200, &*withdrawn), "the host withdrew users@canary: 10 %"),
            ((200, &other), "another deployment has replaced users@canary: it is cd now"),
            ((401, ""), "requires a token"),
            ((403, ""), "403"),
            ((404, ""), "404"),
        ] {
            let (result, looks) = watch(None, &[(200, &good), last]);
            let why = result.unwrap_err().into_text();
            // A host that has no such service is asked which it has.
            assert!(why.contains(expected) && looks <= 3 || last.0 == 404, "{last:?}: {why} {looks}");
        }
    }

    #[test]
    fn counts_of_a_watch() {
        let mut watched = Watched::default();
        let mut add = |requests, comparisons| watched.add(&Judgement { requests, comparisons });
        // What was counted before is not of this watch, and a host that has started anew counts from zero.
        add(500, 9);
        add(510, 9);
        add(3, 0);
        add(7, 1);
        assert_eq!((watched.requests, watched.comparisons), (10 + 3 + 4, 1));
        let judged = |requests, comparisons, least| Watched { requests, comparisons, last: None }.suffices(least);
        assert!(!judged(0, 0, None) && !judged(99, 0, None) && judged(0, 1, None));
        assert!(judged(0, 0, Some(0)) && judged(5, 0, Some(5)) && !judged(4, 9, Some(5)));
    }
}

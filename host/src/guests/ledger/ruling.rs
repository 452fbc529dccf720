//! What becomes of the files of a service or version, by what they take away of what it denied:
//!
//! | taken away | manifest | text | service of a version | files |
//! |---|---|---|---|---|
//! | known | gone or empty | any | any | refused as withdrawn |
//! | partly known | gone or empty | any | any | refused as unknown |
//! | may return | gone or empty | unsure | any | wait |
//! | known, partly known, may return | there | unsure | any | wait |
//! | nothing, or of a complete text | gone or empty | any | denies | refused as withdrawn |
//! | nothing, or of a complete text | any | any | otherwise | as those of the service |
//! | nothing, or of a complete text | any | any | it is none | followed |
//!
//! Files that wait are there again: from then on, their service may not return without a manifest.

use lodge_manifest::refusal::Refusal;

/// What becomes of the files of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// They are followed.
    Follow,
    /// What they say is refused, and what is served stays.
    Refuse(Refusal),
    /// They may be incomplete for as long as their manifest is unsure.
    Wait,
}

/// What files take away of what a service denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing.
    Nothing,
    /// What a service denied that may return without a manifest, since its files were gone, or that its version is enabled by.
    Returning,
    /// What a manifest denied of which only a part could be read.
    Partly,
    /// What is served, or was remembered.
    Known,
}

/// What a ruling depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardState {
    pub(super) loss: Loss,
    /// The manifest is gone or empty.
    pub(super) is_blank: bool,
    /// The text is complete, as far as can be known.
    pub(super) is_sure: bool,
    /// Of a version: whether what is served of its service denies requests.
    pub(super) service: Option<bool>,
}

/// What is ruled by a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Follow,
    Wait,
    /// What was denied is known, so its manifest has to be written again.
    Withdrawn,
    /// What was denied is not known, so its manifest has to be written again.
    Unknown,
    /// The ruling on the files of its service.
    AsService,
}

impl GuardState {
    /// Rules by the table.
    pub(super) fn verdict(self) -> Verdict {
        match (self.loss, self.is_blank, self.is_sure, self.service) {
            (Loss::Known, true, _, _) => Verdict::Withdrawn,
            (Loss::Partly, true, _, _) => Verdict::Unknown,
            (Loss::Returning | Loss::Partly | Loss::Known, _, false, _) => Verdict::Wait,
            (_, true, _, Some(true)) => Verdict::Withdrawn,
            (_, _, _, Some(_)) => Verdict::AsService,
            (_, _, _, None) => Verdict::Follow,
        }
    }
}

/// The refusal of a manifest that is gone or empty, after one that could not be read.
pub(super) fn unknown(file: &str) -> Refusal {
    let reason = "it is gone or empty, and the one before had mistakes, so that it is not known what it denied";
    Refusal::new(file, reason, "write it again; a comment is enough to take everybody's requests")
}

/// The refusal of a manifest that is gone or empty.
pub(super) fn withdrawn(file: &str) -> Refusal {
    let reason = "it is gone or empty, and the one before denied requests (by `auth`, `allow`, `deny`, `rules`, `rate`, `validate`, \
                  `api`, `digest`, `middleware`, `enabled`, `headers.request`, `redirects`, `upstream.tls`, \
                  or the hosts, methods, rewriting or absence of `routes`)";
    Refusal::new(file, reason, "write it again; a comment is enough to take everybody's requests")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state is in one row, and has its verdict.
    #[test]
    fn every_state_has_one_row() {
        const TABLE: &str = "
            known     blank  *         *        withdrawn
            partly    blank  *         *        unknown
            returning blank  unsure    *        wait
            returning blank  complete  alone    follow
            returning blank  complete  denies   withdrawn
            returning blank  complete  open     service
            nothing   blank  *         alone    follow
            nothing   blank  *         denies   withdrawn
            nothing   blank  *         open     service
            known     text   unsure    *        wait
            partly    text   unsure    *        wait
            returning text   unsure    *        wait
            known     text   complete  alone    follow
            known     text   complete  denies   service
            known     text   complete  open     service
            partly    text   complete  alone    follow
            partly    text   complete  denies   service
            partly    text   complete  open     service
            returning text   complete  alone    follow
            returning text   complete  denies   service
            returning text   complete  open     service
            nothing   text   *         alone    follow
            nothing   text   *         denies   service
            nothing   text   *         open     service";
        let rows: Vec<Vec<_>> = TABLE.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
        let losses = [Loss::Nothing, Loss::Returning, Loss::Partly, Loss::Known];
        let services = [(None, "alone"), (Some(true), "denies"), (Some(false), "open")];
        for (loss, name) in losses.into_iter().zip(["nothing", "returning", "partly", "known"]) {
            for (is_blank, manifest) in [(true, "blank"), (false, "text")] {
                for (is_sure, text) in [(true, "complete"), (false, "unsure")] {
                    for (service, of) in services {
                        let state = GuardState { loss, is_blank, is_sure, service };
                        let is = |row: &&Vec<&str>| {
                            [name, manifest, text, of].iter().zip(row.iter()).all(|(is, row)| is == row || *row == "*")
                        };
                        let found: Vec<_> = rows.iter().filter(is).map(|row| row[4]).collect();
                        let verdict = match state.verdict() {
                            Verdict::Follow => "follow",
                            Verdict::Wait => "wait",
                            Verdict::Withdrawn => "withdrawn",
                            Verdict::Unknown => "unknown",
                            Verdict::AsService => "service",
                        };
                        assert_eq!(found, [verdict], "{state:?}");
                    }
                }
            }
        }
    }
}

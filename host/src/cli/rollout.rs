//! Formats the share of requests that a version gets.

use crate::admin::contract::{RollbackMargins, VersionShare, VersionStatus};

/// Formats a share in one line: `10 %, header:x-version=2; mirror 5 %; rollback errors +1 %, p99 ×1.5, from 100
/// requests`.
pub(super) fn format_share(share: &VersionShare) -> String {
    let mut words = vec![format!("{} %", share.percent)];
    words.extend(share.rules.iter().cloned());
    let mut text = words.join(", ");
    if share.mirror > 0.0 {
        text.push_str(&format!("; mirror {} %", share.mirror));
    }
    if let Some(RollbackMargins { errors, p99, minimum }) = &share.rollback {
        text.push_str(&format!("; rollback errors +{errors} %, p99 ×{p99}, from {minimum} requests"));
    }
    text
}

/// Formats a share in one word: the percentage, or else how the version gets requests.
pub(super) fn short_share(share: &VersionShare) -> String {
    match share {
        VersionShare { percent, .. } if *percent > 0.0 => format!("{percent}%"),
        VersionShare { rules, .. } if !rules.is_empty() => "by rule".into(),
        VersionShare { mirror, .. } if *mirror > 0.0 => "mirror".into(),
        _ => "0%".into(),
    }
}

/// Formats a version of a service: `users@2 10 %`, with its state if it is not serving.
pub(super) fn format_version(version: &VersionStatus) -> String {
    let VersionStatus { name, percent, state } = version;
    let out =
        if ["serving", "failing", "unloaded", ""].contains(&&**state) { String::new() } else { format!(", {state}") };
    format!("{name} {percent} %{out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_shares() {
        let rules = vec!["header:x-version=2".to_owned(), "cookie:v=2".to_owned()];
        let rollback = Some(RollbackMargins { errors: 1.0, p99: 1.5, minimum: 100 });
        for (share, long, short) in [
            (VersionShare::default(), "0 %", "0%"),
            (VersionShare { percent: 2.5, ..VersionShare::default() }, "2.5 %", "2.5%"),
            (
                VersionShare { rules: rules.clone(), ..VersionShare::default() },
                "0 %, header:x-version=2, cookie:v=2",
                "by rule",
            ),
            (VersionShare { mirror: 5.0, ..VersionShare::default() }, "0 %; mirror 5 %", "mirror"),
            (
                VersionShare { percent: 10.0, rules: rules[..1].into(), mirror: 5.0, rollback },
                "10 %, header:x-version=2; mirror 5 %; rollback errors +1 %, p99 ×1.5, from 100 requests",
                "10%",
            ),
        ] {
            assert_eq!((format_share(&share).as_str(), short_share(&share).as_str()), (long, short));
        }
        let it = |state: &str| {
            format_version(&VersionStatus { name: "users@2".into(), percent: 10.0, state: state.to_owned().into() })
        };
        assert_eq!([it("unloaded"), it("withdrawn")], ["users@2 10 %", "users@2 10 %, withdrawn"]);
    }
}

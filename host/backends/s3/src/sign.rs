//! Signatures of requests: AWS Signature Version 4, with all headers and the hash of the body.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::{digest, hmac};

use crate::credentials::AccessKey;

/// What is signed of a request. Names of headers are in lower case; path and query are as they are sent.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Sorted, and encoded.
    pub(crate) query: &'a str,
    pub(crate) region: &'a str,
    /// The SHA-256 of the body.
    pub(crate) hash: &'a str,
}

/// Adds the headers of a signature to `headers`.
pub(crate) fn sign(
    request: &Unsigned<'_>,
    headers: &mut Vec<(&'static str, String)>,
    key: &AccessKey,
    now: SystemTime,
) {
    let time = basic_time(now);
    headers.push(("x-amz-date", time.clone()));
    headers.push(("x-amz-content-sha256", request.hash.to_owned()));
    if let Some(token) = key.token() {
        headers.push(("x-amz-security-token", token.to_owned()));
    }
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let Unsigned { method, path, query, region, hash } = request;
    let mut canonical = format!("{method}\n{path}\n{query}\n");
    for (name, value) in headers.iter() {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{hash}");
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
    let mut secret = format!("AWS4{}", key.secret()).into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        secret = mac(&secret, part.as_bytes());
    }
    let signature = hex(&mac(&secret, text.as_bytes()));
    let id = key.id();
    let value = format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
    headers.push(("authorization", value));
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time as `20130524T000000Z`.
fn basic_time(time: SystemTime) -> String {
    extended_time(time).chars().filter(|letter| !matches!(letter, '-' | ':')).collect::<String>() + "Z"
}

/// A time as `2013-05-24T00:00:00`. Texts of this form are in the order of their times.
pub(crate) fn extended_time(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The algorithm `civil_from_days` of Howard Hinnant: years begin in March, and eras have 400 of them.
    let day = days.saturating_add(719_468);
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era.saturating_mul(400) + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written() {
        let at = |seconds| extended_time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56");
        assert_eq!(at(1_369_353_600), "2013-05-24T00:00:00");
        assert_eq!(at(4_102_444_799), "2099-12-31T23:59:59");
    }

    /// The example "GET Object" of the documentation of Signature Version 4.
    #[test]
    fn the_signature_is_that_of_the_example() {
        let key = AccessKey::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
        let hash = hex(&sha256(b""));
        let request = Unsigned { method: "GET", path: "/test.txt", query: "", region: "us-east-1", hash: &hash };
        let mut headers =
            vec![("range", "bytes=0-9".to_owned()), ("host", "examplebucket.s3.amazonaws.com".to_owned())];
        sign(&request, &mut headers, &key, UNIX_EPOCH + Duration::from_secs(1_369_353_600));
        let (_, value) = headers.iter().find(|(name, _)| *name == "authorization").unwrap();
        assert!(
            value.ends_with(
                "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                 Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
            ),
            "{value}"
        );
    }
}

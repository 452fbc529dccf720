//! Conformance of the shared cache, case by case: the cases about shared caches of the public test suite for HTTP
//! caches (cache-tests.fyi), under their names there, and more of the same kinds.
//!
//! Excluded: cases for caches of browsers (`immutable`, `private` in a private cache) and of content delivery networks
//! (`CDN-Cache-Control`), and interim responses, which never reach the cache.

use super::proxy::How::{Hit, Miss, Validated};
use super::proxy::{BRIEF, HOUR, check};

/// Freshness by `Cache-Control` and by `Expires`.
#[tokio::test]
async fn freshness() {
    check(&[
        ("freshness-none", "", "", "", Miss),
        ("freshness-max-age", "", "cache-control: max-age=3600", "", Hit),
        ("freshness-max-age-stale", "", BRIEF, "", Miss),
        ("freshness-max-age-0", "", "cache-control: max-age=0", "", Miss),
        ("freshness-max-age-max-minus-1", "", "cache-control: max-age=2147483647", "", Hit),
        ("freshness-max-age-max", "", "cache-control: max-age=2147483648", "", Hit),
        ("freshness-max-age-max-plus-1", "", "cache-control: max-age=2147483649", "", Hit),
        ("freshness-max-age-max-plus", "", "cache-control: max-age=99999999999", "", Hit),
        ("freshness-max-age-age", "", "date: {0}\ncache-control: max-age=3600\nage: 7200", "", Miss),
        ("freshness-max-age-date", "", "date: {-7200}\ncache-control: max-age=3600", "", Miss),
        ("freshness-max-age-expires", "", "cache-control: max-age=3600\nexpires: {-7200}\ndate: {0}", "", Hit),
        ("freshness-max-age-expires-invalid", "", "cache-control: max-age=3600\nexpires: 0\ndate: {0}", "", Hit),
        ("freshness-max-age-0-expires", "", "expires: {3600}\ncache-control: max-age=0\ndate: {0}", "", Miss),
        ("freshness-max-age-extension", "", "cache-control: foobar, max-age=3600", "", Hit),
        ("freshness-max-age-case-insenstive", "", "cache-control: MaX-aGe=3600", "", Hit),
        ("freshness-max-age-negative", "", "cache-control: max-age=-3600", "", Miss),
        ("freshness-s-maxage-shared", "", "cache-control: s-maxage=3600", "", Hit),
        ("freshness-max-age-s-maxage-shared-longer", "", "cache-control: max-age=3600, s-maxage=1", "", Miss),
        ("freshness-max-age-s-maxage-shared-longer-reversed", "", "cache-control: s-maxage=1, max-age=3600", "", Miss),
        (
            "freshness-max-age-s-maxage-shared-longer-multiple",
            "",
            "cache-control: max-age=3600\ncache-control: s-maxage=1",
            "",
            Miss,
        ),
        ("freshness-max-age-s-maxage-shared-shorter", "", "cache-control: max-age=1, s-maxage=3600", "", Hit),
        (
            "freshness-max-age-s-maxage-shared-shorter-expires",
            "",
            "expires: {-10}\ncache-control: max-age=0, s-maxage=3600",
            "",
            Hit,
        ),
        ("freshness-expires-future", "", "expires: {2592000}\ndate: {0}", "", Hit),
        ("freshness-expires-past", "", "expires: {-2592000}\ndate: {0}", "", Miss),
        ("freshness-expires-present", "", "expires: {0}\ndate: {0}", "", Miss),
        ("freshness-expires-old-date", "", "expires: {300}\ndate: {400}", "", Miss),
        ("freshness-expires-invalid", "", "expires: 0\ndate: {0}", "", Miss),
        ("freshness-expires-invalid-date", "", "date: foo\nexpires: {10}", "", Hit),
        ("freshness-expires-age-slow-date", "", "date: {-10}\nexpires: {10}\nage: 25", "", Miss),
        ("freshness-expires-age-fast-date", "", "date: {10}\nexpires: {20}\nage: 15", "", Miss),
        // An age by `Date` alone, which leaves some of the lifetime.
        ("a `Date` behind by less than the lifetime", "", "date: {-3000}\ncache-control: max-age=3600", "", Hit),
        ("the longer of `Age` and `Date`", "", "date: {-3598}\ncache-control: max-age=3600\nage: 1", "", Miss),
    ])
    .await;
}

/// How `Cache-Control` is parsed.
#[tokio::test]
async fn directives() {
    check(&[
        // Contradictory values make a response stale.
        ("freshness-max-age-two-fresh-stale-sameline", "", "cache-control: max-age=1800, max-age=1", "", Miss),
        (
            "freshness-max-age-two-fresh-stale-sepline",
            "",
            "cache-control: max-age=1800\ncache-control: max-age=1",
            "",
            Miss,
        ),
        ("freshness-max-age-two-stale-fresh-sameline", "", "cache-control: max-age=1, max-age=1800", "", Miss),
        (
            "freshness-max-age-two-stale-fresh-sepline",
            "",
            "cache-control: max-age=1\ncache-control: max-age=1800",
            "",
            Miss,
        ),
        ("freshness-max-age-quoted", "", "cache-control: max-age=\"3600\"", "", Hit),
        ("freshness-max-age-ignore-quoted", "", "cache-control: extension=\"max-age=3600\", max-age=1", "", Miss),
        ("freshness-max-age-ignore-quoted-rev", "", "cache-control: max-age=1, extension=\"max-age=3600\"", "", Miss),
        ("a quoted list", "", "cache-control: max-age=3600, extension=\"a, max-age=1, no-store\"", "", Hit),
        ("freshness-max-age-space-before-equals", "", "cache-control: max-age =3600", "", Miss),
        ("freshness-max-age-space-after-equals", "", "cache-control: max-age= 3600", "", Miss),
        ("freshness-max-age-leading-zero", "", "cache-control: max-age=003600", "", Hit),
        ("freshness-max-age-single-quoted", "", "cache-control: max-age='3600'", "", Miss),
        ("freshness-max-age-decimal-zero", "", "cache-control: max-age=3600.0", "", Miss),
        ("freshness-max-age-decimal-five", "", "cache-control: max-age=3600.5", "", Miss),
        ("freshness-max-age-a100", "", "cache-control: max-age=a3600", "", Miss),
        ("freshness-max-age-100a", "", "cache-control: max-age=3600a", "", Miss),
        ("cc-resp-private-shared", "", "cache-control: private, max-age=3600", "", Miss),
        ("cc-resp-no-store", "", "cache-control: no-store", "", Miss),
        ("cc-resp-no-store-case-insensitive", "", "cache-control: No-StOrE", "", Miss),
        ("cc-resp-no-store-fresh", "", "cache-control: max-age=10000, no-store\nexpires: {10000}\ndate: {0}", "", Miss),
        ("cc-resp-no-cache", "", "cache-control: max-age=10000, no-cache\nexpires: {10000}\ndate: {0}", "", Miss),
        ("cc-resp-no-cache-case-insensitive", "", "cache-control: max-age=10000, No-CaChE\ndate: {0}", "", Miss),
        // A response that has to be validated at every use is not stored.
        ("cc-resp-no-cache-revalidate", "", "cache-control: no-cache\netag: \"abcd\"", "", Miss),
        ("cc-resp-no-cache-revalidate-fresh", "", "cache-control: max-age=10000, no-cache\netag: \"abcd\"", "", Miss),
        (
            "headers-omit-headers-listed-in-Cache-Control-no-cache",
            "",
            "cache-control: no-cache=\"a, b\"\na: 1\ncache-control: max-age=3600",
            "",
            Miss,
        ),
        ("cc-resp-must-revalidate-fresh", "", "cache-control: max-age=10000, must-revalidate\netag: \"abcd\"", "", Hit),
        ("a fresh proxy-revalidate", "", "cache-control: max-age=10000, proxy-revalidate", "", Hit),
        (
            "cc-resp-must-revalidate-stale",
            "",
            "cache-control: max-age=2, must-revalidate\netag: \"abcd\"",
            "",
            Validated,
        ),
        ("pragma-request-no-cache", "", HOUR, "pragma: no-cache", Miss),
        ("pragma-request-extension", "", HOUR, "pragma: unrecognised-extension", Hit),
        ("pragma-response-no-cache", "", "cache-control: max-age=3600\npragma: no-cache", "", Hit),
        ("pragma-response-no-cache-heuristic", "", "date: {0}\nlast-modified: {-10000}\npragma: no-cache", "", Miss),
        ("pragma-response-extension", "", "cache-control: max-age=3600\npragma: unrecognised-extension", "", Hit),
    ])
    .await;
}

/// How `Age` and `Expires` are parsed.
#[tokio::test]
async fn ages_and_dates() {
    let age = |name: &'static str, age: &'static str, expected| (name, "", age, "", expected);
    check(&[
        age("age-parse-nonnumeric", "cache-control: max-age=3600\nage: abc", Hit),
        age("age-parse-negative", "cache-control: max-age=3600\nage: -7200", Hit),
        age("age-parse-float", "cache-control: max-age=3600\nage: 7200.0", Hit),
        age("age-parse-large-minus-one", "cache-control: max-age=3600\nage: 2147483647", Miss),
        age("age-parse-large", "cache-control: max-age=3600\nage: 2147483648", Miss),
        age("age-parse-larger", "cache-control: max-age=3600\nage: 2147483649", Miss),
        age("no number holds it", "cache-control: max-age=3600\nage: 99999999999999999999999", Miss),
        age("age-parse-suffix", "cache-control: max-age=3600\nage: 7200, 0", Miss),
        age("age-parse-prefix", "cache-control: max-age=3600\nage: 0, 7200", Hit),
        age("age-parse-suffix-twoline", "cache-control: max-age=3600\nage: 7200\nage: 0", Miss),
        age("age-parse-prefix-twoline", "cache-control: max-age=3600\nage: 0\nage: 7200", Hit),
        age("age-parse-dup-0", "cache-control: max-age=3600\nage: 0, 0", Hit),
        age("age-parse-dup-0-twoline", "cache-control: max-age=3600\nage: 0\nage: 0", Hit),
        age("age-parse-dup-old", "cache-control: max-age=10000\nage: 3600\nage: 3600", Hit),
        // An invalid number is ignored.
        age("age-parse-parameter", "cache-control: max-age=3600\nage: 7200;foo=bar", Hit),
        age("age-parse-numeric-parameter", "cache-control: max-age=3600\nage: 7200;foo=111", Hit),
    ])
    .await;
    let expires = |name: &'static str, expires: &'static str, expected| (name, "", expires, "", expected);
    check(&[
        expires("freshness-expires-32bit", "expires: Tue, 19 Jan 2038 14:14:08 GMT", Hit),
        expires("freshness-expires-far-future", "expires: Sun, 21 Nov 2286 04:46:39 GMT", Hit),
        expires("freshness-expires-rfc850", "expires: Thursday, 18-Aug-50 02:01:18 GMT", Hit),
        expires("freshness-expires-ansi-c", "expires: Mon Aug  8 02:01:18 2050", Hit),
        // Dates that do not exist.
        expires("freshness-expires-ansi-c, as it is there", "expires: Thu Aug  8 02:01:18 2050", Miss),
        // Dates are case-sensitive (RFC 9110, 5.6.7).
        expires("freshness-expires-wrong-case-weekday", "expires: THU, 18 Aug 2050 02:01:18 GMT", Miss),
        expires("freshness-expires-wrong-case-month", "expires: Thu, 18 AUG 2050 02:01:18 GMT", Miss),
        expires("freshness-expires-wrong-case-tz", "expires: Thu, 18 Aug 2050 02:01:18 gMT", Miss),
        expires("freshness-expires-invalid-utc", "expires: Thu, 18 Aug 2050 02:01:18 UTC", Miss),
        expires("freshness-expires-invalid-aest", "expires: Thu, 18 Aug 2050 02:01:18 AEST", Miss),
        expires("freshness-expires-invalid-2-digit-year", "expires: Thu, 18 Aug 50 02:01:18 GMT", Miss),
        expires("freshness-expires-invalid-no-comma", "expires: Thu 18 Aug 2050 02:01:18 GMT", Miss),
        expires("freshness-expires-invalid-multiple-spaces", "expires: Thu, 18  Aug  2050 02:01:18 GMT", Miss),
        expires("freshness-expires-invalid-date-dashes", "expires: Thu, 18-Aug-2050 02:01:18 GMT", Miss),
        expires("freshness-expires-invalid-time-periods", "expires: Thu, 18 Aug 2050 02.01.18 GMT", Miss),
        expires("freshness-expires-invalid-1-digit-hour", "expires: Thu, 18 Aug 2050 2:01:18 GMT", Miss),
        expires(
            "freshness-expires-invalid-multiple-lines",
            "expires: Thu, 18 Aug 2050 02:01:18 GMT\nexpires: Thu, 18 Aug 2050 02:01:19 GMT",
            Miss,
        ),
    ])
    .await;
}

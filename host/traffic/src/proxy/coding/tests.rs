use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use Coding::{Brotli, Gzip, Zstd};

fn accepted(lines: &[impl AsRef<[u8]>], offered: &[Coding]) -> Vec<Coding> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_ref()).unwrap());
    }
    AcceptedCodings::of(&headers).among(offered).collect()
}

#[test]
fn clients_choose() {
    let check = |lines: &[&str], expected: &[Coding]| {
        assert_eq!(accepted(lines, &Coding::ALL), expected, "{lines:?}");
    };
    check(&[], &[]);
    check(&[""], &[]);
    check(&[" , ,, "], &[]);
    check(&["identity"], &[]);
    check(&["gzip"], &[Gzip]);
    check(&["GZip"], &[Gzip]);
    check(&["x-gzip"], &[Gzip]);
    check(&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip]);
    check(&["gzip", "br"], &[Brotli, Gzip]);
    check(&["gzip;q=1.0, br;q=0.5"], &[Gzip, Brotli]);
    check(&["br;q=0.001, gzip;q=0.01"], &[Gzip, Brotli]);
    check(&["gzip; Q=0.5, zstd ; q = 0.75"], &[Zstd, Gzip]);
    check(&["\tgzip\t;\tq=0.5\t,br;;q=1"], &[Brotli, Gzip]);
    check(&["gzip;level=9;q=0.5, br;q=0.4"], &[Gzip, Brotli]);
    check(&["*"], &[Brotli, Zstd, Gzip]);
    check(&["*;q=0.5, gzip"], &[Gzip, Brotli, Zstd]);
    check(&["br;q=0, *"], &[Zstd, Gzip]);
    check(&["gzip;q=0"], &[]);
    check(&["gzip;q=0.000"], &[]);
    // Not valid, so nothing is promised.
    for weight in ["2", "0.1234", "-1", "", "1.001", ".5", "0,5", "1e0", "00", "\"1\"", "1 0"] {
        check(&[&format!("gzip;q={weight}")], &[]);
    }
    check(&["deflate, compress"], &[]);
    check(&["gzipped, xgzip, brotli, zst"], &[]);
    // Of two values of one coding the lower one counts, in whichever order they are.
    check(&["gzip;q=0, gzip"], &[]);
    check(&["gzip", "x-gzip;q=0"], &[]);
    check(&["gzip;q=1;q=0"], &[]);
    check(&["*;q=0, *"], &[]);
    // What an unclosed quotation mark hides may exclude a coding.
    check(&["gzip, a=\", gzip;q=0"], &[]);
    check(&["gzip", "a=\""], &[]);
    // A client may prefer a response without a coding.
    check(&["identity, gzip;q=0.5"], &[]);
    check(&["identity;q=0.5, gzip;q=0.5, br;q=0.4"], &[Gzip]);
    check(&["identity;q=0, gzip;q=0.1"], &[Gzip]);
    check(&["identity;q=0"], &[]);
    check(&["*;q=0"], &[]);
    let many = format!("{}gzip", "a;q=0.5, ".repeat(7_000));
    check(&[&many], &[Gzip]);
}

#[test]
fn equals_are_in_the_order_of_the_offer() {
    assert_eq!(accepted(&["gzip, br, zstd;q=0.5"], &[Gzip, Zstd, Brotli]), [Gzip, Brotli, Zstd]);
    assert_eq!(accepted(&["*"], &[Zstd, Gzip]), [Zstd, Gzip]);
    assert_eq!(accepted(&["*"], &[]), []);
}

/// A member of the header: how it is written, and the quality value that it means in thousandths.
fn member() -> impl Strategy<Value = (&'static str, String, u16)> {
    let name = prop::sample::select(vec!["br", "zstd", "gzip", "x-gzip", "identity", "*", "deflate"]);
    let weights = vec![
        ("", 1_000),
        ("q=1", 1_000),
        ("Q=1.000", 1_000),
        ("q=0", 0),
        ("q=0.0", 0),
        ("q=0.25", 250),
        ("q=0.5", 500),
        ("q=7", 0),
    ];
    let space = || prop::sample::select(vec!["", " ", "\t", "  "]);
    (name, prop::sample::select(weights), space(), space(), any::<bool>()).prop_map(
        |(name, (weight, value), before, after, upper)| {
            let shown = if upper { name.to_ascii_uppercase() } else { name.to_owned() };
            let mark = if weight.is_empty() { "" } else { ";" };
            (name, format!("{before}{shown}{after}{mark}{before}{weight}{after}"), value)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The codings are those that no member excludes, by falling quality.
    #[test]
    fn the_header_is_obeyed(
        lines in prop::collection::vec(prop::collection::vec(member(), 0..5), 0..3),
        offered in prop::sample::subsequence(vec![Zstd, Brotli, Gzip], 0..=3),
    ) {
        let members: Vec<_> = lines.iter().flatten().collect();
        let of = |names: &[&str]| members.iter().filter(|it| names.contains(&it.0)).map(|it| it.2).min();
        let quality = |coding: Coding| {
            let names: &[_] = match coding {
                Brotli => &["br"],
                Zstd => &["zstd"],
                Gzip => &["gzip", "x-gzip"],
            };
            of(names).or(of(&["*"])).unwrap_or(0)
        };
        let plain = of(&["identity"]).unwrap_or(0);
        let written: Vec<_> = lines.iter().map(|line| line.iter().map(|it| it.1.as_str()).collect::<Vec<_>>().join(",")).collect();
        let mut expected: Vec<_> = offered.iter().copied().filter(|it| quality(*it) > 0 && quality(*it) >= plain).collect();
        expected.sort_by_key(|coding| Reverse(quality(*coding)));
        prop_assert_eq!(accepted(&written, &offered), expected, "{:?}", written);
    }
}

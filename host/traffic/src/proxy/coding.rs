//! Content codings (RFC 9110, 8.4.1), and which of them a client accepts (12.5.3). Pure.

use http::header::{self, HeaderMap, HeaderValue};

use super::lists::{self, Quoting};

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Brotli (RFC 7932).
    Brotli,
    /// Zstandard (RFC 8878).
    Zstd,
    /// GZIP (RFC 1952).
    Gzip,
}

/// A quality value of 1, in thousandths.
const FULL: u16 = 1_000;

impl Coding {
    /// Every coding, in the order of the host's preference: the smallest result first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// The name in `Content-Encoding`.
    pub fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        })
    }

    /// The end of the name of a compressed file.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// Returns the codings that a client accepts and does not like less than none, the one that it likes best first. Without
    /// `Accept-Encoding` it accepts none.
    pub fn accepted(headers: &HeaderMap) -> impl Iterator<Item = Self> + use<> {
        let (mut weights, mut others, mut plain) = ([None; 3], None, None);
        for element in lists::elements(headers, &header::ACCEPT_ENCODING, Quoting::Escapes) {
            let mut parts = lists::parts(element, b';', Quoting::Escapes);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(quality).unwrap_or(FULL);
            match name.as_slice() {
                b"br" => weights[0] = Some(weight),
                b"zstd" => weights[1] = Some(weight),
                b"gzip" | b"x-gzip" => weights[2] = Some(weight),
                b"identity" => plain = Some(weight),
                b"*" => others = Some(weight),
                _ => {}
            }
        }
        let weights = weights.map(|weight| weight.or(others).unwrap_or(0));
        let least = plain.unwrap_or(0).max(1);
        let mut order = [0, 1, 2];
        // Stable, so the host's preference decides among equals.
        order.sort_by_key(|at: &usize| std::cmp::Reverse(weights.get(*at).copied()));
        let accepted = move |at: &usize| weights.get(*at).is_some_and(|weight| *weight >= least);
        order.into_iter().filter(accepted).filter_map(|at| Self::ALL.get(at).copied())
    }
}

/// Reads `q=0.5`, in thousandths; `None` if it is another parameter. A weight that is not valid is 0.
fn quality(parameter: &[u8]) -> Option<u16> {
    let (name, value) = str::from_utf8(parameter).ok()?.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, digits) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let sound = digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let thousandths = format!("{digits:0<3}").parse::<u16>().ok().filter(|_| sound);
    Some(match (whole, thousandths) {
        ("0", Some(part)) => part,
        ("1", Some(0)) => FULL,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose() {
        use Coding::{Brotli, Gzip, Zstd};
        let check = |lines: &[&'static str], expected: &[Coding]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(Coding::accepted(&headers).collect::<Vec<_>>(), expected, "{lines:?}");
        };
        check(&[], &[]);
        check(&[""], &[]);
        check(&["identity"], &[]);
        check(&["gzip"], &[Gzip]);
        check(&["GZip"], &[Gzip]);
        check(&["x-gzip"], &[Gzip]);
        check(&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip]);
        check(&["gzip", "br"], &[Brotli, Gzip]);
        check(&["gzip;q=1.0, br;q=0.5"], &[Gzip, Brotli]);
        check(&["br;q=0.001, gzip;q=0.01"], &[Gzip, Brotli]);
        check(&["gzip; Q=0.5, zstd ; q = 0.75"], &[Zstd, Gzip]);
        check(&["*"], &[Brotli, Zstd, Gzip]);
        check(&["*;q=0.5, gzip"], &[Gzip, Brotli, Zstd]);
        check(&["br;q=0, *"], &[Zstd, Gzip]);
        check(&["gzip;q=0"], &[]);
        check(&["gzip;q=0.000"], &[]);
        // Not valid, so nothing is promised.
        check(&["gzip;q=2"], &[]);
        check(&["gzip;q=0.1234"], &[]);
        check(&["gzip;q=-1"], &[]);
        check(&["gzip;q="], &[]);
        check(&["gzip;q=1.001"], &[]);
        check(&["deflate, compress"], &[]);
        // A client may prefer a response without a coding.
        check(&["identity, gzip;q=0.5"], &[]);
        check(&["identity;q=0.5, gzip;q=0.5, br;q=0.4"], &[Gzip]);
        check(&["identity;q=0, gzip;q=0.1"], &[Gzip]);
        check(&["*;q=0"], &[]);
    }
}

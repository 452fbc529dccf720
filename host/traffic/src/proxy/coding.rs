//! Which content codings a client accepts (RFC 9110, 12.5.3). Pure.

use std::cmp::Reverse;

use http::header::{self, HeaderMap};

use super::lists::{self, Quoting};
use lodge_manifest::compress::Coding;

/// A quality value of 1, in thousandths.
const FULL: u16 = 1_000;

/// What a client says of the codings in `Accept-Encoding`: quality values in thousandths. If it says two things of one coding, the lower
/// value counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptedCodings {
    brotli: u16,
    zstd: u16,
    gzip: u16,
    /// That of a response without a coding.
    plain: u16,
}

impl AcceptedCodings {
    /// Reads the head of a request. Without the header, or if a line of it cannot be read, the client accepts no coding.
    pub fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT_ENCODING);
        if !lines.iter().all(|line| lists::is_closed(line.as_bytes(), Quoting::Escapes)) {
            return Self::default();
        }
        let (mut brotli, mut zstd, mut gzip, mut plain, mut others) = (None, None, None, None, None);
        for element in lists::elements(headers, &header::ACCEPT_ENCODING, Quoting::Escapes) {
            let mut parts = lists::parts(element, b';', Quoting::Escapes);
            let name = parts.next().unwrap_or_default();
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let place = match () {
                () if is("br") => &mut brotli,
                () if is("zstd") => &mut zstd,
                () if is("gzip") || is("x-gzip") => &mut gzip,
                () if is("identity") => &mut plain,
                () if is("*") => &mut others,
                () => continue,
            };
            let weight = parts.filter_map(quality).min().unwrap_or(FULL);
            *place = Some(place.map_or(weight, |known: u16| known.min(weight)));
        }
        let weight = |own: Option<u16>| own.or(others).unwrap_or(0);
        Self { brotli: weight(brotli), zstd: weight(zstd), gzip: weight(gzip), plain: plain.unwrap_or(0) }
    }

    /// Returns those of the `offered` codings that the client accepts and does not like less than none, the one that it likes best
    /// first; those that it likes equally in the order of `offered`, of which the first three count.
    pub fn among(self, offered: &[Coding]) -> impl Iterator<Item = Coding> + use<> {
        let mut order = [None; Coding::ALL.len()];
        for (place, coding) in order.iter_mut().zip(offered) {
            *place = Some(*coding);
        }
        // Stable. Empty places become the last ones.
        order.sort_by_key(|coding| Reverse(coding.map(|coding| self.weight(coding))));
        let least = self.plain.max(1);
        order.into_iter().flatten().filter(move |coding| self.weight(*coding) >= least)
    }

    fn weight(self, coding: Coding) -> u16 {
        match coding {
            Coding::Brotli => self.brotli,
            Coding::Zstd => self.zstd,
            Coding::Gzip => self.gzip,
        }
    }
}

/// Reads `q=0.5`, in thousandths; `None` if it is another parameter. A weight that is not valid is 0.
fn quality(parameter: &[u8]) -> Option<u16> {
    let Ok(text) = str::from_utf8(parameter) else { return Some(0) };
    let (name, value) = text.split_once('=')?;
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
mod tests;

//! Values that only some interfaces have a form for, in the binary form of PostgreSQL.

use std::net::{Ipv4Addr, Ipv6Addr};

use lodge_state::postgres::{MAX_TRANSFER, PostgresDetail, PostgresError, PostgresValue};
use tokio_postgres::types::Type;

use super::parts::{PartReader, array, array_from};
use super::{TOO_LARGE, elements, exact, form, malformed, text};

/// The families of addresses.
const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// Reads a value, which may be a [`PostgresDetail`].
///
/// # Errors
/// As [`read`](super::read).
pub(super) fn decode(of: &Type, bytes: &[u8]) -> Result<PostgresValue, PostgresError> {
    let value = super::decode(of, bytes)?;
    if !matches!(value, PostgresValue::Unsupported(_)) {
        return Ok(value);
    }
    let detail = match (form(of), elements(of)) {
        (name, Some(element)) if name.starts_with('_') => {
            let item = |bytes: &[u8]| decode(element, bytes).map(Some);
            array(bytes, item, PostgresValue::size)?.map(PostgresDetail::Array)
        }
        (name, _) => scalar(name, bytes)?,
    };
    Ok(detail.map_or(value, |detail| PostgresValue::Detailed(Box::new(detail))))
}

fn scalar(name: &str, bytes: &[u8]) -> Result<Option<PostgresDetail>, PostgresError> {
    Ok(match name {
        "date" => infinity(i32::from_be_bytes(exact(bytes)?), (i32::MIN, i32::MAX)),
        "timestamp" | "timestamptz" => infinity(i64::from_be_bytes(exact(bytes)?), (i64::MIN, i64::MAX)),
        "bit" | "varbit" => Some(bits(bytes)?),
        "inet" | "cidr" => Some(PostgresDetail::Address(address(bytes)?)),
        "macaddr" => Some(mac(&exact::<6>(bytes)?)),
        "macaddr8" => Some(mac(&exact::<8>(bytes)?)),
        "point" => Some(coordinates::<2>(bytes)?),
        "circle" => Some(coordinates::<3>(bytes)?),
        "lseg" | "box" => Some(coordinates::<4>(bytes)?),
        "polygon" => Some(polygon(bytes)?),
        "pg_lsn" => Some(PostgresDetail::Position(u64::from_be_bytes(exact(bytes)?))),
        "pg_snapshot" => Some(snapshot(bytes)?),
        "hstore" => Some(pairs(bytes)?),
        "int2vector" => {
            let item = |bytes: &[u8]| Ok(Some(PostgresValue::Int16(i16::from_be_bytes(exact(bytes)?))));
            array_from(0, bytes, item, PostgresValue::size)?.map(PostgresDetail::Array)
        }
        _ => None,
    })
}

/// Returns infinity; `None` for other values.
fn infinity<T: PartialEq>(at: T, (least, most): (T, T)) -> Option<PostgresDetail> {
    (at == most || at == least).then(|| PostgresDetail::Infinity { positive: at == most })
}

fn bits(bytes: &[u8]) -> Result<PostgresDetail, PostgresError> {
    let mut rest = PartReader(bytes);
    let count = u32::try_from(rest.number()?).map_err(|_| malformed())?;
    let fits = usize::try_from(count.div_ceil(8)).is_ok_and(|needed| needed == rest.0.len());
    fits.then(|| PostgresDetail::Bits(count, rest.0.to_vec())).ok_or_else(malformed)
}

/// Returns an address, or a network, as the server writes it.
fn address(bytes: &[u8]) -> Result<String, PostgresError> {
    let [family, length, is_network, _, address @ ..] = bytes else { return Err(malformed()) };
    let (text, most) = match *family {
        IPV4 => (Ipv4Addr::from(exact::<4>(address)?).to_string(), 32),
        IPV6 => (Ipv6Addr::from(exact::<16>(address)?).to_string(), 128),
        _ => return Err(malformed()),
    };
    Ok(if *length == most && *is_network == 0 { text } else { format!("{text}/{length}") })
}

fn mac(bytes: &[u8]) -> PostgresDetail {
    PostgresDetail::Address(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

fn coordinates<const N: usize>(bytes: &[u8]) -> Result<PostgresDetail, PostgresError> {
    if bytes.len() != N * 8 {
        return Err(malformed());
    }
    let mut rest = PartReader(bytes);
    (0..N).map(|_| rest.chunk().map(f64::from_be_bytes)).collect::<Result<_, _>>().map(PostgresDetail::Coordinates)
}

fn polygon(bytes: &[u8]) -> Result<PostgresDetail, PostgresError> {
    let mut rest = PartReader(bytes);
    let count = usize::try_from(rest.number()?).map_err(|_| malformed())?;
    if count.checked_mul(16) != Some(rest.0.len()) {
        return Err(malformed());
    }
    let numbers = (0..count * 2).map(|_| rest.chunk().map(f64::from_be_bytes));
    numbers.collect::<Result<_, _>>().map(PostgresDetail::Coordinates)
}

fn snapshot(bytes: &[u8]) -> Result<PostgresDetail, PostgresError> {
    let mut rest = PartReader(bytes);
    let count = usize::try_from(rest.number()?).map_err(|_| malformed())?;
    let mut next = || rest.chunk().map(i64::from_be_bytes);
    let (first, end) = (next()?, next()?);
    let running = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
    Ok(PostgresDetail::Snapshot(first, end, running))
}

fn pairs(bytes: &[u8]) -> Result<PostgresDetail, PostgresError> {
    let mut rest = PartReader(bytes);
    let owned = |bytes| text(bytes)?.ok_or_else(malformed);
    let (mut pairs, mut size) = (Vec::new(), 0_usize);
    for _ in 0..rest.number()? {
        let key = owned(rest.value()?.ok_or_else(malformed)?)?;
        let value = rest.value()?.map(owned).transpose()?;
        size = size.saturating_add(key.len()).saturating_add(value.as_ref().map_or(0, String::len)).saturating_add(64);
        if size > MAX_TRANSFER {
            return Err(TOO_LARGE);
        }
        pairs.push((key, value));
    }
    Ok(PostgresDetail::Pairs(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_server() {
        assert_eq!(address(&[2, 32, 0, 4, 10, 0, 0, 1]).as_deref(), Ok("10.0.0.1"));
        assert_eq!(address(&[2, 8, 0, 4, 10, 0, 0, 1]).as_deref(), Ok("10.0.0.1/8"));
        assert_eq!(address(&[2, 32, 1, 4, 10, 0, 0, 1]).as_deref(), Ok("10.0.0.1/32"));
        let v6 = [3, 128, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(address(&v6).as_deref(), Ok("2001:db8::1"));
        for wrong in [&[][..], &[2, 32, 0], &[2, 32, 0, 4, 10], &[9, 32, 0, 4, 10, 0, 0, 1]] {
            assert_eq!(address(wrong), Err(PostgresError::Lost), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_of_its_type_is_refused() {
        for (name, bytes) in [
            ("bit", &[0, 0, 0, 9, 1][..]),
            ("bit", &[255, 255, 255, 255]),
            ("point", &[0; 15]),
            ("polygon", &[0, 0, 0, 2, 0, 0, 0, 0]),
            ("pg_snapshot", &[0, 0, 0, 1, 0, 0, 0, 0]),
            ("hstore", &[0, 0, 0, 1, 255, 255, 255, 255]),
            ("hstore", &[0, 0, 0, 1, 0, 0, 0, 9, 1]),
            ("macaddr", &[0; 5]),
        ] {
            assert_eq!(scalar(name, bytes), Err(PostgresError::Lost), "{name} {bytes:?}");
        }
        assert_eq!(scalar("bit", &[0, 0, 0, 9, 1, 128]), Ok(Some(PostgresDetail::Bits(9, vec![1, 128]))));
    }
}

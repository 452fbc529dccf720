use proptest::prelude::*;

use super::*;

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, body].concat()
}

fn addresses(source: SocketAddr, extensions: &[u8]) -> Vec<u8> {
    let (ip, port) = (source.ip(), source.port().to_be_bytes());
    let (family, both) = match ip {
        IpAddr::V4(v4) => (0x11, [v4.octets(), [10, 0, 0, 1]].concat()),
        IpAddr::V6(v6) => (0x21, [v6.octets(), [9; 16]].concat()),
    };
    v2(0x21, family, &[&both, &port[..], &[1, 187], extensions].concat())
}

#[test]
fn whose_connection_it_is() {
    let client = |address: &str| Source::Client(address.parse().unwrap());
    for (text, source) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", client("192.0.2.1:56324")),
        ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", client("0.0.0.0:0")),
        ("PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", client("[2001:db8::1]:1")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", client("[::ffff:192.0.2.1]:1")),
        ("PROXY UNKNOWN\r\n", Source::Unknown),
        ("PROXY UNKNOWN ffff::f ffff::e 65535 65535\r\n", Source::Unknown),
        ("PROXY UNKNOWN \u{e9}\r\n", Source::Unknown),
    ] {
        assert_eq!(parse(text.as_bytes()), Ok(Some((source, text.len()))), "{text}");
    }
    let extensions = [&[4, 0, 5][..], b"noopX"].concat();
    for (header, source) in [
        (addresses("192.0.2.1:56324".parse().unwrap(), &[]), client("192.0.2.1:56324")),
        (addresses("192.0.2.1:56324".parse().unwrap(), &extensions), client("192.0.2.1:56324")),
        (addresses("[2001:db8::1]:7".parse().unwrap(), &extensions), client("[2001:db8::1]:7")),
        (addresses("[2001:db8::1]:7".parse().unwrap(), &[0; MOST - 52]), client("[2001:db8::1]:7")),
        (v2(0x21, 0x00, &[]), Source::Unknown),
        (v2(0x21, 0x00, &[1; 36]), Source::Unknown),
        // Of the proxy's own connections, everything else is ignored.
        (v2(0x20, 0x00, &[]), Source::Local),
        (v2(0x20, 0x11, &[1; 12]), Source::Local),
        (v2(0x20, 0x31, &[]), Source::Local),
    ] {
        assert_eq!(parse(&header), Ok(Some((source, header.len()))), "{header:?}");
    }
}

#[test]
fn what_is_no_header() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "\u{16}\u{3}\u{1}",
        "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 [::1] ::2 1 2\r\n",
        "PROXY TCP6 ::1%1 ::2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2  2\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY unknown\r\n",
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text:?}");
    }
    let long = |length: usize| format!("PROXY UNKNOWN {}\r\n", "a".repeat(length - 16));
    assert_eq!(parse(long(MOST_V1).as_bytes()), Ok(Some((Source::Unknown, MOST_V1))));
    assert!(parse(long(MOST_V1 + 1).as_bytes()).unwrap_err().contains("longer than 107"));
    for (header, why) in [
        (v2(0x11, 0x11, &[0; 12]), "version"),
        (v2(0x22, 0x11, &[0; 12]), "command"),
        (v2(0x21, 0x11, &[0; 11]), "too short"),
        (v2(0x21, 0x21, &[0; 35]), "too short"),
        (v2(0x21, 0x12, &[0; 12]), "UDP"),
        (v2(0x21, 0x22, &[0; 36]), "UDP"),
        (v2(0x21, 0x31, &[0; 216]), "UNIX"),
        (v2(0x21, 0x32, &[0; 216]), "UNIX"),
        (v2(0x21, 0x10, &[0; 12]), "unknown family"),
        (v2(0x21, 0x41, &[0; 36]), "unknown family"),
        (addresses("192.0.2.1:1".parse().unwrap(), &[0; MOST]), "longer than 536"),
        (v2(0x20, 0x00, &[0; MOST - FIXED + 1]), "longer than 536"),
    ] {
        // It is refused before its addresses are there.
        for bytes in [&header[..], &header[..FIXED]] {
            assert!(parse(bytes).unwrap_err().contains(why), "{header:?}");
        }
    }
}

proptest! {
    /// A header is read whole, however it arrives and whatever follows.
    #[test]
    fn headers_arrive_in_parts(source: SocketAddr, extensions in prop::collection::vec(any::<u8>(), 0..400), rest: Vec<u8>) {
        let family = if source.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "::1") };
        let line = format!("PROXY {} {} {} {} 443\r\n", family.0, source.ip(), family.1, source.port());
        // The text of an address has no scope and no flow.
        let source = SocketAddr::new(source.ip(), source.port());
        for header in [line.into_bytes(), addresses(source, &extensions)] {
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Ok(None));
            }
            let length = header.len();
            prop_assert_eq!(parse(&[&header[..], &rest].concat()), Ok(Some((Source::Client(source), length))));
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), signature in 0..3) {
        let begin: &[u8] = [&b""[..], V1, V2][signature as usize];
        crate::listener::proxy_protocol::fuzz::header(&[begin, &bytes].concat());
    }
}

//! The PROXY protocol, versions 1 and 2: who a connection is for, said by whoever passes it on.
//!
//! Read as strictly as it is written down: what is not exactly such a header is none, and nobody is
//! served on a guess. The parser sees bytes alone and says how many of them are the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portolan_config::document::ProxyVersion;

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is taken. Addresses take 216 bytes at most; the rest is what
/// load balancers add about themselves and TLS.
const LONGEST: usize = 4096;

/// The type of the checksum among the additions of version 2.
const CRC32C: u8 = 3;

/// Who speaks with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The client.
    pub(crate) source: SocketAddr,
    /// What it has connected to.
    pub(crate) destination: SocketAddr,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a header; at least so many bytes are missing.
    Partial(usize),
    /// A header of so many bytes. Without addresses, the connection is for whoever has made it: a
    /// health check, or a family that has none.
    Whole(usize, Option<Addresses>),
}

/// These bytes are no PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header")]
pub(crate) struct Malformed;

/// Reads a header from the beginning of a connection.
///
/// # Errors
/// When there is none, whatever follows.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let begins_like = |word: &[u8]| {
        let have = bytes.len().min(word.len());
        bytes[..have] == word[..have]
    };
    if bytes.is_empty() {
        Ok(Parsed::Partial(1))
    } else if begins_like(&SIGNATURE) {
        binary(bytes)
    } else if begins_like(WORD) {
        line(bytes)
    } else {
        Err(Malformed)
    }
}

// === Version 1 ===

fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let window = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == LONGEST_LINE {
            Err(Malformed)
        } else {
            Ok(Parsed::Partial(1))
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ').skip(1);
    let mut next = || words.next().ok_or(Malformed);
    let addresses = match next()? {
        // Whatever else it says is to be ignored.
        "UNKNOWN" => return Ok(Parsed::Whole(end + 1, None)),
        family @ ("TCP4" | "TCP6") => {
            let address = |text: &str| match family {
                "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
                _ => text.parse::<Ipv6Addr>().map(IpAddr::V6),
            };
            let (source, destination) = (address(next()?), address(next()?));
            let (from, to) = (port(next()?)?, port(next()?)?);
            Addresses {
                source: SocketAddr::new(source.map_err(|_| Malformed)?, from),
                destination: SocketAddr::new(destination.map_err(|_| Malformed)?, to),
            }
        }
        _ => return Err(Malformed),
    };
    match words.next() {
        None => Ok(Parsed::Whole(end + 1, Some(addresses))),
        Some(_) => Err(Malformed),
    }
}

/// A port as the protocol has it: no sign, no zeros in front.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed)
}

// === Version 2 ===

fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    const FIXED: usize = 16;
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(Parsed::Partial(FIXED - bytes.len()));
    };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > LONGEST {
        return Err(Malformed);
    }
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    // The family, and that it is a stream.
    let size = match fixed[13] {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ if local => 0,
        _ => return Err(Malformed),
    };
    if length - FIXED < size && !local {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::Partial(length - bytes.len()));
    };
    if local {
        // A connection of the proxy's own. What else the header says does not matter.
        return Ok(Parsed::Whole(length, None));
    }
    if fixed[13] != 0 {
        additions(header, FIXED + size)?;
    }
    let body = &header[FIXED..];
    let addresses = match size {
        12 => Some(pair::<4>(body)?),
        36 => Some(pair::<16>(body)?),
        _ => None,
    };
    Ok(Parsed::Whole(length, addresses))
}

/// Two addresses of so many bytes, then two ports.
fn pair<const N: usize>(body: &[u8]) -> Result<Addresses, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| {
        let bytes: [u8; N] = body[at..at + N].try_into().map_err(|_| Malformed)?;
        Ok(IpAddr::from(bytes))
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ok(Addresses {
        source: SocketAddr::new(address(0)?, port(2 * N)),
        destination: SocketAddr::new(address(N)?, port(2 * N + 2)),
    })
}

/// What is added behind the addresses: type, length, value. Skipped, but for the checksum.
fn additions(header: &[u8], from: usize) -> Result<(), Malformed> {
    let mut at = from;
    while at < header.len() {
        let head = header.get(at..at + 3).ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = at + 3..at + 3 + length;
        let bytes = header.get(value.clone()).ok_or(Malformed)?;
        if head[0] == CRC32C {
            let sum: [u8; 4] = bytes.try_into().map_err(|_| Malformed)?;
            if crc32c(header, value.start) != u32::from_be_bytes(sum) {
                return Err(Malformed);
            }
        }
        at = value.end;
    }
    Ok(())
}

/// CRC-32C of a header, with the four bytes at `hole` taken for zeros (RFC 4960, appendix B).
fn crc32c(header: &[u8], hole: usize) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut sum = u32::MAX;
    for (at, byte) in header.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&at) {
            0
        } else {
            *byte
        };
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (POLYNOMIAL & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

// === Writing ===

/// The header for a connection on behalf of somebody; without addresses, on our own behalf.
pub(crate) fn write(version: ProxyVersion, addresses: Option<Addresses>) -> Vec<u8> {
    let addresses = addresses.map(one_family);
    match version {
        ProxyVersion::V1 => match addresses {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some(Addresses {
                source,
                destination,
            }) => format!(
                "PROXY {} {} {} {} {}\r\n",
                if source.is_ipv4() { "TCP4" } else { "TCP6" },
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )
            .into_bytes(),
        },
        ProxyVersion::V2 => {
            let mut body = Vec::with_capacity(64);
            let (command, family) = match addresses {
                None => (0x20, 0x00),
                Some(addresses) => {
                    for address in [addresses.source, addresses.destination] {
                        match address.ip() {
                            IpAddr::V4(ip) => body.extend(ip.octets()),
                            IpAddr::V6(ip) => body.extend(ip.octets()),
                        }
                    }
                    body.extend(addresses.source.port().to_be_bytes());
                    body.extend(addresses.destination.port().to_be_bytes());
                    (
                        0x21,
                        if addresses.source.is_ipv4() {
                            0x11
                        } else {
                            0x21
                        },
                    )
                }
            };
            body.extend([CRC32C, 0, 4, 0, 0, 0, 0]);
            let mut header = SIGNATURE.to_vec();
            header.extend([command, family]);
            header.extend((body.len() as u16).to_be_bytes());
            header.extend(body);
            let hole = header.len() - 4;
            let sum = crc32c(&header, hole);
            header[hole..].copy_from_slice(&sum.to_be_bytes());
            header
        }
    }
}

/// Both of one family: an address of the other one is written as IPv6.
pub(crate) fn one_family(addresses: Addresses) -> Addresses {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (
        canonical(addresses.source),
        canonical(addresses.destination),
    );
    if source.is_ipv4() == destination.is_ipv4() {
        return Addresses {
            source,
            destination,
        };
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    Addresses {
        source: wide(source),
        destination: wide(destination),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// What is found, however the bytes are cut, and never more than the header.
    fn look(bytes: &[u8]) -> Result<Parsed, Malformed> {
        let whole = parse(bytes);
        for end in 0..bytes.len() {
            match (parse(&bytes[..end]), whole) {
                (Ok(Parsed::Partial(missing)), whole) => {
                    assert!(missing > 0);
                    if let Ok(Parsed::Whole(length, _)) = whole {
                        assert!(end + missing <= length, "{end}");
                    }
                }
                (found, whole) => assert_eq!(found, whole, "after {end}"),
            }
        }
        whole
    }

    #[test]
    fn lines_are_read_to_the_letter() {
        let good = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET";
        let expected = addresses("192.0.2.1:56324", "198.51.100.2:443");
        assert_eq!(
            look(good),
            Ok(Parsed::Whole(good.len() - 3, Some(expected)))
        );
        let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        let expected = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
        assert_eq!(look(six), Ok(Parsed::Whole(six.len(), Some(expected))));
        assert_eq!(look(b"PROXY UNKNOWN\r\n"), Ok(Parsed::Whole(15, None)));
        assert_eq!(
            look(b"PROXY UNKNOWN a b c\r\n"),
            Ok(Parsed::Whole(21, None))
        );
        for bad in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            "PROXY TCP4 2001:db8::1 198.51.100.2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4 192.0.2.001 198.51.100.2 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(look(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(endless.as_bytes()), Err(Malformed));
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn binary_headers_are_read_to_the_letter() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187];
        let expected = Some(addresses("192.0.2.1:80", "198.51.100.2:443"));
        let plain = header(0x21, 0x11, &body);
        assert_eq!(look(&plain), Ok(Parsed::Whole(28, expected)));
        let added = [&body[..], &[4, 0, 2, 0, 0, 0xee, 0, 0]].concat();
        assert_eq!(
            look(&header(0x21, 0x11, &added)),
            Ok(Parsed::Whole(36, expected))
        );
        for (command, family, size) in [
            (0x20, 0x00, 0),
            (0x20, 0x11, 0),
            (0x20, 0x42, 7),
            (0x21, 0x00, 9),
            (0x21, 0x31, 216),
        ] {
            let bytes = header(command, family, &vec![0; size]);
            assert_eq!(look(&bytes), Ok(Parsed::Whole(16 + size, None)));
        }
        for bad in [
            header(0x11, 0x11, &body),
            header(0x22, 0x11, &body),
            header(0x21, 0x12, &body),
            header(0x21, 0x41, &body),
            header(0x21, 0x11, &body[..11]),
            header(0x21, 0x31, &body),
            header(0x21, 0x11, &[&body[..], &[4, 0]].concat()),
            header(0x21, 0x11, &[&body[..], &[4, 0, 9, 0]].concat()),
            header(0x21, 0x11, &[&body[..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
            header(0x21, 0x11, &[&body[..], &[3, 0, 2, 1, 2]].concat()),
            header(0x21, 0x11, &[0; LONGEST]),
        ] {
            assert_eq!(look(&bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32], 100), 0x8a91_36aa);
        let mut counting: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&counting, 100), 0x46dd_794e);
        counting.reverse();
        assert_eq!(crc32c(&counting, 100), 0x113f_db5c);
    }

    #[test]
    fn what_is_written_can_be_read() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (source, destination, read) in [
                ("192.0.2.1:1", "198.51.100.2:2", None),
                ("[2001:db8::1]:1", "[2001:db8::2]:2", None),
                (
                    "[::ffff:192.0.2.1]:1",
                    "198.51.100.2:2",
                    Some(("192.0.2.1:1", "198.51.100.2:2")),
                ),
                (
                    "192.0.2.1:1",
                    "[::1]:2",
                    Some(("[::ffff:192.0.2.1]:1", "[::1]:2")),
                ),
            ] {
                let written = write(version, Some(addresses(source, destination)));
                let (source, destination) = read.unwrap_or((source, destination));
                let expected = Some(addresses(source, destination));
                assert_eq!(look(&written), Ok(Parsed::Whole(written.len(), expected)));
            }
            let own = write(version, None);
            assert_eq!(look(&own), Ok(Parsed::Whole(own.len(), None)));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_can_break_it(
            version in 0..3,
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let begin: &[u8] = match version {
                0 => b"",
                1 => b"PROXY TCP4 ",
                _ => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x40",
            };
            let all = [begin, &bytes].concat();
            if let Ok(Parsed::Whole(length, _)) = parse(&all) {
                prop_assert!(length <= all.len());
            }
        }
    }
}

//! Whose address counts as the client's.
//!
//! A header is believed only from trusted peers, and of several addresses in it the right-most
//! untrusted one counts: everything left of it was written by somebody who is not trusted, and may
//! be made up. If all are trusted, the left-most is the client. Whatever cannot be read as an
//! address leaves the peer's.

use std::net::{IpAddr, SocketAddr};

use portolan_config::fields::Fields;
use portolan_config::plan::ClientIpPlan;

/// The client's address, for a request that came from `peer`.
pub(crate) fn client_address(peer: IpAddr, headers: &Fields, plan: &ClientIpPlan) -> IpAddr {
    let peer = peer.to_canonical();
    if !plan.trusts(peer) {
        return peer;
    }
    let mut left_most = peer;
    // Several lines of one header are one list, in the order of the lines.
    for line in headers.get_all(&plan.header).rev() {
        // Byte by byte from the right: what a client has written to the left must not decide whether
        // what a proxy has added is read.
        for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
            let Some(address) = parse(hop) else {
                return peer;
            };
            if !plan.trusts(address) {
                return address;
            }
            left_most = address;
        }
    }
    left_most
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop.trim_ascii()).ok()?;
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = hop.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inside = hop.strip_prefix('[')?.strip_suffix(']')?;
    Some(IpAddr::V6(inside.parse().ok()?).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn found(peer: &str, lines: &[&str]) -> String {
        let plan = ClientIpPlan {
            header: http::HeaderName::from_static("x-forwarded-for"),
            trusted: vec![
                "10.0.0.0/8".parse().unwrap(),
                "127.0.0.1/32".parse().unwrap(),
                "fd00::/8".parse().unwrap(),
            ],
        };
        let mut headers = Fields::new();
        for line in lines {
            headers.append(
                http::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        client_address(peer.parse().unwrap(), &headers, &plan).to_string()
    }

    #[test]
    fn untrusted_peers_are_not_believed() {
        assert_eq!(found("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn the_right_most_untrusted_address_counts() {
        assert_eq!(found("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            found("10.0.0.1", &["1.2.3.4, 198.51.100.7, 10.9.9.9"]),
            "198.51.100.7"
        );
        assert_eq!(
            found("10.0.0.1", &["1.2.3.4", "198.51.100.7", "10.9.9.9"]),
            "198.51.100.7"
        );
        assert_eq!(
            found("10.0.0.1", &["10.2.2.2, 10.3.3.3"]),
            "10.2.2.2",
            "all are trusted"
        );
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn every_way_of_writing_an_address_is_read() {
        for (written, address) in [
            ("198.51.100.7:5678", "198.51.100.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("  198.51.100.7  ", "198.51.100.7"),
        ] {
            assert_eq!(found("fd00::1", &[written]), address, "{written}");
        }
        assert_eq!(found("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
    }

    #[test]
    fn garbage_leaves_the_peers_address() {
        for garbage in [
            "unknown",
            "",
            "198.51.100.7, ",
            "1.2.3",
            "x, 10.0.0.2",
            "\u{e9}",
            "_hidden",
        ] {
            assert_eq!(found("10.0.0.1", &[garbage]), "10.0.0.1", "{garbage:?}");
        }
        // What stands left of the one that counts was never read.
        for garbage in ["garbage", "", "\u{e9}", "\u{e9}, 10.0.0.2"] {
            let line = format!("{garbage}, 198.51.100.7");
            assert_eq!(found("10.0.0.1", &[&line]), "198.51.100.7", "{garbage:?}");
        }
    }
}

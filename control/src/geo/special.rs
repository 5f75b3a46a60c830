//! Addresses that are nowhere by their purpose: private ones, those of documentation, of protocols, and
//! all that nobody was given. Databases say something about many of them all the same: whoever keeps
//! the list of them, say, is somewhere.
//!
//! From IANA's registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890) and its list of
//! multicast. Of IPv6 only 2000::/3 was ever given out, so everything outside is nowhere without being
//! listed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks of IPv4: address, length, what it is.
const V4: [(Ipv4Addr, u32, &str); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "of this network alone"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "of a carrier's own network",
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, LOOPBACK),
    (Ipv4Addr::new(169, 254, 0, 0), 16, LINK_LOCAL),
    (Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE),
    (Ipv4Addr::new(192, 0, 0, 0), 24, PROTOCOL),
    (Ipv4Addr::new(192, 0, 2, 0), 24, DOCUMENTATION),
    // Those of AS112 and AMT answer in many places, and nobody asks from there.
    (Ipv4Addr::new(192, 31, 196, 0), 24, PROTOCOL),
    (Ipv4Addr::new(192, 52, 193, 0), 24, PROTOCOL),
    (Ipv4Addr::new(192, 88, 99, 0), 24, PROTOCOL),
    (Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE),
    (Ipv4Addr::new(192, 175, 48, 0), 24, PROTOCOL),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, DOCUMENTATION),
    (Ipv4Addr::new(203, 0, 113, 0), 24, DOCUMENTATION),
    // Multicast, and what is reserved behind it, to 255.255.255.255.
    (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
];

/// Networks of IPv6 within 2000::/3.
const V6: [(Ipv6Addr, u32, &str); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, PROTOCOL),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        DOCUMENTATION,
    ),
    (
        Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0),
        48,
        PROTOCOL,
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        DOCUMENTATION,
    ),
];

const PRIVATE: &str = "private";
const LOOPBACK: &str = "of the machine itself";
const LINK_LOCAL: &str = "of one link alone";
const PROTOCOL: &str = "kept for a protocol";
const DOCUMENTATION: &str = "for documentation";

/// The address that says where a client is: another one where IPv4 stands in IPv6.
///
/// Answers to such an address go to whoever has the IPv4 address, so nobody can claim another one. That
/// is so for addresses that were written as IPv6 (RFC 4291), those that a translator in front of us
/// made (NAT64, RFC 6052), 6to4 (RFC 3056), and Teredo (RFC 4380), where it is the client's and not
/// that of its server.
pub(super) fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return address.to_canonical();
    };
    let bits = v6.to_bits();
    if within(v6, Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96) {
        Ipv4Addr::from_bits(bits as u32).into()
    } else if within(v6, Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16) {
        Ipv4Addr::from_bits((bits >> 80) as u32).into()
    } else if within(v6, Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32) {
        Ipv4Addr::from_bits(!bits as u32).into()
    } else {
        address
    }
}

/// What an address is, as [`meant`] gives it, if it is nowhere by its purpose.
pub(super) fn purpose(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let inside = |(net, length, _): &&(Ipv4Addr, u32, &str)| {
                (address.to_bits() ^ net.to_bits()) >> (32 - length) == 0
            };
            V4.iter().find(inside).map(|(_, _, what)| *what)
        }
        IpAddr::V6(address) => {
            let starts = |first: u16, length: u32| {
                within(address, Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length)
            };
            if !starts(0x2000, 3) {
                return Some(match address {
                    Ipv6Addr::LOCALHOST => LOOPBACK,
                    Ipv6Addr::UNSPECIFIED => "no address",
                    _ if starts(0xfc00, 7) => PRIVATE,
                    _ if starts(0xfe80, 10) => LINK_LOCAL,
                    _ if starts(0xff00, 8) => "multicast",
                    _ => "given to nobody",
                });
            }
            let inside = |(net, length, _): &&(Ipv6Addr, u32, &str)| within(address, *net, *length);
            V6.iter().find(inside).map(|(_, _, what)| *what)
        }
    }
}

fn within(address: Ipv6Addr, net: Ipv6Addr, length: u32) -> bool {
    (address.to_bits() ^ net.to_bits()) >> (128 - length) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> String {
        let meant = meant(address.parse().unwrap());
        purpose(meant).map_or_else(|| meant.to_string(), str::to_owned)
    }

    #[test]
    fn every_special_network_is_nowhere_from_its_first_to_its_last_address() {
        for (first, last, before, behind) in [
            ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
            (
                "10.0.0.0",
                "10.255.255.255",
                Some("9.255.255.255"),
                Some("11.0.0.0"),
            ),
            (
                "100.64.0.0",
                "100.127.255.255",
                Some("100.63.255.255"),
                Some("100.128.0.0"),
            ),
            (
                "127.0.0.0",
                "127.255.255.255",
                Some("126.255.255.255"),
                Some("128.0.0.0"),
            ),
            (
                "169.254.0.0",
                "169.254.255.255",
                Some("169.253.255.255"),
                Some("169.255.0.0"),
            ),
            (
                "172.16.0.0",
                "172.31.255.255",
                Some("172.15.255.255"),
                Some("172.32.0.0"),
            ),
            (
                "192.0.0.0",
                "192.0.0.255",
                Some("191.255.255.255"),
                Some("192.0.1.0"),
            ),
            (
                "192.0.2.0",
                "192.0.2.255",
                Some("192.0.1.255"),
                Some("192.0.3.0"),
            ),
            (
                "192.31.196.0",
                "192.31.196.255",
                Some("192.31.195.255"),
                Some("192.31.197.0"),
            ),
            (
                "192.52.193.0",
                "192.52.193.255",
                Some("192.52.192.255"),
                Some("192.52.194.0"),
            ),
            (
                "192.88.99.0",
                "192.88.99.255",
                Some("192.88.98.255"),
                Some("192.88.100.0"),
            ),
            (
                "192.168.0.0",
                "192.168.255.255",
                Some("192.167.255.255"),
                Some("192.169.0.0"),
            ),
            (
                "192.175.48.0",
                "192.175.48.255",
                Some("192.175.47.255"),
                Some("192.175.49.0"),
            ),
            (
                "198.18.0.0",
                "198.19.255.255",
                Some("198.17.255.255"),
                Some("198.20.0.0"),
            ),
            (
                "198.51.100.0",
                "198.51.100.255",
                Some("198.51.99.255"),
                Some("198.51.101.0"),
            ),
            (
                "203.0.113.0",
                "203.0.113.255",
                Some("203.0.112.255"),
                Some("203.0.114.0"),
            ),
            (
                "224.0.0.0",
                "255.255.255.255",
                Some("223.255.255.255"),
                None,
            ),
            (
                "2001:1::",
                "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
                None,
                Some("2001:200::"),
            ),
            (
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("2001:db7:ffff::"),
                Some("2001:db9::"),
            ),
            (
                "2620:4f:8000::",
                "2620:4f:8000:ffff:ffff:ffff:ffff:ffff",
                Some("2620:4f:7fff::"),
                Some("2620:4f:8001::"),
            ),
            (
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                Some("3ffe::"),
                Some("3fff:1000::"),
            ),
            (
                "4000::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                None,
                None,
            ),
            ("::", "::fffe:ffff:ffff", None, None),
            ("::1:0:0:0", "64:ff9a:ffff::", None, None),
            ("64:ff9b:1::", "1fff:ffff::", None, Some("2000::")),
        ] {
            for inside in [first, last] {
                let nowhere = purpose(meant(inside.parse().unwrap()));
                assert!(nowhere.is_some(), "{inside}: {}", of(inside));
            }
            for outside in [before, behind].into_iter().flatten() {
                assert_eq!(of(outside), outside);
            }
        }
    }

    #[test]
    fn ipv4_in_ipv6_is_where_the_ipv4_address_is() {
        for (address, asked) in [
            ("::ffff:8.8.8.8", "8.8.8.8"),
            ("64:ff9b::8.8.8.8", "8.8.8.8"),
            ("2002:808:808::1", "8.8.8.8"),
            // RFC 4380, section 4: server 65.54.227.120, client 192.0.2.45.
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", DOCUMENTATION),
            ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", "8.8.8.8"),
            ("::ffff:10.0.0.1", PRIVATE),
            ("64:ff9b::10.0.0.1", PRIVATE),
            ("2002:a00:1::1", PRIVATE),
            ("2002:7f00:1::", LOOPBACK),
            // What only looks like it: of old (RFC 4291, section 2.5.5.1), and of RFC 2765.
            ("::8.8.8.8", "given to nobody"),
            ("::ffff:0:8.8.8.8", "given to nobody"),
            ("fd00::1", PRIVATE),
            ("fe80::1", LINK_LOCAL),
            ("::1", LOOPBACK),
            ("ff02::1", "multicast"),
            ("2001:4860:4860::8888", "2001:4860:4860::8888"),
        ] {
            assert_eq!(of(address), asked, "{address}");
        }
    }
}

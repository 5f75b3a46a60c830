//! What must hold for whatever strangers send: one function for each target of `tests/fuzz`.
//!
//! Each takes bytes as they may come, reads them with the code that reads them in earnest, and
//! panics when a property does not hold. The most important one is the same everywhere: what is made
//! of bytes does not depend on how they were cut on their way. The unit test below replays the
//! corpus, so that every input that was ever wrong stays right.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderName, HeaderValue};
use portolan_config::document::{DotSegments, EncodedSlash, ProxyVersion, RepeatedSlashes};
use portolan_config::fields::Fields;
use portolan_config::plan::{ClientIpPlan, PathsPlan};

use crate::edge::admit::client_address::client_address;
use crate::edge::admit::guard;
use crate::http::head::RequestHeader;
use crate::http::http1::request::is_target;
use crate::proxy_protocol::{Malformed, Parsed, one_family, parse, write};

pub use crate::connection::fuzzing::frames;
pub use crate::http::http1::fuzzing::{answer, chunks, request};

/// The sizes of the pieces in which bytes are fed, besides as a whole.
pub(crate) const STRIDES: [usize; 4] = [1, 2, 7, 64];

/// Where pieces of this size end.
pub(crate) fn ends(length: usize, stride: usize) -> impl Iterator<Item = usize> {
    (0..length.div_ceil(stride)).map(move |piece| ((piece + 1) * stride).min(length))
}

/// A PROXY protocol header: found or refused however it is cut, never longer than what is there, and
/// the same addresses when it is written again.
pub fn proxy_protocol(bytes: &[u8]) {
    let whole = parse(bytes);
    for stride in STRIDES {
        let mut wanted = 0;
        for end in ends(bytes.len(), stride) {
            let found = parse(&bytes[..end]);
            let Ok(Parsed::Partial(missing)) = found else {
                assert_eq!(found, whole, "decided by the first {end} bytes");
                break;
            };
            assert!(missing > 0, "nothing is missing from a partial header");
            assert!(end + missing >= wanted, "less is missing than was");
            wanted = end + missing;
            if let Ok(Parsed::Whole(length, _)) = whole {
                assert!(wanted <= length, "more is asked for than the header has");
            }
        }
    }
    let Ok(Parsed::Whole(length, addresses)) = whole else {
        return;
    };
    assert!((1..=bytes.len()).contains(&length));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = write(version, addresses);
        let again = Ok(Parsed::Whole(written.len(), addresses.map(one_family)));
        assert_eq!(parse(&written), again);
        // A checksum that is wrong is not a header, where the header says anything.
        if version == ProxyVersion::V2 && addresses.is_some() {
            let mut broken = written;
            *broken.last_mut().expect("a header has bytes") ^= 1;
            assert_eq!(parse(&broken), Err(Malformed));
        }
    }
}

/// Client-address headers, one line each, behind a line with the peer's address: nobody can pass for
/// somebody else by writing more to the left, and lines are the same as commas.
pub fn client_addresses(bytes: &[u8]) {
    const HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
    const EVIL: IpAddr = IpAddr::V4(Ipv4Addr::new(6, 6, 6, 6));
    let trusted = ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"];
    let plan = ClientIpPlan {
        header: HEADER,
        trusted: trusted.iter().filter_map(|net| net.parse().ok()).collect(),
    };
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let peer = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let Some(peer) = peer.and_then(|peer| peer.parse::<IpAddr>().ok()) else {
        return;
    };
    let lines: Vec<HeaderValue> = lines
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let of = |lines: &[HeaderValue]| {
        let mut headers = Fields::new();
        for line in lines {
            headers.append(HEADER, line.clone());
        }
        client_address(peer, &headers, &plan)
    };
    let found = of(&lines);
    assert_eq!(found, found.to_canonical());
    let direct = peer.to_canonical();
    if !plan.trusts(direct) || lines.is_empty() {
        assert_eq!(found, direct);
        return;
    }
    let said = lines.iter().any(|line| {
        let text = String::from_utf8_lossy(line.as_bytes()).into_owned();
        text.split(',').any(|hop| {
            let hop = hop.trim();
            let bare = hop.trim_start_matches('[').split(']').next();
            let address = hop.parse().ok().or_else(|| bare?.parse().ok());
            let address = address.or_else(|| hop.rsplit_once(':')?.0.parse::<IpAddr>().ok());
            address.is_some_and(|address| address.to_canonical() == found)
        })
    });
    assert!(said || found == direct, "{found} was said by nobody");
    let joined: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&joined.join(&b","[..])).expect("lines make a line");
    assert_eq!(of(&[joined]), found, "on one line");
    let mut spoofed = vec![HeaderValue::from_static("6.6.6.6")];
    spoofed.extend(lines);
    let spoofed = of(&spoofed);
    if plan.trusts(found) {
        // Either everybody was trusted, and there is one more, or something could not be read.
        assert!(spoofed == EVIL || spoofed == direct);
    } else {
        assert_eq!(spoofed, found, "written to the left of who counts");
    }
}

/// A request's target, brought into the form in which it is matched and forwarded: one form, the same
/// for both, and nothing in it that could lead somewhere else.
pub fn paths(bytes: &[u8]) {
    for dot_segments in [DotSegments::Resolve, DotSegments::Refuse] {
        for repeated_slashes in [
            RepeatedSlashes::Merge,
            RepeatedSlashes::Keep,
            RepeatedSlashes::Refuse,
        ] {
            for encoded_slash in [
                EncodedSlash::Keep,
                EncodedSlash::Refuse,
                EncodedSlash::Decode,
            ] {
                path(
                    bytes,
                    &PathsPlan {
                        dot_segments,
                        repeated_slashes,
                        encoded_slash,
                    },
                );
            }
        }
    }
}

fn path(bytes: &[u8], plan: &PathsPlan) {
    // Whatever else comes as a target is refused before.
    if !is_target(bytes) {
        return;
    }
    let Ok(mut request) = RequestHeader::build("GET", bytes, 0) else {
        return;
    };
    let query = request.query().map(<[u8]>::to_vec);
    if guard::normalise(&mut request, plan).is_err() {
        return;
    }
    let forwarded = std::str::from_utf8(request.target()).expect("what passes is text");
    let matched = request.uri.path();
    let (path, rest) = forwarded
        .split_once('?')
        .map_or((forwarded, None), |(path, query)| (path, Some(query)));
    assert_eq!(path, matched, "what is matched is not what is forwarded");
    let rest = rest.map(str::as_bytes);
    assert_eq!(rest, query.as_deref(), "the query is nobody's to change");
    assert_eq!(
        plan.normal(matched).as_deref(),
        Ok(matched),
        "the one form has another one"
    );
    assert!(matched.starts_with('/'));
    assert!(plan.repeated_slashes == RepeatedSlashes::Keep || !matched.contains("//"));
    // Whoever reads it more freely than we do must not find a way out either.
    let decoded = decoded(matched);
    assert!(!decoded.contains(&0));
    let slashes = |byte: &u8| matches!(byte, b'/' | b'\\');
    for segment in decoded.split(slashes) {
        let bare = segment.split(|byte| *byte == b';').next();
        let whole = [&b"."[..], b".."];
        assert!(!whole.contains(&segment), "a dot segment behind escapes");
        // An escaped semicolon belongs to the name for everybody.
        assert!(
            matched.to_ascii_lowercase().contains("%3b") || !whole.contains(&bare.unwrap_or(b"")),
            "a dot segment before a semicolon"
        );
    }
    let (all, written) = (decoded.iter(), matched.bytes());
    let backslashes = all.clone().filter(|byte| **byte == b'\\').count();
    let slashes = all.filter(|byte| **byte == b'/').count();
    let written = written.filter(|byte| *byte == b'/').count();
    // Whatever is a slash to us is one to everybody, unless names may have them.
    assert!(plan.encoded_slash == EncodedSlash::Keep || slashes == written);
    assert!(plan.encoded_slash != EncodedSlash::Refuse || backslashes == 0);
}

/// The bytes that a path stands for, its escapes read once.
fn decoded(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = path.get(at + 1..at + 3).filter(|_| *byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) => {
                out.push(escaped);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_corpus_holds() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 7] = [
            ("answer", answer),
            ("chunks", chunks),
            ("client_addresses", client_addresses),
            ("frames", frames),
            ("paths", paths),
            ("proxy_protocol", proxy_protocol),
            ("request", request),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
            let mut seeds = 0;
            for entry in std::fs::read_dir(folder.join(name)).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                target(&std::fs::read(path).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no corpus");
        }
    }
}

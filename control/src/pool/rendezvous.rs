//! Weighted rendezvous hashing: the same key gives the same place in every process that runs the same
//! configuration with the same health, and nothing has to be remembered (Wang, Ravishankar, "Using Name-Based
//! Mappings to Increase Hit Rates").

use std::net::{IpAddr, SocketAddr};

use ring::digest;
use smallvec::SmallVec;

/// The number of whoever bids: the same in every process, for every release (FNV-1a).
pub(crate) fn seed(name: &[u8]) -> u64 {
    name.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The number of an endpoint, made of its address.
pub(crate) fn seed_of_address(address: SocketAddr) -> u64 {
    let mut bytes: SmallVec<[u8; 18]> = SmallVec::new();
    match address.ip().to_canonical() {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    seed(&bytes)
}

/// −weight ÷ ln(uniform): the weighted form of rendezvous hashing.
pub(crate) fn score(key: u64, seed: u64, weight: f64) -> f64 {
    // SplitMix64's finaliser: every bit of both inputs reaches every bit of the outcome.
    let mut x = key ^ seed;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    let uniform = ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    weight / -uniform.ln()
}

/// A client's number: the same in every process, for every release.
pub(crate) fn key(property: &[u8]) -> u64 {
    let digest = digest::digest(&digest::SHA256, property);
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub(crate) fn key_of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => key(&address.octets()),
        IpAddr::V6(address) => key(&address.octets()),
    }
}

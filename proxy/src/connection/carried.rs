//! For how many clients a connection speaks.
//!
//! A trusted peer brings the requests of many clients over one connection. How many they are is
//! estimated: every client sets a bit, chosen by its address, and of how many bits are set follows how
//! many clients there were (linear counting: Whang, Vander-Zanden and Taylor, 1990).

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of one word, and words in all: two thousand clients are told apart well enough.
const BITS: usize = 64;
const WORDS: usize = 32;

/// More clients than this count as so many.
const MOST: u32 = 1024;

/// The clients of one connection.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// Once it has spoken for somebody.
    seen: OnceLock<Box<ClientBits>>,
    clients: AtomicU32,
}

#[derive(Debug)]
struct ClientBits {
    words: [AtomicU64; WORDS],
    /// Nobody can choose addresses that count as one.
    hash: RandomState,
    set: AtomicU32,
}

impl Carried {
    /// A trusted peer has brought a request of this client's.
    pub(crate) fn note(&self, client: IpAddr) {
        let seen = self.seen.get_or_init(|| {
            Box::new(ClientBits {
                words: [const { AtomicU64::new(0) }; WORDS],
                hash: RandomState::new(),
                set: AtomicU32::new(0),
            })
        });
        let place = seen.hash.hash_one(network(client)) as usize % (WORDS * BITS);
        let bit = 1 << (place % BITS);
        let before = seen.words[place / BITS].fetch_or(bit, Ordering::Relaxed);
        if before & bit == 0 {
            let set = seen.set.fetch_add(1, Ordering::Relaxed) + 1;
            self.clients.store(estimate(set), Ordering::Relaxed);
        }
    }

    /// How many there were, at least one.
    pub(crate) fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed).max(1)
    }
}

/// Who has one address of IPv6 has a whole network of them.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(client) => {
            let network = client.to_bits() & !(u128::MAX >> 64);
            IpAddr::V6(network.into())
        }
    }
}

/// How many clients have set so many bits.
fn estimate(set: u32) -> u32 {
    let bits = (WORDS * BITS) as f64;
    let clear = bits - f64::from(set);
    if clear < 1.0 {
        return MOST;
    }
    // At most a few thousand.
    ((bits * (bits / clear).ln()).round() as u32).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_about_right_and_each_once() {
        let carried = Carried::default();
        assert_eq!(carried.clients(), 1);
        for count in 1..=3_000_u32 {
            for _ in 0..2 {
                carried.note(IpAddr::V4(count.into()));
            }
            let wanted = f64::from(count.min(MOST));
            let found = f64::from(carried.clients());
            // Chance differs with every run: ten times what is usual.
            let apart = 10.0 * wanted.sqrt();
            assert!((found - wanted).abs() <= apart, "{found}, not {wanted}");
        }
    }

    #[test]
    fn a_network_of_version_six_is_one_client() {
        let carried = Carried::default();
        for number in 0..1_000_u128 {
            carried.note(IpAddr::V6((0x2001_0db8_u128 << 96 | number).into()));
        }
        assert_eq!(carried.clients(), 1);
        carried.note("2001:db8:0:1::1".parse().unwrap());
        assert!(carried.clients() <= 2);
    }
}

//! Descriptors: how many the process may have, and for whom the last ones are kept.
//!
//! The system gives whoever opens something the lowest number that is free. So a number says how many
//! are in use, and nobody has to count: who gets a high one knows that few are left.
//!
//! Clients are let in as long as enough are left to serve them; connections to endpoints are made as
//! long as enough are left for the admin API, for probes and for questions to name servers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many descriptors the process may have.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

/// From this number on no clients are let in.
static CLIENTS: AtomicU64 = AtomicU64::new(u64::MAX);

/// From this number on no endpoints are connected to for requests.
static ENDPOINTS: AtomicU64 = AtomicU64::new(u64::MAX);

/// What is kept back from clients: a quarter, and at least and at most so many.
const FOR_ENDPOINTS: (u64, u64) = (32, 16_384);

/// What is kept back from requests: a sixteenth, and at least and at most so many.
const FOR_OPERATORS: (u64, u64) = (16, 1_024);

/// Where each of them ends, of so many descriptors of which so many are in use before anybody has come:
/// clients, and connections to endpoints.
fn borders(limit: u64, in_use: u64) -> (u64, u64) {
    let left = limit.saturating_sub(in_use);
    let part = |all: u64, (least, most): (u64, u64)| all.clamp(least, most);
    // Where there are very few, everybody gets some of them.
    let operators = part(limit / 16, FOR_OPERATORS).min(left / 4);
    let endpoints = part(limit / 4, FOR_ENDPOINTS).min(left - left / 4);
    (limit - endpoints.max(operators), limit - operators)
}

/// So many descriptors the process may have.
pub(crate) fn allow(limit: u64) {
    LIMIT.store(limit, Ordering::Relaxed);
}

/// Nobody has come yet: what is in use now is in use in any case.
pub(crate) fn measure() {
    let limit = LIMIT.load(Ordering::Relaxed);
    let (clients, endpoints) = borders(limit, next().unwrap_or(0));
    CLIENTS.store(clients, Ordering::Relaxed);
    ENDPOINTS.store(endpoints, Ordering::Relaxed);
}

/// The number that whoever opens something next would get.
fn next() -> io::Result<u64> {
    static ANY: OnceLock<Option<File>> = OnceLock::new();
    match ANY.get_or_init(|| File::open("/dev/null").ok()) {
        Some(any) => Ok(number(&any.as_fd().try_clone_to_owned()?)),
        // Nobody knows, and the system says when there are no more.
        None => Ok(0),
    }
}

fn number(what: &impl AsRawFd) -> u64 {
    // Numbers of descriptors are not negative.
    u64::try_from(what.as_raw_fd()).unwrap_or(0)
}

/// Whether, after this client, others may be let in.
pub(crate) fn has_room_after(client: &impl AsRawFd) -> bool {
    number(client) < CLIENTS.load(Ordering::Relaxed)
}

/// Whether clients may be let in.
pub(crate) fn has_room() -> bool {
    next().is_ok_and(|next| next < CLIENTS.load(Ordering::Relaxed))
}

/// Whether a socket that was opened for an endpoint may be used for it, or is one of the last.
///
/// # Errors
/// As if the system had refused it.
pub(crate) fn for_endpoint(socket: &impl AsRawFd) -> io::Result<()> {
    if number(socket) < ENDPOINTS.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(rustix::io::Errno::MFILE.into())
    }
}

/// Whether one more connection to an endpoint may be opened by somebody else.
///
/// # Errors
/// As if the system had refused it.
pub(crate) fn one_for_endpoint() -> io::Result<()> {
    match next()? < ENDPOINTS.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(rustix::io::Errno::MFILE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_some_of_however_many_there_are() {
        for limit in [20_u64, 64, 100, 256, 1_024, 20_000, 1 << 20, 1 << 30] {
            for in_use in [3, 20, 45, limit] {
                let (clients, endpoints) = borders(limit, in_use);
                assert!(
                    clients <= endpoints && endpoints <= limit,
                    "{limit} {in_use}"
                );
                if in_use + 8 < limit {
                    assert!(in_use < clients, "{limit} {in_use}: no client");
                    assert!(clients < endpoints, "{limit} {in_use}: no endpoint");
                    assert!(endpoints < limit, "{limit} {in_use}: no operator");
                }
            }
        }
        assert_eq!(borders(100, 40), (68, 85));
        assert_eq!(borders(1_024, 40), (768, 960));
        assert_eq!(
            borders(1 << 20, 40),
            ((1 << 20) - 16_384, (1 << 20) - 1_024)
        );
        assert_eq!(borders(u64::MAX, 40).1, u64::MAX - 1_024);
    }

    #[test]
    fn the_next_number_is_the_lowest_that_is_free() {
        let free = next().unwrap();
        assert!(free > 2);
        let any = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(has_room() && has_room_after(&any));
        assert!(for_endpoint(&any).is_ok() && one_for_endpoint().is_ok());
    }
}

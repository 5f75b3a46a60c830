//! How many connections each client has open.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many parts the count has: connections of different clients seldom wait for each other.
const PARTS: usize = 64;

/// Open connections by client. There is an entry for every client that has any, and only for those,
/// so it cannot grow beyond the connections that a listener takes.
///
/// Every connection is counted, also while nothing limits them: a limit may come with a reload.
#[derive(Debug)]
pub(crate) struct PerClient {
    parts: [Mutex<Open>; PARTS],
    /// Nobody can choose addresses that all meet in one part.
    hash: RandomState,
}

/// Connections that are open, of each client.
type Open = HashMap<IpAddr, usize>;

impl Default for PerClient {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            hash: RandomState::new(),
        }
    }
}

/// One connection of a client, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    of: Arc<PerClient>,
    client: IpAddr,
}

impl PerClient {
    /// One more connection of this client, unless it has as many as it may.
    pub(crate) fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        most: Option<usize>,
    ) -> Option<ClientSlot> {
        let client = one_client(client);
        let mut open = self.part(client);
        let has = open.entry(client).or_default();
        if most.is_some_and(|most| *has >= most) {
            if *has == 0 {
                open.remove(&client);
            }
            return None;
        }
        *has += 1;
        drop(open);
        Some(ClientSlot {
            of: self.clone(),
            client,
        })
    }

    /// Where this client is counted.
    fn part(&self, client: IpAddr) -> MutexGuard<'_, Open> {
        let part = self.hash.hash_one(client) as usize % PARTS;
        self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many clients have a connection.
    #[cfg(test)]
    fn clients(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.lock().unwrap().len())
            .sum()
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut open = self.of.part(self.client);
        if let Some(has) = open.get_mut(&self.client) {
            *has -= 1;
            if *has == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Who counts as one client: of IPv6, whoever has a /64, since that is the least anybody gets.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_so_many_places_and_give_them_back() {
        let open = Arc::new(PerClient::default());
        let enter = |client: &str| open.enter(client.parse().unwrap(), Some(2));
        let first = enter("192.0.2.1").unwrap();
        let second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let other = enter("192.0.2.2");
        assert!(other.is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some(), "and given back at once");
        let (six, same) = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(six.is_some() && same.is_some());
        assert!(enter("2001:db8::3").is_none(), "one /64");
        assert!(enter("2001:db8:0:1::3").is_some());
        drop((second, other, six, same));
        assert_eq!(open.clients(), 0, "nothing is left behind");
        assert!(open.enter("192.0.2.1".parse().unwrap(), Some(0)).is_none());
        assert_eq!(open.clients(), 0);
    }

    #[test]
    fn many_clients_at_once_leave_nothing_behind() {
        let open = Arc::new(PerClient::default());
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let open = &open;
                scope.spawn(move || {
                    let enter = |client: u32| open.enter(IpAddr::V4(client.into()), Some(4));
                    for round in 0..50 {
                        let held: Vec<_> = (0..500).map(enter).collect();
                        // Four threads with one connection each are as many as there may be.
                        assert!(held.iter().all(Option::is_some), "{thread}, {round}");
                    }
                });
            }
        });
        assert_eq!(open.clients(), 0);
    }
}

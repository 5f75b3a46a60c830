//! How many connections each client has open.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Open connections by client. There is an entry for every client that has any, and only for those,
/// so it cannot grow beyond the connections that a listener takes.
#[derive(Debug, Default)]
pub(crate) struct PerClient(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a client, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<PerClient>,
    client: IpAddr,
}

impl PerClient {
    /// One more connection of this client, unless it has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr, most: Option<usize>) -> Option<Place> {
        let client = one_client(client);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has = open.entry(client).or_default();
        if most.is_some_and(|most| *has >= most) {
            if *has == 0 {
                open.remove(&client);
            }
            return None;
        }
        *has += 1;
        Some(Place {
            of: self.clone(),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        assert!(open.0.lock().unwrap().is_empty(), "nothing is left behind");
        assert!(open.enter("192.0.2.1".parse().unwrap(), Some(0)).is_none());
        assert!(open.0.lock().unwrap().is_empty());
    }
}

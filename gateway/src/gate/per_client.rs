//! How many connections each client has, by its address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Clients in different parts do not wait for each other.
const PARTS: usize = 64;

/// The connections of every client that has any, so that the table is never larger than the number of connections.
/// Clones share it.
#[derive(Debug, Clone)]
pub struct PerClient {
    parts: Arc<[Mutex<HashMap<u64, u32>>]>,
    /// 0 counts nothing.
    limit: u32,
}

/// One of a client's connections; counted until it is dropped.
#[derive(Debug)]
pub struct ClientPass {
    parts: Arc<[Mutex<HashMap<u64, u32>>]>,
    client: u64,
}

/// The client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's address has its {0} connections (limits.max_connections_per_client)")]
pub struct Full(
    /// How many those are.
    pub u32,
);

impl PerClient {
    /// At most `limit` connections for each client; 0 is no limit.
    pub fn new(limit: u32) -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), limit }
    }

    /// Lets a client's connection in, and counts it where there is a limit.
    ///
    /// # Errors
    /// It has as many as it may.
    pub fn enter(&self, address: IpAddr) -> Result<Option<ClientPass>, Full> {
        if self.limit == 0 {
            return Ok(None);
        }
        let client = key(address);
        let Some(part) = part(&self.parts, client) else { return Ok(None) };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let count = part.entry(client).or_default();
        if *count >= self.limit {
            return Err(Full(self.limit));
        }
        *count += 1;
        Ok(Some(ClientPass { parts: Arc::clone(&self.parts), client }))
    }
}

impl Drop for ClientPass {
    fn drop(&mut self) {
        let Some(part) = part(&self.parts, self.client) else { return };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = part.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.client);
            }
        }
    }
}

fn part(parts: &[Mutex<HashMap<u64, u32>>], client: u64) -> Option<&Mutex<HashMap<u64, u32>>> {
    // Neighbours differ in the low bits of an IPv4 address and of a /64.
    parts.get((client % PARTS as u64) as usize)
}

/// An IPv4 address as it is; of an IPv6 one the first 64 bits, because whoever has one address there has all of them.
/// The first 64 bits of what is in use are never as small as an IPv4 address.
fn key(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (Ipv6Addr::to_bits(v6) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_as_many_as_it_may_and_others_are_not_asked() {
        let clients = PerClient::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let passes = [clients.enter(address("10.0.0.1")), clients.enter(address("::ffff:10.0.0.1"))];
        assert!(passes.iter().all(|pass| matches!(pass, Ok(Some(_)))));
        assert_eq!(clients.enter(address("10.0.0.1")).unwrap_err(), Full(2));
        assert!(clients.enter(address("10.0.0.2")).is_ok());
        drop(passes);
        assert!(clients.enter(address("10.0.0.1")).is_ok());
        assert!(clients.parts.iter().all(|part| part.lock().unwrap().is_empty()), "nobody is left");
    }

    #[test]
    fn all_of_a_64_is_one_client() {
        let clients = PerClient::new(1);
        let pass = clients.enter("2001:db8:1:2::3".parse().unwrap());
        assert!(pass.is_ok());
        assert!(clients.enter("2001:db8:1:2:ffff::9".parse().unwrap()).is_err());
        assert!(clients.enter("2001:db8:1:3::3".parse().unwrap()).is_ok());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        assert!(matches!(PerClient::new(0).enter([10, 0, 0, 1].into()), Ok(None)));
    }
}

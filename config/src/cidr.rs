//! Ranges of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Serialize;

/// Every address that agrees with this one in its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// A range, or `None` where the prefix is longer than an address.
    pub fn new(address: IpAddr, prefix_len: u32) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = u8::try_from(prefix_len).ok().filter(|len| *len <= longest)?;
        let address = match address {
            IpAddr::V4(address) => {
                IpAddr::V4((u32::from(address) & mask(u128::from(u32::MAX), 32, prefix_len) as u32).into())
            }
            IpAddr::V6(address) => {
                IpAddr::V6((u128::from(address) & mask(u128::MAX, 128, prefix_len)).into())
            }
        };
        Some(Self { address, prefix_len })
    }

    /// An IPv4 range whose address has no bits beyond the prefix, which is at most 32 long.
    pub const fn of_v4(address: Ipv4Addr, prefix_len: u8) -> Self {
        Self { address: IpAddr::V4(address), prefix_len }
    }

    /// An IPv6 range whose address has no bits beyond the prefix, which is at most 128 long.
    pub const fn of_v6(address: Ipv6Addr, prefix_len: u8) -> Self {
        Self { address: IpAddr::V6(address), prefix_len }
    }

    /// Are its addresses IPv4?
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Is every address of the other one in this range?
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len
            && self.is_ipv4() == other.is_ipv4()
            && self.contains(other.address)
    }

    /// The address of a range that has no other.
    pub fn single(&self) -> Option<IpAddr> {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        (self.prefix_len == longest).then_some(self.address)
    }

    /// The address that stands for the range: its only one, or the one after the first, which names the network
    /// itself.
    pub fn representative(&self) -> IpAddr {
        match (self.single(), self.address) {
            (Some(address), _) => address,
            (None, IpAddr::V4(address)) => IpAddr::V4((u32::from(address) | 1).into()),
            (None, IpAddr::V6(address)) => IpAddr::V6((u128::from(address) | 1).into()),
        }
    }

    /// How many leading bits its addresses agree in.
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len as u32
    }

    /// Have the two any address in common?
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Is the address in the range? An IPv4 address in IPv6 clothing counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let other = Self::new(address.to_canonical(), u32::from(self.prefix_len));
        other.is_some_and(|other| other == *self)
    }
}

fn mask(ones: u128, bits: u32, prefix_len: u8) -> u128 {
    let host_bits = bits - u32::from(prefix_len);
    ones & ones.checked_shl(host_bits).unwrap_or(0)
}

/// A text is neither an IP address nor a range of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a CIDR; write it like 240.0.0.3 or 240.0.0.0/24")]
pub struct Error(String);

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse().ok()),
            None => (text, Some(if text.contains(':') { 128 } else { 32 })),
        };
        let cidr = address.parse().ok().zip(bits).and_then(|(address, bits)| Self::new(address, bits));
        cidr.ok_or_else(|| Error(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(address: &str, len: u32) -> Cidr {
        Cidr::new(address.parse().unwrap(), len).unwrap()
    }

    #[test]
    fn a_range_holds_what_agrees_in_its_first_bits() {
        assert!(cidr("10.1.2.3", 8).contains("10.9.9.9".parse().unwrap()));
        assert!(!cidr("10.1.2.3", 16).contains("10.9.9.9".parse().unwrap()));
        assert!(cidr("0.0.0.0", 0).contains("1.2.3.4".parse().unwrap()));
        assert!(cidr("1.2.3.4", 32).contains("::ffff:1.2.3.4".parse().unwrap()));
        assert!(cidr("fd00::1", 8).contains("fdff::".parse().unwrap()));
        assert!(cidr("::", 0).contains("fdff::".parse().unwrap()));
        assert!(!cidr("::", 0).contains("1.2.3.4".parse().unwrap()));
        assert_eq!(cidr("10.1.2.3", 8).to_string(), "10.0.0.0/8");
    }

    #[test]
    fn a_text_is_an_address_or_a_range() {
        let parsed = |text: &str| text.parse::<Cidr>().ok().map(|cidr| cidr.to_string());
        assert_eq!(parsed("10.1.2.3/8"), Some("10.0.0.0/8".into()));
        assert_eq!(parsed("10.1.2.3"), Some("10.1.2.3/32".into()));
        assert_eq!(parsed("::1"), Some("::1/128".into()));
        for wrong in ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_is_represented_by_an_address_that_a_machine_may_have() {
        let of = |text: &str| text.parse::<Cidr>().unwrap().representative().to_string();
        assert_eq!(
            [of("240.0.1.0/24"), of("240.0.1.7"), of("2001:2::/48"), of("10.0.0.0/31")],
            ["240.0.1.1", "240.0.1.7", "2001:2::1", "10.0.0.1"]
        );
    }

    #[test]
    fn ranges_overlap_where_one_holds_the_other() {
        let overlap = |a: &str, b: &str| a.parse::<Cidr>().unwrap().overlaps(&b.parse().unwrap());
        assert!(overlap("10.0.0.0/8", "10.1.0.0/16") && overlap("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!overlap("10.0.0.0/16", "10.1.0.0/16") && !overlap("::/0", "10.0.0.0/8"));
    }

    #[test]
    fn a_prefix_is_no_longer_than_an_address() {
        assert_eq!(Cidr::new("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Cidr::new("::1".parse().unwrap(), 129), None);
        assert_eq!(Cidr::new("::1".parse().unwrap(), 300), None);
    }
}

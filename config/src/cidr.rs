//! Ranges of IP addresses.

use std::fmt;
use std::net::IpAddr;

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

    /// How many first bits its addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
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

    /// The one address in the range, where there is just one.
    pub fn single(&self) -> Option<IpAddr> {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        (self.prefix_len == longest).then_some(self.address)
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

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl std::str::FromStr for Cidr {
    type Err = ();

    /// An address, or an address and a prefix length.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(drop)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), str::parse).map_err(drop)?;
        Self::new(address, bits).ok_or(())
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
    fn a_prefix_is_no_longer_than_an_address() {
        assert_eq!(Cidr::new("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Cidr::new("::1".parse().unwrap(), 129), None);
        assert_eq!(Cidr::new("::1".parse().unwrap(), 300), None);
    }
}

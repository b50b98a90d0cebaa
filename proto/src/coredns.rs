//! What CoreDNS's `grpc` plugin says and hears
//! ([`pb/dns.proto`](https://github.com/coredns/coredns/blob/master/pb/dns.proto)).

use prost::Message;

/// A DNS message as it stands on the wire (`coredns.dns.DnsPacket`): a query, or the answer to it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DnsPacket {
    /// The message.
    #[prost(bytes = "vec", tag = "1")]
    pub msg: Vec<u8>,
}

impl DnsPacket {
    /// The method that takes and gives it.
    pub const METHOD: &str = "/coredns.dns.DnsService/Query";
}

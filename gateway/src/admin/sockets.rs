//! What the kernel knows of TCP connections (`TCP_INFO`), of all at once over netlink (sock_diag(7)): connections hold
//! nothing for it, and the data threads are not asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Netlink};
use serde::Serialize;

/// What is shown of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct TcpInfo {
    /// Smoothed round-trip time.
    pub(super) rtt_us: u32,
    /// How much it varies.
    pub(super) rttvar_us: u32,
    /// Segments sent again, ever.
    pub(super) retransmits: u32,
    /// The congestion window, in segments.
    pub(super) cwnd: u32,
    /// Bytes that wait to be sent.
    pub(super) unsent_bytes: u32,
    /// Since the last data came.
    pub(super) silent_ms: u32,
}

/// Both ends of a socket: its own, and its peer's.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// Every TCP connection of this network namespace.
///
/// # Errors
/// The kernel has no sock_diag, or does not let us ask.
pub(super) fn all() -> io::Result<HashMap<Ends, TcpInfo>> {
    let mut found = HashMap::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        dump(family, id, &mut found)?;
    }
    Ok(found)
}

fn dump(family: u8, socket_id: SocketId, found: &mut HashMap<Ends, TcpInfo>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Netlink::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(
        header,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED
                | StateFlags::CLOSE_WAIT
                | StateFlags::FIN_WAIT1
                | StateFlags::FIN_WAIT2,
            socket_id,
        })
        .into(),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..size.min(buffer.len())];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.extend(entry(&response));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length.max(1)..).unwrap_or_default();
        }
    }
}

fn entry(response: &InetResponse) -> Option<(Ends, TcpInfo)> {
    let id = &response.header.socket_id;
    let ends = (
        plain((id.source_address, id.source_port).into()),
        plain((id.destination_address, id.destination_port).into()),
    );
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    })?;
    let info = TcpInfo {
        rtt_us: info.rtt,
        rttvar_us: info.rttvar,
        retransmits: info.total_retrans,
        cwnd: info.snd_cwnd,
        unsent_bytes: info.notsent_bytes,
        silent_ms: info.last_data_recv,
    };
    Some((ends, info))
}

/// An IPv4 client of a socket for both families stands there as an IPv6 one.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(address, |ip| (ip, address.port()).into()),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_both_sides_of_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (here, there) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        let known = all().unwrap();
        for ends in [(here, there), (there, here)] {
            assert!(known[&ends].cwnd > 0 && known[&ends].retransmits == 0, "{:?}", known[&ends]);
        }
    }
}

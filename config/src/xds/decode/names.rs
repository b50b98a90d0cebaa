//! The name table that istiod makes for DNS (`istio.networking.nds.v1.NameTable`).

use std::net::IpAddr;

use eastgate_proto::Message;
use eastgate_proto::istio::{NameInfo, NameTable};

use super::{Findings, Problem};
use crate::names::{Name, Names};
use crate::server_name::Pattern;

/// Decodes a table. A host or an address that is none costs itself alone: all the others stand in the same resource.
pub(in crate::xds) fn decode(body: &[u8]) -> Result<(Names, Findings), Vec<Problem>> {
    let unreadable = |error| vec![Problem::whole(format!("its bytes are no such message: {error}"))];
    let table = NameTable::decode(body).map_err(unreadable)?.table;
    let (mut names, mut findings) = (Names::new(), Findings::default());
    for (host, info) in table {
        let problem = |reason: String| Problem::at(format!("table[{host}]"), reason);
        match host.parse::<Pattern>() {
            Ok(Pattern::Any) => {
                findings.notices.push(problem("DNS does not answer for every name there is".into()))
            }
            Ok(pattern) => {
                let addresses = addresses(&info, |reason| findings.notices.push(problem(reason)));
                names.entry(pattern).or_default().addresses.extend(addresses);
            }
            Err(error) => findings.notices.push(problem(format!("DNS does not answer for it: {error}"))),
        }
    }
    Ok((names, findings))
}

fn addresses(info: &NameInfo, mut say: impl FnMut(String)) -> impl Iterator<Item = IpAddr> {
    let mut addresses = Vec::new();
    for text in &info.ips {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => say(format!("{text:?} is not an IP address and is left out")),
        }
    }
    addresses.into_iter()
}

/// What several tables say together.
pub(in crate::xds) fn joined(tables: impl Iterator<Item = Names>) -> Names {
    let mut all = Names::new();
    for (host, Name { addresses, .. }) in tables.flatten() {
        all.entry(host).or_default().addresses.extend(addresses);
    }
    all
}

//! nftables rules that have the kernel bring a VM's connections here.

use std::collections::BTreeSet;
use std::fmt::Write;

use eastgate_config::cidr::Cidr;
use eastgate_config::listener::Role;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::vm::Machine;

/// Where the VM's own connections go.
pub(super) const OUTBOUND: u16 = 15001;
/// Where the mesh's connections go.
pub(super) const INBOUND: u16 = 15006;

/// The rules, in one table of their own that replaces what there was of it.
pub(super) fn rules(machine: &Machine, snapshot: &Snapshot, user: &str) -> String {
    let mut ranges: BTreeSet<Cidr> = machine.service_ranges.iter().copied().collect();
    let mut ports = BTreeSet::new();
    for listener in snapshot.listeners.values() {
        for chain in &listener.filter_chains {
            match listener.options.role {
                Role::Terminate => ports.extend(chain.matches.connection.destination_port),
                _ => ranges.extend(chain.matches.connection.destination_ranges.iter().copied()),
            }
        }
    }
    let mut text =
        String::from("table inet eastgate {}\ndelete table inet eastgate\ntable inet eastgate {\n");
    text += "  chain outbound {\n    type nat hook output priority -100; policy accept;\n";
    // What the process itself sends must not come back to it.
    let _ = writeln!(text, "    meta skuid \"{user}\" return");
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let of = |range: &&Cidr| range.is_ipv4() == is_v4;
        let list: Vec<_> = without_covered(&ranges)
            .into_iter()
            .filter(|range| of(&range))
            .map(|range| range.to_string())
            .collect();
        if !list.is_empty() {
            let _ = writeln!(
                text,
                "    {family} daddr {{ {} }} meta l4proto tcp redirect to :{OUTBOUND}",
                list.join(", ")
            );
        }
    }
    text += "  }\n  chain inbound {\n    type nat hook prerouting priority -100; policy accept;\n";
    if !ports.is_empty() {
        let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "    tcp dport {{ {} }} redirect to :{INBOUND}", list.join(", "));
    }
    text + "  }\n}\n"
}

/// A set of nftables takes no range that is inside another.
fn without_covered(ranges: &BTreeSet<Cidr>) -> Vec<Cidr> {
    let covered = |range: &Cidr| ranges.iter().any(|other| other != range && other.covers(range));
    ranges.iter().filter(|range| !covered(range)).copied().collect()
}

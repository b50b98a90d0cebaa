//! Networks: which endpoints the gateway reaches itself.
//!
//! The rules are those of Istio 1.1 to 1.4, which the `.global` design was made for: an endpoint belongs to a network, the
//! one without a name where nothing is said, and a proxy uses the endpoints of the networks in its view and no others.
//! So one ServiceEntry serves both sides of an egress gateway. Its endpoint without a network is that gateway, for
//! clients in the mesh; its endpoint of network `external` is the far end, for the egress gateway alone.

use super::Options;

impl Options {
    /// Is this the gateway's own network? It is everybody's who names none.
    pub(super) fn is_own_network(&self, network: &str) -> bool {
        network.is_empty() || network == self.network
    }

    /// Are endpoints of this network used?
    pub(super) fn sees(&self, network: &str) -> bool {
        let is_own = self.is_own_network(network);
        if self.network_view.is_empty() {
            return is_own;
        }
        self.network_view.iter().any(|seen| if is_own { self.is_own_network(seen) } else { seen == network })
    }

    /// Are services of the gateway's own cluster used? Not by an egress gateway, which therefore rewrites nothing.
    pub fn sees_own_network(&self) -> bool {
        self.sees("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(own: &str, view: &[&str]) -> [bool; 3] {
        let options = Options {
            network: own.to_owned(),
            network_view: view.iter().map(|network| (*network).to_owned()).collect(),
            ..Options::default()
        };
        ["", "net1", "external"].map(|network| options.sees(network))
    }

    #[test]
    fn without_a_view_the_own_network_is_seen_and_with_one_just_what_it_names() {
        assert_eq!(sees("", &[]), [true, false, false]);
        assert_eq!(sees("net1", &[]), [true, true, false]);
        assert_eq!(sees("", &["external"]), [false, false, true]);
        assert_eq!(sees("net1", &["net1"]), [true, true, false]);
        assert_eq!(sees("net1", &["", "external"]), [true, true, true]);
    }
}

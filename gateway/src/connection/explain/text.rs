//! An explanation as text for people.

use std::fmt::{Display, Formatter, Result};

use eastgate_config::rbac::Action;

use super::steps::Candidate;
use super::{Explanation, Led, OnListener, Refused, Told, steps};
use crate::upstream::state::{EndpointState, LocalityState};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.server_name)?;
        if !self.alpn.is_empty() {
            write!(f, ", offering {}", self.alpn.join(", "))?;
        }
        if let Some(source) = self.source {
            write!(f, ", from {source}")?;
        }
        writeln!(f, " (table {})", self.table)?;
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        self.listeners.iter().try_for_each(|listener| write!(f, "\n{listener}"))
    }
}

impl Display for OnListener {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let s = if self.chains == 1 { "" } else { "s" };
        writeln!(f, "listener {} at {}: {} filter chain{s}", self.listener, self.address, self.chains)?;
        self.steps.iter().try_for_each(|step| write!(f, "{step}"))?;
        self.clusters.iter().try_for_each(|led| write!(f, "{led}"))?;
        for near in &self.nearest {
            write!(f, "  nearest    {}", near.name)?;
            match near.sent_as.as_slice() {
                [] => writeln!(f)?,
                sent_as => writeln!(f, ", sent as {}", steps::list(sent_as))?,
            }
        }
        let verdict = &self.verdict;
        match (&verdict.refused, &verdict.cluster) {
            (Some(refused), _) => writeln!(f, "  => {refused}"),
            (None, Some(_)) if self.clusters.len() > 1 => writeln!(f, "  => goes to one of these clusters"),
            (None, Some(cluster)) => writeln!(f, "  => goes to cluster {cluster}"),
            (None, None) => Ok(()),
        }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "refused, {}: {}", self.flag, self.error)?;
        match self.alert_name.zip(self.alert) {
            Some((name, number)) => write!(f, " [TLS alert {name} ({number})]"),
            None => Ok(()),
        }
    }
}

impl Display for Told {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::LookedUp { lookup, name, rewrite, chains } => looked_up(f, lookup, name, rewrite, chains),
            Self::Default { chain } => writeln!(f, "  default    chain {chain}: takes what no other does"),
            Self::Limit { text } => writeln!(f, "  limit      {text}"),
            Self::Rules { action, matched, allowed } => {
                let action = match action {
                    Action::Allow => "allow",
                    Action::Deny => "deny",
                };
                let matched = match matched {
                    Some(policy) => format!("policy {policy} matches"),
                    None => "no policy matches".into(),
                };
                let end = if *allowed { "goes on" } else { "stopped" };
                writeln!(f, "  rules      {action}: {matched}; {end}")
            }
            Self::Named { cluster: None, .. } => {
                writeln!(f, "  by name    the name has not the form of a cluster's; the chain's own counts")
            }
            Self::Named { cluster: Some(cluster), found } => {
                let end = if *found { "" } else { ", which does not exist; the chain's own counts" };
                writeln!(f, "  by name    the name is cluster {cluster}{end}")
            }
        }
    }
}

fn looked_up(
    f: &mut Formatter<'_>,
    lookup: &str,
    name: &str,
    rewrite: &Option<String>,
    chains: &[Candidate],
) -> Result {
    let label = match lookup {
        "as_sent" => "as sent",
        "any" => "any name",
        other => other,
    };
    match (lookup, rewrite) {
        // Chains for every name are worth a line where there are some.
        ("any", _) if chains.is_empty() => return Ok(()),
        ("any", _) => {}
        (_, Some(rewrite)) => writeln!(f, "  {label:10} {name}  by {rewrite}")?,
        (_, None) => writeln!(f, "  {label:10} {name}")?,
    }
    if chains.is_empty() {
        return writeln!(f, "             no filter chain has this name");
    }
    for (number, Candidate { chain, unfit }) in chains.iter().enumerate() {
        let label = if lookup == "any" && number == 0 { label } else { "" };
        writeln!(f, "  {label:10} chain {chain}: {}", unfit.as_deref().unwrap_or("takes it"))?;
    }
    Ok(())
}

impl Display for Led {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "  cluster    {}", self.named)?;
        if self.percent < 100.0 {
            write!(f, " ({:.0} % of the chain's connections)", self.percent)?;
        }
        let Some(cluster) = &self.cluster else { return writeln!(f, ": does not exist") };
        let total: usize = cluster.localities.iter().map(|locality| locality.endpoints.len()).sum();
        write!(
            f,
            ": {}, {} open, {} of {total} endpoints take connections",
            cluster.policy_name(),
            cluster.active,
            cluster.taking
        )?;
        match cluster.max_connections {
            Some(most) => writeln!(f, ", at most {most} connections")?,
            None => writeln!(f)?,
        }
        for name in &cluster.unresolved {
            writeln!(f, "    {name}: no address is known")?;
        }
        cluster.localities.iter().try_for_each(|locality| write!(f, "{locality}"))
    }
}

impl Display for LocalityState {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let place = if self.locality.is_empty() { "no locality" } else { &self.locality };
        writeln!(f, "    {place}, priority {}", self.priority)?;
        self.endpoints.iter().try_for_each(|endpoint| write!(f, "{endpoint}"))
    }
}

impl Display for EndpointState {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { address, health_flags, weight, active, connected, failed, .. } = self;
        write!(
            f,
            "      {address:<21} {health_flags}  weight {weight}, {active} open, {connected} made, {failed} failed"
        )?;
        if !self.workload.is_empty() {
            write!(f, "  {}", self.workload)?;
        }
        writeln!(f)?;
        let effect = if self.takes_connections { "takes some all the same" } else { "takes none" };
        self.out.iter().try_for_each(|why| writeln!(f, "        {effect}: {why}"))
    }
}

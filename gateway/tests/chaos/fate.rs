//! What becomes of each connection, and which losses a promise covers: rules without a socket or a clock.
//!
//! Time is a number that goes up at each edge of a fault, so that it is known of each connection which faults it has met,
//! however slow the machine is.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::ErrorKind;

use eastgate_loadtest::client;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Ok,
    Refused,
    Reset,
    Eof,
    Timeout,
    /// By a TLS alert, which says why.
    Alert,
    /// Other bytes came than were sent, or somebody else answered.
    Wrong,
}

impl Fate {
    pub(crate) const LOST: [Self; 6] =
        [Self::Refused, Self::Reset, Self::Eof, Self::Timeout, Self::Alert, Self::Wrong];

    /// What an error of the client comes down to.
    pub(crate) fn of(error: &client::Error) -> Self {
        match error {
            client::Error::Timeout(_) => return Self::Timeout,
            client::Error::Stranger(_) => return Self::Wrong,
            _ => {}
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                return match (tls, error.kind()) {
                    (Some(rustls::Error::AlertReceived(_)), _) => Self::Alert,
                    (_, ErrorKind::ConnectionRefused) => Self::Refused,
                    (_, ErrorKind::UnexpectedEof) => Self::Eof,
                    (Some(_), _) => Self::Wrong,
                    _ => Self::Reset,
                };
            }
            cause = error.source();
        }
        Self::Eof
    }
}

/// A connection, from its beginning to its end.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) began: u32,
    pub(crate) ended: u32,
    /// A byte came back: from then on, an endpoint has it and nobody else can.
    pub(crate) answered: bool,
    /// Who answered, once that is known.
    pub(crate) pod: Option<usize>,
    pub(crate) fate: Fate,
    /// What the client's error said.
    pub(crate) why: String,
}

/// Whom a fault hurts although every promise is kept, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hurts {
    Nobody,
    /// Connections that these pods had answered when it began.
    UnderWay(&'static [usize]),
    /// Connections that nobody has answered while it lasts.
    Unanswered(&'static str),
    /// Whoever is connected or connects while it lasts.
    Everybody(&'static str),
}

/// A fault that was done, with its edges.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) name: &'static str,
    pub(crate) hurts: Hurts,
    /// Whoever ended before the first has not met it; whoever began before the second was there when it began.
    pub(crate) begins: (u32, u32),
    /// Whoever began before this has met it.
    pub(crate) ends: u32,
}

impl Done {
    /// Why no promise covers this loss; `None` where one does.
    pub(crate) fn excuse(&self, lost: &Connection) -> Option<&'static str> {
        if lost.fate == Fate::Wrong {
            return None;
        }
        let (first, begun) = self.begins;
        let met = lost.began < self.ends && lost.ended >= first;
        let was_there = lost.began < begun && lost.ended >= first;
        match self.hurts {
            Hurts::Nobody => None,
            Hurts::UnderWay(pods) => {
                let theirs = lost.answered && lost.pod.is_none_or(|pod| pods.contains(&pod));
                (was_there && theirs).then_some("it was under way at a pod that failed")
            }
            Hurts::Unanswered(why) => (met && !lost.answered).then_some(why),
            Hurts::Everybody(why) => met.then_some(why),
        }
    }
}

/// All connections and all faults.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) connections: Vec<Connection>,
    pub(crate) faults: Vec<Done>,
}

/// A line of the report.
#[derive(Debug, Default)]
struct Line {
    made: usize,
    lost: BTreeMap<Fate, usize>,
    covered: Vec<String>,
    excuses: BTreeMap<&'static str, usize>,
}

impl Ledger {
    /// The fault in whose time a connection ended: from its beginning until that of the next.
    fn fault_of(&self, connection: &Connection) -> Option<&Done> {
        self.faults.iter().rev().find(|fault| fault.begins.0 <= connection.ended)
    }

    /// How many losses a promise covers.
    pub(crate) fn covered(&self) -> usize {
        self.lines().iter().map(|(_, line)| line.covered.len()).sum()
    }

    fn lines(&self) -> Vec<(&'static str, Line)> {
        let mut lines = vec![("(before the first)", Line::default())];
        lines.extend(self.faults.iter().map(|fault| (fault.name, Line::default())));
        for connection in &self.connections {
            let fault = self.fault_of(connection);
            let name = fault.map_or("(before the first)", |fault| fault.name);
            let Some((_, line)) = lines.iter_mut().find(|(known, _)| *known == name) else { continue };
            line.made += 1;
            if connection.fate == Fate::Ok {
                continue;
            }
            *line.lost.entry(connection.fate).or_default() += 1;
            match fault.and_then(|fault| fault.excuse(connection)) {
                Some(why) => *line.excuses.entry(why).or_default() += 1,
                None => line.covered.push(format!(
                    "{name}: {:?}, answered: {}, pod: {:?}, {}..{}: {}",
                    connection.fate,
                    connection.answered,
                    connection.pod,
                    connection.began,
                    connection.ended,
                    connection.why
                )),
            }
        }
        lines
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |line: &Line, fate| line.lost.get(&fate).copied().unwrap_or(0);
        let lines = self.lines();
        let made: usize = lines.iter().map(|(_, line)| line.made).sum();
        let lost: usize = lines.iter().flat_map(|(_, line)| line.lost.values()).sum();
        write!(f, "{:58} {:>6}", "fault", "made")?;
        for fate in Fate::LOST {
            write!(f, " {:>7}", format!("{fate:?}").to_lowercase())?;
        }
        writeln!(f, " promised  no promise, because")?;
        for (name, line) in &lines {
            write!(f, "{name:58} {:>6}", line.made)?;
            for fate in Fate::LOST {
                write!(f, " {:>7}", count(line, fate))?;
            }
            let excuses: Vec<_> = line.excuses.iter().map(|(why, count)| format!("{count}: {why}")).collect();
            writeln!(f, " {:>8}  {}", line.covered.len(), excuses.join("; "))?;
        }
        let covered = self.covered();
        writeln!(
            f,
            "{} faults, {made} connections, {lost} lost, {covered} of them against a promise",
            self.faults.len()
        )?;
        lines.iter().flat_map(|(_, line)| &line.covered).take(40).try_for_each(|line| writeln!(f, "  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(began: u32, ended: u32, answered: bool, pod: Option<usize>) -> Connection {
        Connection { began, ended, answered, pod, fate: Fate::Reset, why: String::new() }
    }

    fn fault(hurts: Hurts) -> Done {
        Done { name: "a fault", hurts, begins: (10, 11), ends: 20 }
    }

    #[test]
    fn only_what_a_failed_pod_had_answered_before_is_excused() {
        let fault = fault(Hurts::UnderWay(&[1]));
        assert!(fault.excuse(&lost(9, 11, true, Some(1))).is_some());
        assert!(fault.excuse(&lost(9, 11, true, None)).is_some());
        assert!(fault.excuse(&lost(9, 11, true, Some(0))).is_none(), "at another pod");
        assert!(fault.excuse(&lost(9, 11, false, None)).is_none(), "the hello can be replayed");
        assert!(fault.excuse(&lost(12, 13, true, Some(1))).is_none(), "begun after the fault");
        assert!(fault.excuse(&lost(3, 9, true, Some(1))).is_none(), "ended before the fault");
    }

    #[test]
    fn who_was_answered_is_not_excused_by_that_nobody_could_be_reached() {
        let fault = fault(Hurts::Unanswered("no endpoint"));
        assert!(fault.excuse(&lost(12, 13, false, None)).is_some());
        assert!(fault.excuse(&lost(9, 13, true, Some(0))).is_none());
        assert!(fault.excuse(&lost(21, 22, false, None)).is_none(), "begun when it was over");
    }

    #[test]
    fn wrong_bytes_have_no_excuse_and_losses_are_counted() {
        let everybody = fault(Hurts::Everybody("killed"));
        let wrong = Connection { fate: Fate::Wrong, ..lost(12, 13, true, None) };
        assert!(everybody.excuse(&wrong).is_none());
        let connections = vec![wrong, lost(12, 13, true, None), lost(1, 2, false, None)];
        let ledger = Ledger { connections, faults: vec![everybody] };
        assert_eq!(ledger.covered(), 2, "the wrong one, and the one before the fault:\n{ledger}");
    }
}

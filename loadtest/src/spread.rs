//! How answers spread over pods, and why others did not come.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// What many requests came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Answers by pod.
    pub pods: BTreeMap<String, u64>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub failures: BTreeMap<String, u64>,
}

impl Spread {
    /// Counts an answer.
    pub fn answered(&mut self, pod: &str, status: u16) {
        *self.pods.entry(pod.to_owned()).or_default() += 1;
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Counts a request that got none.
    pub fn failed(&mut self, reason: String) {
        *self.failures.entry(reason).or_default() += 1;
    }

    /// How many requests were answered.
    pub fn answers(&self) -> u64 {
        self.pods.values().sum()
    }

    /// How many were not.
    pub fn failures(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "answers": self.answers(),
            "failed": self.failures(),
            "pods": self.pods,
            "statuses": self.statuses,
            "failures": self.failures,
        })
    }
}

/// A table for people: a row per pod, then the statuses if not all are 200, then the failures.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.answers();
        let width = self.pods.keys().map(|pod| pod.chars().count()).fold("pod".len(), usize::max);
        if answers > 0 {
            writeln!(f, "{:<width$}  {:>8}  {:>6}", "pod", "answers", "share")?;
        }
        for (pod, count) in &self.pods {
            let share = *count as f64 * 100.0 / answers as f64;
            writeln!(f, "{pod:<width$}  {count:>8}  {share:>5.1}%")?;
        }
        for (status, count) in self.statuses.iter().filter(|(status, _)| **status != 200) {
            writeln!(f, "{count} answered with status {status}")?;
        }
        for (reason, count) in &self.failures {
            writeln!(f, "{count} failed: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_per_pod_and_names_what_went_wrong() {
        let mut spread = Spread::default();
        for _ in 0..2 {
            spread.answered("httpbin-1", 200);
        }
        spread.answered("httpbin-22", 503);
        spread.failed("reset".to_owned());
        let table = "\
            pod          answers   share\n\
            httpbin-1          2   66.7%\n\
            httpbin-22         1   33.3%\n\
            1 answered with status 503\n\
            1 failed: reset\n";
        assert_eq!(spread.to_string(), table);
        let json = spread.json();
        assert_eq!(
            (&json["answers"], &json["failed"], &json["pods"]["httpbin-1"]),
            (&3.into(), &1.into(), &2.into())
        );
    }

    #[test]
    fn without_answers_there_is_no_table() {
        let mut spread = Spread::default();
        spread.failed("refused".to_owned());
        assert_eq!(spread.to_string(), "1 failed: refused\n");
    }
}

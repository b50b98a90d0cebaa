//! `eastgate xds`: asks a running gateway where its conversation with the control plane stands.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;

use crate::admin_client::{AdminPort, escaped};

/// Ask a running gateway about its control plane.
#[derive(Debug, Clone, Args)]
pub struct XdsArgs {
    /// What to ask
    #[command(subcommand)]
    pub question: Question,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub port: AdminPort,
    /// Print text or JSON
    #[arg(short, long, global = true, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Question {
    /// Versions, nonces and ages of each type; what waits, is missing, or is kept back
    Status,
    /// The last pushes, and what each changed
    Log,
    /// What changed between two pushes of the log
    Diff {
        /// A version, or #NUMBER of a push
        from: String,
        /// A version, or #NUMBER of a push
        to: String,
    },
    /// Let go of what the blast-radius guard keeps back
    Release,
}

impl Question {
    fn request(&self) -> (Method, String) {
        match self {
            Self::Status => (Method::GET, "/xds?".into()),
            Self::Log => (Method::GET, "/xds/log?".into()),
            Self::Diff { from, to } => {
                (Method::GET, format!("/xds/diff?from={}&to={}&", escaped(from), escaped(to)))
            }
            Self::Release => (Method::POST, "/xds/release?".into()),
        }
    }
}

/// Asks, and prints the answer.
///
/// # Errors
/// Nobody answers at the admin port, or what answers does not know.
pub async fn run(args: &XdsArgs) -> anyhow::Result<ExitCode> {
    let (method, path) = args.question.request();
    let format = if args.output == "json" { "format=json" } else { "" };
    let path = format!("{path}{format}");
    let path = path.trim_end_matches(['?', '&']);
    args.port.print(method, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_may_have_any_characters() {
        let question = Question::Diff { from: "2026-11-22T15:00:00Z/1".into(), to: "#7 &".into() };
        assert_eq!(question.request().1, "/xds/diff?from=2026-11-22T15%3A00%3A00Z%2F1&to=%237%20%26&");
    }
}

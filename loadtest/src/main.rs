//! `eastgate-loadtest`: pods to stand behind a gateway, and a client to stand in front of it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use eastgate_loadtest::ca::{CERTIFICATE_FILE, Ca, roots_from_file};
use eastgate_loadtest::client::{self, Client, Expect, Response};
use eastgate_loadtest::origin::{self, Origin};
use eastgate_loadtest::spread::Spread;
use tokio::{select, signal};

use crate::args::{Arguments, CertifyArguments, Command, GetArguments, OriginArguments};

mod args;
mod compare_command;
mod load_command;
mod progress;

/// How many failures in a row say that nothing will come, so that a wrong address does not cost a thousand timeouts.
const GIVE_UP: u64 = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Origin(arguments) => run_origin(arguments).await,
        Command::Get(arguments) => run_get(arguments).await,
        Command::Certify(arguments) => certify(&arguments),
        Command::Run(arguments) => load_command::run(arguments).await,
        Command::LoadOrigin(arguments) => load_command::load_origin(arguments).await,
        Command::Mesh(arguments) => load_command::write_mesh(&arguments),
        Command::Compare(arguments) => compare_command::compare(arguments).await,
        Command::Exec(arguments) => Err(compare_command::exec(arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_origin(arguments: OriginArguments) -> anyhow::Result<()> {
    let names = pod_names(&arguments.name, arguments.listen.len())?;
    let ca = Ca::load_or_create(&arguments.ca_dir)?;
    let sans: Vec<&str> = arguments.san.iter().map(String::as_str).collect();
    let mut origins = Vec::new();
    for (name, address) in names.into_iter().zip(arguments.listen) {
        let mut options = origin::Options::new(name.clone(), ca.issue(&sans).context("bad --san")?);
        options.address = address;
        options.verbose = arguments.verbose;
        if arguments.strict {
            options.clients = origin::Clients::Verified(ca.roots());
        }
        if !arguments.alpn.is_empty() {
            options.alpn.clone_from(&arguments.alpn);
        }
        let origin = Origin::start(options).await.context(
            "cannot start a pod: choose another --listen (`ip address` shows which this machine has), or port 0",
        )?;
        say(&format!("{name} listens on {}", origin.address()));
        origins.push(origin);
    }
    let roots = arguments.ca_dir.join(CERTIFICATE_FILE);
    say(&format!("the certificate is for {}", arguments.san.join(", ")));
    say(&format!("clients trust it with {}", roots.display()));
    signal::ctrl_c().await.context("cannot wait for ctrl-c")?;
    for origin in origins {
        origin.stop().await;
    }
    Ok(())
}

fn certify(arguments: &CertifyArguments) -> anyhow::Result<()> {
    let ca = Ca::load_or_create(&arguments.ca_dir)?;
    let sans: Vec<&str> = arguments.san.iter().map(String::as_str).collect();
    let issued = if arguments.expired { ca.issue_expired(&sans) } else { ca.issue(&sans) };
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    issued.context("bad --san")?.write_pem(&out.join("cert-chain.pem"), &out.join("key.pem"))?;
    let root = out.join("root-cert.pem");
    std::fs::write(&root, ca.certificate_pem())
        .with_context(|| format!("cannot write {}", root.display()))?;
    say(&format!("{} holds a certificate for {}", out.display(), arguments.san.join(", ")));
    Ok(())
}

/// Prints a line; pods go on where nobody reads it any more, as behind `| head`.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A name for each pod: as given, or one name with numbers.
fn pod_names(given: &[String], pods: usize) -> anyhow::Result<Vec<String>> {
    let stem = match given {
        [] => "httpbin",
        names if names.len() == pods => return Ok(names.to_vec()),
        [stem] => stem,
        _ => bail!("{} --name for {pods} --listen: give one for each, or one for all", given.len()),
    };
    Ok((1..=pods).map(|number| format!("{stem}-{number}")).collect())
}

async fn run_get(arguments: GetArguments) -> anyhow::Result<()> {
    let roots = roots_from_file(&arguments.ca)
        .context("cannot read --ca: pass the ca.pem that `eastgate-loadtest origin` names when it starts")?;
    let client = Client::new(client::Options {
        expect: Expect::OneOf(arguments.expect.clone()),
        alpn: arguments.alpn.clone(),
        timeout: Duration::from_secs(arguments.timeout),
        ..client::Options::new(roots)
    })?;
    let mut spread = Spread::default();
    let interrupted = select! {
        () = get_all(&client, &arguments, &mut spread) => false,
        _ = signal::ctrl_c() => true,
    };
    if arguments.json {
        writeln!(io::stdout(), "{:#}", spread.json())?;
    } else {
        write!(io::stdout(), "{spread}")?;
    }
    let sent = spread.answers() + spread.failures();
    ensure!(!interrupted, "interrupted after {sent} of {} requests", arguments.count);
    ensure!(
        sent == arguments.count,
        "gave up after {sent} of {} requests, as {GIVE_UP} in a row failed",
        arguments.count
    );
    ensure!(spread.failures() == 0, "{} of {sent} requests failed", spread.failures());
    Ok(())
}

async fn get_all(client: &Client, arguments: &GetArguments, spread: &mut Spread) {
    let mut failures_in_a_row = 0;
    for _ in 0..arguments.count {
        match client.get(arguments.connect, &arguments.sni, &arguments.path).await {
            Ok(response) => {
                failures_in_a_row = 0;
                spread.answered(&answerer(&response), response.status);
            }
            Err(error) => {
                failures_in_a_row += 1;
                spread.failed(reason(error));
            }
        }
        if failures_in_a_row == GIVE_UP {
            return;
        }
    }
}

/// The pod that answered; for a foreign one, whose headers do not say, the names in its certificate.
fn answerer(response: &Response) -> String {
    match (response.pod(), &response.peer) {
        (Some(pod), _) => pod.to_owned(),
        (None, Some(peer)) => peer.names().join(","),
        (None, None) => "unknown".to_owned(),
    }
}

/// The whole chain of causes, with what to do where this program can know it.
fn reason(error: client::Error) -> String {
    let advice = match &error {
        client::Error::Connect { .. } => " (is the gateway running, and is --connect its address?)",
        client::Error::Stranger(_) => " (--expect says who may answer)",
        client::Error::Handshake(_) if matches!(error.tls(), Some(rustls::Error::InvalidCertificate(_))) => {
            " (is --ca the ca.pem of the origin's --ca-dir?)"
        }
        client::Error::Handshake(_) if error.tls().is_none() => {
            " (a gateway that knows no route for --sni closes the connection)"
        }
        _ => "",
    };
    format!("{:#}{advice}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_numbered_unless_each_has_its_name() {
        let given = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(pod_names(&[], 2).unwrap(), ["httpbin-1", "httpbin-2"]);
        assert_eq!(pod_names(&given(&["web"]), 2).unwrap(), ["web-1", "web-2"]);
        assert_eq!(pod_names(&given(&["web"]), 1).unwrap(), ["web"]);
        assert_eq!(pod_names(&given(&["a", "b"]), 2).unwrap(), ["a", "b"]);
        assert!(pod_names(&given(&["a", "b"]), 3).is_err());
    }
}

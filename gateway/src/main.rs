//! The `eastgate` command.

use std::fmt::Display;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use eastgate::admin_client::AdminPort;
use eastgate::app::End;
use eastgate::args::{
    self, AuditArgs, CheckArgs, Command, ConfigArgs, DnsArgs, Eastgate, EnvoyArgs, VmCommand,
};
use eastgate::restart::{self, Sockets};
use eastgate::{
    app, check, demo, explain_command, register, sandbox, signals, telemetry, terminal, vm, xds_command,
};
use eastgate_config::bootstrap::Settings;
use hyper::Method;
use sd_notify::NotifyState;
use serde::Serialize;

fn main() -> ExitCode {
    let ended = match EnvoyArgs::of_process() {
        Some(args) => in_place_of_envoy(&args),
        None => run(Eastgate::parse().command),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("eastgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(settings) => gateway(settings.settings(std::env::vars())?),
        Command::Vm { command } => machine(&command),
        Command::Demo => control_runtime()?.block_on(demo::run()).map(|()| ExitCode::SUCCESS),
        Command::Check(CheckArgs { dir, output, settings }) => {
            let settings = settings.settings(std::env::vars())?;
            check::run(&dir, &app::options(&settings)?, output == "json")
        }
        Command::Audit(AuditArgs { output, settings }) => {
            let settings = settings.settings(std::env::vars())?;
            if let Some(dir) = &settings.source.mesh_dir {
                return check::audit(dir, &app::options(&settings)?, output == "json");
            }
            let path = if output == "json" { "/audit?format=json" } else { "/audit" };
            control_runtime()?.block_on(AdminPort::from(&settings.admin).print(Method::GET, path))
        }
        Command::Hello(args) => check::hello(&args, &app::options(&Settings::default())?),
        Command::Explain(args) if args.mesh_dir.is_none() => {
            control_runtime()?.block_on(explain_command::run(&args))
        }
        Command::Explain(args) => {
            let settings = args::SettingsArgs::default().settings(std::env::vars())?;
            check::explain(&args, &app::options(&settings)?)
        }
        Command::Dns(DnsArgs { name, kind, output, settings }) => {
            let settings = settings.settings(std::env::vars())?;
            check::dns(name.as_deref(), &kind, &settings, &app::options(&settings)?, output == "json")
        }
        Command::Xds(args) => control_runtime()?.block_on(xds_command::run(&args)),
        Command::Status(args) => control_runtime()?.block_on(terminal::status(&args)),
        Command::Clusters(args) => control_runtime()?.block_on(terminal::clusters(&args)),
        Command::Endpoints(args) => control_runtime()?.block_on(terminal::endpoints(&args)),
        Command::Connections(args) => control_runtime()?.block_on(terminal::connections(&args)),
        Command::Top(args) => control_runtime()?.block_on(terminal::top(&args)),
        Command::Drain(args) => control_runtime()?.block_on(terminal::drain(&args)),
        Command::LogLevel(args) => control_runtime()?.block_on(terminal::log_level(&args)),
        Command::Register(args) => control_runtime()?.block_on(register::register(args)),
        Command::Deregister(args) => control_runtime()?.block_on(register::deregister(args)),
        Command::Config(ConfigArgs { output, settings }) => {
            let settings = settings.settings(std::env::vars())?;
            match output.as_str() {
                "json" => println!("{:#}", serde_json::to_value(&settings)?),
                _ => print!("{}", serde_saphyr::to_string(&settings)?),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => args::man(&dir).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Istio's agent has started us for an Envoy.
fn in_place_of_envoy(args: &EnvoyArgs) -> anyhow::Result<ExitCode> {
    let (settings, unserved) = args.settings(std::env::vars())?;
    unserved.iter().for_each(|what| eprintln!("eastgate: {what}"));
    match args.only_validates() {
        true => Ok(ExitCode::SUCCESS),
        false => gateway(settings),
    }
}

/// Everything that is not the data path shares one thread: this one.
fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Lets data threads go before this thread, the control thread, where they share a core: a table may wait for a
/// connection. They have started by now, and keep the niceness that the process was given; in Linux each thread has
/// its own.
fn stand_back() {
    const NICENESS: i32 = 10;
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "the control thread keeps its priority; updates may delay connections");
    }
}

fn machine(command: &VmCommand) -> anyhow::Result<ExitCode> {
    match command {
        VmCommand::Run(args) => gateway(args.settings(std::env::vars())?),
        VmCommand::Bundle(args) => say(&vm::bundle(args)?, &args.output),
        VmCommand::Install(args) => say(&vm::install(args)?, &args.output),
        VmCommand::Uninstall(args) => say(&vm::uninstall(args)?, &args.output),
        VmCommand::Rules(args) => say(&vm::rules(args)?, &args.output),
    }
}

/// What was done, for people or as JSON.
fn say(what: &(impl Serialize + Display), output: &str) -> anyhow::Result<ExitCode> {
    match output {
        "json" => println!("{:#}", serde_json::to_value(what)?),
        _ => println!("{what}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts this program anew, with the same arguments: from its path, where there may be another version by now. The new
/// process takes over by itself; if it fails, this one goes on.
fn replace(socket: bool) {
    if !socket {
        return tracing::error!("a new process cannot take over without restart.socket (--restart-socket)");
    }
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next() else { return };
    let now = NotifyState::monotonic_usec_now();
    match tokio::process::Command::new(&program).args(arguments).spawn() {
        Ok(mut child) => {
            tracing::info!(pid = child.id(), "a new process starts, to take over");
            // It says itself that it is ready, and that it is the main process then.
            restart::tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
            tokio::spawn(async move {
                match child.wait().await {
                    Ok(status) => tracing::warn!(%status, "the new process has ended; this one goes on"),
                    Err(error) => tracing::warn!(%error, "nobody knows what became of the new process"),
                }
                restart::tell(&[NotifyState::Ready]);
            });
        }
        Err(error) => {
            let remedy = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "start it yourself; security.landlock and .seccomp forbid it here"
                }
                _ => "see to the program",
            };
            tracing::error!(%error, program = %program.display(), remedy, "cannot start a new process; this one goes on")
        }
    }
}

fn gateway(settings: Settings) -> anyhow::Result<ExitCode> {
    telemetry::start(&settings.log)?;
    // Before there is another thread, for those that come to be later are in it, too.
    sandbox::enter(&settings)?;
    let sockets = Sockets::from_environment().context("a socket that systemd gave cannot be used")?;
    let runtime = control_runtime()?;
    let ended = runtime.block_on(async {
        let socket = settings.restart.socket.is_some();
        let mut app = app::App::start_with(settings, sockets).await?;
        let (mut replacement, mut reopening) = (signals::replacement()?, signals::reopening()?);
        let access_log = app.access_log();
        stand_back();
        tracing::info!(admin = %app.admin_address(), "started");
        let end = loop {
            tokio::select! {
                signal = signals::asked_to_end() => break Ok(signal?),
                end = app.ended() => match end {
                    End::Failed(error) => return Err(error),
                    End::Succeeded(successor) => break Err(successor),
                    End::Asked => break Ok("/quitquitquit"),
                },
                _ = replacement.recv() => replace(socket),
                _ = reopening.recv() => access_log.reopen(),
            }
        };
        let leaving = async {
            match end {
                Err(successor) => {
                    tracing::info!("another process has taken over");
                    app.hand_over(successor).await
                }
                Ok(signal) => {
                    tracing::info!(signal, "leaving");
                    // Whoever presses ^C has no load balancer that is still to hear of it.
                    if signal != signals::INTERRUPT {
                        app.fade().await;
                    }
                    app.stop().await
                }
            }
        };
        let mut leaving = pin!(leaving);
        let left = loop {
            tokio::select! {
                left = &mut leaving => break left,
                // A drain may last for longer than until the next rotation.
                _ = reopening.recv() => access_log.reopen(),
                signal = signals::asked_to_end() => {
                    tracing::warn!(signal = signal?, "leaving at once; open connections are cut");
                    return Ok(ExitCode::FAILURE);
                }
            }
        };
        tracing::info!(
            finished = left.finished,
            passed = left.passed,
            closed_idle = left.idle,
            cut = left.cut,
            "left"
        );
        Ok(ExitCode::SUCCESS)
    });
    // A disk that has stopped must not hold up the end: what was being written takes the place of nothing before it is whole.
    runtime.shutdown_background();
    ended
}

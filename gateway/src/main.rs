//! The `eastgate` command.

use std::process::ExitCode;

use clap::Parser;
use eastgate::args::{self, CheckArgs, Command, Eastgate, SettingsArgs};
use eastgate::{app, check, demo, register, signals, telemetry, xds_command};
use eastgate_config::bootstrap::Settings;

fn main() -> ExitCode {
    match run(Eastgate::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("eastgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(settings) => gateway(&settings),
        Command::Demo => control_runtime()?.block_on(demo::run()).map(|()| ExitCode::SUCCESS),
        Command::Check(CheckArgs { dir, output, settings }) => {
            let settings = settings.settings(std::env::vars())?;
            check::run(&dir, &app::options(&settings)?, output == "json")
        }
        Command::Hello(args) => check::hello(&args, &app::options(&Settings::default())?),
        Command::Xds(args) => control_runtime()?.block_on(xds_command::run(&args)),
        Command::Register(args) => control_runtime()?.block_on(register::register(args)),
        Command::Deregister(args) => control_runtime()?.block_on(register::deregister(args)),
        Command::Config(settings) => {
            print!("{}", serde_saphyr::to_string(&settings.settings(std::env::vars())?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Everything that is not the data path shares one thread: this one.
fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn gateway(settings: &SettingsArgs) -> anyhow::Result<ExitCode> {
    let settings = settings.settings(std::env::vars())?;
    telemetry::start(&settings.log)?;
    let runtime = control_runtime()?;
    let ended = runtime.block_on(async {
        let mut app = app::App::start(settings).await?;
        tracing::info!(admin = %app.admin_address(), "started");
        tokio::select! {
            signal = signals::asked_to_end() => tracing::info!(signal = signal?, "leaving"),
            error = app.ended() => return Err(error),
        }
        let left = tokio::select! {
            left = app.stop() => left,
            signal = signals::asked_to_end() => {
                tracing::warn!(signal = signal?, "leaving at once; open connections are cut");
                return Ok(ExitCode::FAILURE);
            }
        };
        tracing::info!(open = left.open, cut = left.cut, "left");
        Ok(ExitCode::SUCCESS)
    });
    // A disk that has stopped must not hold up the end: what was being written takes the place of nothing before it is whole.
    runtime.shutdown_background();
    ended
}

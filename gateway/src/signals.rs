//! The signals that end the process.

use tokio::signal::unix::{SignalKind, signal};

/// What [`asked_to_end`] calls the signal of `^C`.
pub const INTERRUPT: &str = "SIGINT";

/// Returns when the process is asked to end, by `SIGTERM` or `SIGINT`.
///
/// # Errors
/// The system takes no handler.
pub async fn asked_to_end() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok(INTERRUPT),
    }
}

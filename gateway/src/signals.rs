//! The signals that end the process, or have it be replaced.

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

/// The signal that asks for log files to be opened anew, as logrotate's scripts send it.
///
/// # Errors
/// The system takes no handler.
pub fn reopening() -> std::io::Result<tokio::signal::unix::Signal> {
    signal(SignalKind::hangup())
}

/// The signal that asks for a new process in the place of this one.
///
/// # Errors
/// The system takes no handler.
pub fn replacement() -> std::io::Result<tokio::signal::unix::Signal> {
    signal(SignalKind::user_defined2())
}

//! What the process gives up for itself: files that it has no business with (Landlock) and system calls that it has no
//! use for (seccomp). Both are given up for good and hold for every thread that is started later, so that they must be
//! entered before the first one is.

use std::io;

use eastgate_config::bootstrap::Settings;

mod calls;
mod files;

/// Why the sandbox that the settings want cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Landlock is there and refuses.
    #[error("security.landlock: the kernel does not take the rules")]
    Landlock(#[from] landlock::RulesetError),
    /// No filter is made, or the kernel refuses it.
    #[error("security.seccomp: the filter cannot be installed")]
    Seccomp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The directory for what is kept.
    #[error("xds.state_dir: it must be there before it is fenced in")]
    State(#[source] io::Error),
}

/// Gives up what the settings say. A kernel without Landlock is told of in one warning, and all goes on without.
///
/// # Errors
/// What was asked for is not to be had otherwise.
pub fn enter(settings: &Settings) -> Result<(), Error> {
    if settings.security.landlock {
        files::enter(settings)?;
    }
    // The filter lets no other sandbox be entered, so that it comes last.
    if settings.security.seccomp {
        calls::enter().map_err(|error| Error::Seccomp(error.into()))?;
        tracing::info!("system calls are fenced in (seccomp)");
    }
    Ok(())
}

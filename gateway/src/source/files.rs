//! A directory of Istio and Kubernetes resources, read whole and watched for changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::istio::{File, Index, Options};
use eastgate_config::snapshot::Snapshot;
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

/// An edit is often several events, and an editor's file is for a moment half written: read when it has been quiet for
/// this long, ...
const QUIET: Duration = Duration::from_millis(50);
/// ... or when changes have gone on for this long.
const PATIENCE: Duration = Duration::from_millis(400);
/// Where the system gives no events (some network file systems), changes are found by looking.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Larger files are not configuration.
const MAX_FILE: u64 = 64 << 20;

/// Why the directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It has no YAML or JSON in it.
    #[error("{} holds no .yaml, .yml or .json file", .0.display())]
    Empty(PathBuf),
}

/// Reads every `.yaml`, `.yml` and `.json` file below the directory, as (path, text), in the order of their paths.
/// A path that is itself a file is read alone. Hidden names are passed over: Kubernetes keeps the versions of a mounted
/// ConfigMap in them, and editors their backups.
///
/// # Errors
/// Names the path that cannot be read.
pub fn read(root: &Path) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    collect(root, root.is_file(), &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(path: &Path, named: bool, found: &mut Vec<(String, String)>) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // Gone between the listing and the look, or a link that points nowhere: as good as not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !found.is_empty() => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                collect(&entry.path(), false, found)?;
            }
        }
        return Ok(());
    }
    let wanted = path
        .extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
    if !wanted && !named {
        return Ok(());
    }
    if metadata.len() > MAX_FILE {
        return Err(failed(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20))));
    }
    let text = std::fs::read(path).map_err(failed)?;
    found.push((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()));
    Ok(())
}

/// Has the index hold just what these files say.
pub fn load(index: &mut Index, files: &[(String, String)]) {
    let files: Vec<_> = files.iter().map(|(path, text)| File { path, text }).collect();
    index.load(&files);
}

/// Serves the directory: sends its snapshot now and after each change, until nobody listens any more.
///
/// # Errors
/// The directory cannot be read to begin with. Later, a directory that cannot be read is reported, and the last
/// snapshot stays.
pub async fn run(
    root: PathBuf,
    options: Options,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
) -> Result<(), Error> {
    let (events, mut changed) = mpsc::channel(1);
    let watcher = watch_directory(&root, RecursiveMode::Recursive, events);
    let mut index = Index::default();
    let mut files = read(&root)?;
    if files.is_empty() {
        return Err(Error::Empty(root));
    }
    loop {
        load(&mut index, &files);
        snapshots.send_replace(Some(Arc::new(index.snapshot(&options))));
        files = loop {
            let quiet = settle(&mut changed, watcher.is_some());
            tokio::select! {
                () = quiet => {}
                () = snapshots.closed() => return Ok(()),
            }
            match read(&root) {
                Ok(now) if now == files => {}
                Ok(now) => break now,
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!("{error}: {cause}; its last content stays in use");
                }
            }
        };
    }
}

/// Events that only say "look again"; the channel of one keeps any number of them.
pub(super) fn watch_directory(
    root: &Path,
    mode: RecursiveMode,
    events: mpsc::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    let looked = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = events.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(looked).and_then(|mut watcher| {
        watcher.watch(root, mode)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| tracing::warn!(%error, "no change events; looking every {LOOK_EVERY:?} instead"))
        .ok()
}

/// Returns when something has changed and it is quiet again.
pub(super) async fn settle(changed: &mut mpsc::Receiver<()>, watched: bool) {
    // Even with events there is a look now and then: a directory that was replaced as a whole sends none.
    let _ = tokio::time::timeout(LOOK_EVERY, async {
        if !watched || changed.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            () = &mut patience => return,
            () = tokio::time::sleep(QUIET) => return,
            Some(()) = changed.recv(), if watched => {}
        }
    }
}

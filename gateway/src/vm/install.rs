//! `eastgate vm install` and `uninstall`: a VM's directory laid out as the document has it, and taken away again.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use eastgate_config::bootstrap::Vm;
use serde::Serialize;

use super::{layout, notes, read, source, sums, unit};

/// `eastgate vm install`
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The directory that eastgate vm bundle or istioctl x workload entry configure has made
    pub directory: PathBuf,
    /// Lay it out below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Who owns the files and runs the process
    #[arg(long, value_name = "NAME", default_value = layout::USER)]
    pub user: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Overwrite files that somebody else has put there
    #[arg(long)]
    pub force: bool,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// `eastgate vm uninstall`
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Where it was laid out
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// What was laid out, or would be.
#[derive(Debug, Serialize)]
pub struct Installed {
    dry_run: bool,
    files: Vec<File>,
    /// For `/etc/hosts`.
    hosts: Hosts,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    /// In octal digits.
    mode: String,
    user: String,
}

#[derive(Debug, Serialize)]
struct Hosts {
    path: PathBuf,
    lines: String,
}

impl Display for Installed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if self.dry_run {
            for File { path, mode, user } in &self.files {
                writeln!(f, "would write {} {mode} {user}", path.display())?;
            }
            return write!(f, "would write lines to {}:\n{}", self.hosts.path.display(), self.hosts.lines);
        }
        write!(
            f,
            "{} files are in place; start it: systemctl daemon-reload && systemctl enable --now {}",
            self.files.len(),
            unit::FILE
        )
    }
}

/// What was taken away, or would be.
#[derive(Debug, Serialize)]
pub struct Uninstalled {
    root: PathBuf,
    dry_run: bool,
    removed: Vec<PathBuf>,
    /// Directories that hold what is not ours.
    kept: Vec<PathBuf>,
}

impl Display for Uninstalled {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.removed.is_empty() {
            return write!(f, "nothing is installed below {}", self.root.display());
        }
        if self.dry_run {
            let lines = self.removed.iter().map(|path| format!("would remove {}", path.display()));
            return f.write_str(&lines.collect::<Vec<_>>().join("\n"));
        }
        for path in &self.kept {
            writeln!(f, "{} stays: it holds files that are not ours", path.display())?;
        }
        write!(f, "uninstalled; if the unit runs, stop it: systemctl disable --now {}", unit::FILE)
    }
}

/// A file to lay out.
struct Item {
    /// Below the root.
    place: String,
    mode: u32,
    bytes: Vec<u8>,
}

/// Lays the directory out. Doing it again changes only what has changed.
///
/// # Errors
/// The directory cannot be used, or the system does not allow it; says what to do.
pub fn install(args: &InstallArgs) -> anyhow::Result<Installed> {
    let InstallArgs { directory, root, user, dry_run, force, .. } = args;
    sums::check(directory)?;
    source::check_certificate(&source::Paths::new(directory), directory.join("istio-token").exists())?;
    let (machine, snapshot) = read(&source::Contents::read(directory)?, Vm::default())?;
    let items = items(directory, user)?;
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let owner = layout::owner(&passwd, user).with_context(|| {
        format!("there is no user {user}; create it (useradd --system --no-create-home {user}), or give --user NAME")
    })?;
    let mut ours = record(root)?;
    for item in &items {
        let path = root.join(&item.place);
        let foreign = path.exists()
            && !ours.contains(&item.place)
            && std::fs::read(&path).ok().as_ref() != Some(&item.bytes);
        ensure!(
            *force || !foreign,
            "{} is there and not ours; move it away, or give --force",
            path.display()
        );
    }
    let file = |Item { place, mode, .. }: &Item| File {
        path: root.join(place),
        mode: format!("{mode:o}"),
        user: user.clone(),
    };
    let installed = Installed {
        dry_run: *dry_run,
        files: items.iter().map(file).collect(),
        hosts: Hosts { path: root.join("etc/hosts"), lines: machine.hosts.to_string() },
        notes: notes(&snapshot),
    };
    if !dry_run {
        lay_out(root, &items, owner, &mut ours)?;
        edit_hosts(root, &installed.hosts.lines)?;
    }
    Ok(installed)
}

/// Puts the files in their places, for this user and group.
fn lay_out(
    root: &Path,
    items: &[Item],
    owner: (u32, u32),
    ours: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    for directory in [layout::CERTS, layout::STATE, layout::UNITS] {
        make(root, Path::new(directory), ours)?;
    }
    // The record is first, so that an installation that breaks off can be taken away, too.
    ours.extend(items.iter().map(|item| item.place.clone()));
    ours.insert(layout::RECORD.into());
    let lines: String = ours.iter().map(|place| format!("{place}\n")).collect();
    put(root, layout::RECORD, lines.as_bytes(), 0o644, None)?;
    for Item { place, mode, bytes } in items {
        // The unit belongs to the system, the rest to the process.
        let owner = (!place.starts_with(layout::UNITS)).then_some(owner);
        put(root, place, bytes, *mode, owner)?;
    }
    for directory in
        [layout::CERTS, layout::STATE].into_iter().filter(|place| ours.contains(&format!("{place}/")))
    {
        own(&root.join(directory), owner)?;
    }
    Ok(())
}

fn items(directory: &Path, user: &str) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    let unreadable = || format!("cannot read {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((place, mode)) = layout::place(&name).filter(|_| path.is_file() && !name.starts_with('.'))
        else {
            continue;
        };
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        items.push(Item { place, mode, bytes });
    }
    let place = format!("{}/{}", layout::UNITS, unit::FILE);
    if !items.iter().any(|item| item.place == place) {
        items.push(Item { place, mode: 0o644, bytes: unit::unit(user, false).into_bytes() });
    }
    items.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(items)
}

/// What is ours below the root: files, and with a slash at the end directories.
fn record(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let path = root.join(layout::RECORD);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Makes a directory with those above it, and notes those that were not there.
fn make(root: &Path, place: &Path, ours: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let above: Vec<_> = place.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    for part in above.into_iter().rev() {
        let path = root.join(part);
        if !path.exists() {
            std::fs::create_dir(&path)
                .map_err(hint)
                .with_context(|| format!("cannot make {}", path.display()))?;
            ours.insert(format!("{}/", part.display()));
        }
    }
    Ok(())
}

fn put(root: &Path, place: &str, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> anyhow::Result<()> {
    let path = root.join(place);
    layout::write(&path, bytes, mode)
        .map_err(hint)
        .with_context(|| format!("cannot write {}", path.display()))?;
    owner.map_or(Ok(()), |owner| own(&path, owner))
}

fn own(path: &Path, (uid, gid): (u32, u32)) -> anyhow::Result<()> {
    let given = chown(path, Some(uid), Some(gid)).map_err(hint);
    given.with_context(|| format!("cannot give {} to its owner", path.display()))
}

/// Adds what to do about a permission that is missing.
fn hint(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!("{error}; run it as root, or give --root DIR and --user NAME of your own"),
        ),
        _ => error,
    }
}

fn edit_hosts(root: &Path, lines: &str) -> anyhow::Result<()> {
    let path = root.join("etc/hosts");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let after = layout::hosts(&before, lines);
    if after == before {
        return Ok(());
    }
    // Containers mount this file, so it is written in place and not replaced.
    std::fs::write(&path, after).map_err(hint).with_context(|| format!("cannot write {}", path.display()))
}

/// Takes away what install has laid out, and nothing else.
///
/// # Errors
/// Something cannot be taken away.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<Uninstalled> {
    let root = &args.root;
    let ours = record(root)?;
    let removing = ours.iter().map(|place| root.join(place)).collect();
    let mut done = Uninstalled { root: root.clone(), dry_run: args.dry_run, removed: removing, kept: vec![] };
    if ours.is_empty() || args.dry_run {
        return Ok(done);
    }
    edit_hosts(root, "")?;
    let hosts = root.join("etc/hosts");
    let removed = |path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(hint(error)).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    };
    let (directories, files): (Vec<_>, Vec<_>) = ours.iter().partition(|place| place.ends_with('/'));
    // The record is last, so that what breaks off can be done again.
    for place in files.into_iter().filter(|place| *place != layout::RECORD) {
        let path = root.join(place);
        removed(&path, std::fs::remove_file(&path))?;
    }
    let path = root.join(layout::RECORD);
    removed(&path, std::fs::remove_file(&path))?;
    if hosts.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        removed(&hosts, std::fs::remove_file(&hosts))?;
    }
    // Deepest first; one that somebody else has put something into stays.
    for place in directories.into_iter().rev() {
        let path = root.join(place);
        if let Err(error) = std::fs::remove_dir(&path)
            && error.kind() == io::ErrorKind::DirectoryNotEmpty
        {
            done.removed.retain(|removed| *removed != path);
            done.kept.push(path);
        }
    }
    Ok(done)
}

//! Which files are left, and Landlock's rules of them (<https://docs.kernel.org/userspace-api/landlock.html>).
//!
//! Rules are of inodes, and what is renewed by a rename is another inode: so it is the directory of a file that stays
//! readable, unless the directory is one that everybody uses.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use eastgate_config::bootstrap::{AdminAddress, Settings};
use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, make_bitflags,
    path_beneath_rules,
};

use super::Error;

/// The newest rights that were tried: those of Linux 6.10. Whatever an older kernel does not know is left out.
const TRIED: ABI = ABI::V5;

/// Read whatever the settings: look-ups, what libraries load, trusted roots, the process's own limits and identity.
const SYSTEM: [&str; 32] = [
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/istio/pod",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/lib",
    "/lib64",
    // Not its own directory alone: that inode may be forgotten and made anew. Landlock keeps what is secret there of
    // another process from this one.
    "/proc",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
];

/// Where a service account's token is (`kube` looks there).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Directories of which a single file may be read, and not the rest.
const SHARED: [&str; 9] = ["/", "/dev", "/etc", "/home", "/root", "/run", "/tmp", "/var", "/var/run"];

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// It is read, with all that is in it.
    Read,
    /// A log is written there.
    Log,
    /// State is kept there, and read again.
    State,
    /// A socket is put there, in the place of another process's.
    Meet,
}

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
            Self::Log => make_bitflags!(AccessFs::{WriteFile | MakeReg}),
            Self::State => make_bitflags!(AccessFs::{
                ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile
            }),
            Self::Meet => make_bitflags!(AccessFs::{ReadDir | MakeSock | RemoveFile}),
        }
    }
}

/// Fences the calling thread in, and every one that it starts.
pub(super) fn enter(settings: &Settings) -> Result<(), Error> {
    if let Some(directory) = &settings.xds.state_dir {
        std::fs::create_dir_all(directory).map_err(Error::State)?;
    }
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(TRIED))?.create()?;
    for (way, path) in left(settings, |name| std::env::var_os(name)) {
        // What is not there, or is a pipe, needs no rule.
        for rule in path_beneath_rules([&path], way.rights()) {
            if let Err(error) = (&mut ruleset).add_rule(rule?) {
                tracing::debug!(%error, path = %path.display(), "no rule of Landlock");
            }
        }
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => tracing::info!("files are fenced in (Landlock)"),
        RulesetStatus::PartiallyEnforced => {
            tracing::info!("files are fenced in, as far as this kernel's Landlock goes");
        }
        RulesetStatus::NotEnforced => tracing::warn!(
            "security.landlock: this kernel has no Landlock (Linux 5.13 or later, with lsm=landlock); files are not fenced in"
        ),
    }
    Ok(())
}

/// What is left, by the settings and the environment.
fn left(settings: &Settings, variable: impl Fn(&str) -> Option<OsString>) -> BTreeSet<(Use, PathBuf)> {
    let read = |path: &Path| (Use::Read, path.to_owned());
    let mut left: BTreeSet<_> = SYSTEM.iter().map(|path| read(path.as_ref())).collect();
    left.extend(settings.security.readable.iter().map(|path| read(path)));

    let directories = [
        &settings.source.mesh_dir,
        &settings.source.kubernetes.remote_dir,
        &settings.tls.certs_dir,
        &settings.vm.config_dir,
        &settings.vm.certs_dir,
    ];
    left.extend(directories.into_iter().flatten().map(|path| read(path)));

    let xds = &settings.xds;
    let mut files: Vec<PathBuf> = xds.root_paths.clone();
    files.extend([&xds.token_path, &xds.certificate_path, &xds.key_path].into_iter().flatten().cloned());
    files.extend(settings.source.xds_file.clone());
    files.extend(settings.otlp.ca_path.clone());
    let admin = &settings.admin;
    files.extend(
        [&admin.tls_cert_path, &admin.tls_key_path, &admin.token_path].into_iter().flatten().cloned(),
    );
    files.extend(variable("SSL_CERT_FILE").map(PathBuf::from));
    left.extend(variable("SSL_CERT_DIR").iter().flat_map(std::env::split_paths).map(|path| read(&path)));
    match settings.source.kubernetes.config.as_deref() {
        None => {}
        Some("in-cluster") => left.extend([read(SERVICE_ACCOUNT.as_ref())]),
        Some("auto") => {
            left.extend([read(SERVICE_ACCOUNT.as_ref())]);
            files.extend(variable("KUBECONFIG").iter().flat_map(std::env::split_paths));
            left.extend(variable("HOME").map(|home| read(&Path::new(&home).join(".kube"))));
        }
        Some(path) => files.push(path.into()),
    }
    if settings.vm.config_dir.is_some() {
        left.extend([read("/etc/certs".as_ref()), read("/var/run/secrets/tokens".as_ref())]);
    }
    left.extend(files.iter().map(|file| (Use::Read, around(file))));

    let log = Some(&settings.access_log.path).filter(|path| !matches!(path.as_str(), "" | "-"));
    left.extend(log.map(|path| (Use::Log, around(path.as_ref()))));
    left.extend(xds.state_dir.iter().map(|path| (Use::State, path.clone())));
    let admin = match &admin.address {
        AdminAddress::Unix(path) => Some(path),
        AdminAddress::Tcp(_) => None,
    };
    let sockets = settings.restart.socket.iter().chain(admin);
    left.extend(sockets.map(|path| (Use::Meet, directory(path))));
    left
}

/// The directory of a file, or the file alone where others have theirs beside it.
fn around(file: &Path) -> PathBuf {
    let directory = directory(file);
    if SHARED.iter().any(|shared| directory == Path::new(shared)) { file.to_owned() } else { directory }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => ".".into(),
        Some(parent) => parent.to_owned(),
        None => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use eastgate_config::bootstrap::Restart;

    use super::*;

    fn paths(settings: &Settings) -> Vec<(Use, String)> {
        let bare: BTreeSet<_> = left(&Settings::default(), |_| None);
        let left = left(settings, |_| None);
        left.difference(&bare).map(|(way, path)| (*way, path.display().to_string())).collect()
    }

    #[test]
    fn each_path_of_the_settings_is_left_for_what_is_done_with_it_and_no_other() {
        let mut settings = Settings::default();
        settings.source.mesh_dir = Some("/srv/mesh".into());
        settings.access_log.path = "/var/log/eastgate/access".into();
        settings.xds.state_dir = Some("/var/lib/eastgate".into());
        settings.restart = Restart { socket: Some("/run/eastgate/restart".into()) };
        settings.admin.address = AdminAddress::Unix("/run/admin/socket".into());
        settings.admin.token_path = Some("/etc/eastgate/token".into());
        settings.security.readable = vec!["/etc/mesh-certificates".into()];
        let expected = [
            (Use::Read, "/etc/eastgate"),
            (Use::Read, "/etc/mesh-certificates"),
            (Use::Read, "/srv/mesh"),
            (Use::Log, "/var/log/eastgate"),
            (Use::State, "/var/lib/eastgate"),
            (Use::Meet, "/run/admin"),
            (Use::Meet, "/run/eastgate"),
        ];
        assert_eq!(paths(&settings), expected.map(|(way, path)| (way, path.to_owned())));
    }

    #[test]
    fn a_file_beside_everybodys_leaves_the_others_alone() {
        let mut settings = Settings::default();
        settings.xds.token_path = Some("/etc/token".into());
        settings.source.xds_file = Some("resources.json".into());
        assert_eq!(paths(&settings), [(Use::Read, "/etc/token".to_owned()), (Use::Read, ".".to_owned())]);
        for secret in ["/", "/etc", "/etc/shadow", "/root", "/home"] {
            assert!(!left(&settings, |_| None).contains(&(Use::Read, secret.into())), "{secret}");
        }
    }
}

//! Where the document puts a VM's files, and who owns them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Who runs the process and owns its files, as in Istio's package.
pub(super) const USER: &str = "istio-proxy";
/// Certificates.
pub(super) const CERTS: &str = "etc/certs";
/// Everything else that the process reads.
pub(super) const STATE: &str = "var/lib/istio/envoy";
/// Units.
pub(super) const UNITS: &str = "etc/systemd/system";
/// What was installed.
pub(super) const RECORD: &str = "var/lib/istio/envoy/.eastgate-installed";

const BEGIN: &str = "# eastgate vm: begin";
const END: &str = "# eastgate vm: end";

/// Where a file of the directory goes, and its mode; nothing for what stays behind.
pub(super) fn place(name: &str) -> Option<(String, u32)> {
    let mode = if matches!(name, "key.pem" | "istio-token") { 0o600 } else { 0o644 };
    match name {
        super::sums::FILE => None,
        "root-cert.pem" | "cert-chain.pem" | "key.pem" => Some((format!("{CERTS}/{name}"), mode)),
        super::unit::FILE => Some((format!("{UNITS}/{name}"), mode)),
        _ => Some((format!("{STATE}/{name}"), mode)),
    }
}

/// Writes a file in one step: whoever reads it sees the old one or the new.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let other = path.with_extension("eastgate-new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&other)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    std::fs::rename(other, path)
}

/// `/etc/hosts` with these lines between our markers, instead of what was there; without lines, without markers.
pub(super) fn hosts(text: &str, lines: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            _ => kept.push_str(line),
        }
    }
    if lines.is_empty() {
        return kept;
    }
    if !kept.is_empty() && !kept.ends_with('\n') {
        kept.push('\n');
    }
    format!("{kept}{BEGIN}\n{lines}{END}\n")
}

/// The user's and group's numbers, by a text as in `/etc/passwd`.
pub(super) fn owner(passwd: &str, user: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_user = fields.next() == Some(user);
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        is_user.then_some((uid.parse().ok()?, gid.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_hosts_come_and_go_between_markers() {
        let before = "127.0.0.1 localhost\n# eastgate";
        let with = hosts(before, "1.2.3.4 a\n");
        assert_eq!(with, format!("{before}\n{BEGIN}\n1.2.3.4 a\n{END}\n"));
        assert_eq!(hosts(&with, "1.2.3.4 a\n"), with);
        assert_eq!(hosts(&hosts(&with, "5.6.7.8 b\n"), ""), format!("{before}\n"));
        assert_eq!(hosts("a\n", ""), "a\n");
    }

    #[test]
    fn an_owner_is_found_by_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1337:1338::/:/x\n";
        assert_eq!(owner(passwd, USER), Some((1337, 1338)));
        assert_eq!(owner(passwd, "istio"), None);
    }
}

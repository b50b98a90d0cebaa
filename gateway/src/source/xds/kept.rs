//! Files in the state directory: replaced as a whole or not at all, for the gateway's own eyes, and read back only if
//! they are what was written, by this gateway, for this purpose.
//!
//! ```text
//! eastgate-<name>\n
//! {"format":1,"node":"<owner>","saved_at":<s>,"length":<bytes>,"sha256":"<hex>"}\n
//! body
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FORMAT: u32 = 1;
/// A larger file was not written by us.
const MAX_FILE: u64 = 4 << 30;

/// A kind of file, and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// Where it is.
    pub(super) directory: PathBuf,
    /// What it is called, and what it says that it is.
    pub(super) name: &'static str,
    /// A node's id or a SPIFFE identity.
    pub(super) owner: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    #[serde(rename = "node")]
    owner: String,
    saved_at: u64,
    length: u64,
    sha256: String,
}

/// The format alone: what a newer header has otherwise is not for us to know.
#[derive(Debug, Deserialize)]
struct HeaderFormat {
    format: u32,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A later version of the gateway wrote it.
    #[error("its format is {0}, and this version reads up to {FORMAT}")]
    TooNew(u32),
    /// Another gateway wrote it.
    #[error("it is of another node, {0}")]
    Foreign(String),
    /// What it holds was good for a time only.
    #[error("what it holds has expired")]
    Expired,
    /// The system does not let us.
    #[error("the system refuses")]
    Io(#[from] io::Error),
}

impl Error {
    /// A word for metrics and for the name of a file that is set aside.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::TooNew(_) => "too_new",
            Self::Foreign(_) => "foreign",
            Self::Expired => "expired",
            Self::Io(_) => "io",
        }
    }
}

/// The parts of a node's id that say whose it is: a pod or machine may come back with another address.
fn owner(node: &str) -> impl Iterator<Item = &str> {
    node.split('~').enumerate().filter(|(index, _)| *index != 1).map(|(_, part)| part)
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Kept {
    fn magic(&self) -> String {
        format!("eastgate-{}\n", self.name)
    }

    fn temporary(&self) -> String {
        format!(".{}-", self.name)
    }

    fn encode(&self, body: &[u8], now: SystemTime) -> io::Result<Vec<u8>> {
        let header = Header {
            format: FORMAT,
            owner: self.owner.clone(),
            saved_at: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            length: body.len() as u64,
            sha256: digest(body),
        };
        let mut file = self.magic().into_bytes();
        file.extend(serde_json::to_vec(&header)?);
        file.push(b'\n');
        file.extend(body);
        Ok(file)
    }

    fn decode<'a>(&self, file: &'a [u8]) -> Result<(SystemTime, &'a [u8]), Error> {
        let rest =
            file.strip_prefix(self.magic().as_bytes()).ok_or(Error::Damaged("it does not begin as one"))?;
        let end =
            rest.iter().position(|byte| *byte == b'\n').ok_or(Error::Damaged("its header has no end"))?;
        let (header, body) = (&rest[..end], &rest[end + 1..]);
        let unreadable = |_| Error::Damaged("its header cannot be read");
        let HeaderFormat { format } = serde_json::from_slice(header).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::TooNew(format));
        }
        let header: Header = serde_json::from_slice(header).map_err(unreadable)?;
        if header.length != body.len() as u64 {
            return Err(Error::Damaged("a part of it is missing"));
        }
        if header.sha256 != digest(body) {
            return Err(Error::Damaged("its checksum is wrong"));
        }
        if !owner(&header.owner).eq(owner(&self.owner)) {
            return Err(Error::Foreign(header.owner));
        }
        Ok((UNIX_EPOCH + Duration::from_secs(header.saved_at), body))
    }

    /// Replaces the file: whoever reads it finds the old or the new one, whole. Nobody but the gateway's user may read it.
    pub(super) fn write(&self, body: &[u8], now: SystemTime) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let bytes = self.encode(body, now)?;
        // A temporary file is made with mode 0600, and keeps it.
        let mut file = tempfile::Builder::new().prefix(&self.temporary()).tempfile_in(&self.directory)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.directory.join(self.name)).map_err(|error| error.error)?;
        // The rename itself is on disk only when the directory is.
        std::fs::File::open(&self.directory)?.sync_all()
    }

    /// Reads the file, if there is one, and gives what `parse` makes of when it was written and its body. One that cannot
    /// be used is renamed, so that it can be looked at and is not tried again; the path that it has now comes with the error.
    ///
    /// # Errors
    /// Why it cannot be used, and where it is.
    pub(super) fn read<T>(
        &self,
        parse: impl FnOnce(SystemTime, &[u8]) -> Result<T, Error>,
    ) -> Result<Option<T>, (Error, PathBuf)> {
        self.sweep();
        let path = self.directory.join(self.name);
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_FILE => Err(Error::Damaged("it is too large")),
            Ok(_) => std::fs::read(&path).map_err(Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error.into()),
        };
        let parsed = bytes.and_then(|bytes| self.decode(&bytes).and_then(|(at, body)| parse(at, body)));
        match parsed {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error @ Error::Io(_)) => Err((error, path)),
            Err(error) => {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let aside = self.directory.join(format!("{}.{}-{at}", self.name, error.reason()));
                let now = if std::fs::rename(&path, &aside).is_ok() { aside } else { path };
                Err((error, now))
            }
        }
    }

    /// Removes what a write left that was cut short.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.temporary()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const NODE: &str = "router~10.0.0.1~a.b~b.svc.cluster.local";
    const BODY: &[u8] = b"what there is to keep, and more";

    fn of(directory: &Path, owner: &str) -> Kept {
        Kept { directory: directory.into(), name: "xds-test", owner: owner.into() }
    }

    fn written() -> Vec<u8> {
        of(Path::new(""), NODE).encode(BODY, at()).unwrap()
    }

    fn at() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(77)
    }

    fn whole(at: SystemTime, body: &[u8]) -> Result<(SystemTime, Vec<u8>), Error> {
        Ok((at, body.to_vec()))
    }

    #[test]
    fn what_is_written_is_read_back_and_nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("not/there/yet");
        let kept = of(&inner, NODE);
        kept.write(b"something before", at()).unwrap();
        kept.write(BODY, at()).unwrap();
        assert_eq!(kept.read(whole).unwrap(), Some((at(), BODY.to_vec())));
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
        let mode = std::fs::metadata(inner.join("xds-test")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_same_pod_with_another_address_is_the_same_node() {
        let of = |owner| of(Path::new(""), owner);
        assert!(of("router~10.9.9.9~a.b~b.svc.cluster.local").decode(&written()).is_ok());
        for other in
            ["router~10.0.0.1~c.b~b.svc.cluster.local", "sidecar~10.0.0.1~a.b~b.svc.cluster.local", ""]
        {
            assert!(matches!(of(other).decode(&written()), Err(Error::Foreign(_))), "{other}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let (whole, kept) = (written(), of(Path::new(""), NODE));
        for cut in 0..whole.len() {
            assert!(kept.decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let body = whole.len() - BODY.len();
        for at in (0..kept.magic().len()).chain(body..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            assert!(matches!(kept.decode(&bytes), Err(Error::Damaged(_))), "byte {at}");
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let kept = of(Path::new(""), NODE);
        let text = kept.magic() + "{\"format\":2,\"else\":{}}\nwhatever";
        let error = kept.decode(text.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::TooNew(2)), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_set_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let kept = of(directory.path(), NODE);
        std::fs::write(directory.path().join("xds-test"), "rubbish").unwrap();
        std::fs::write(directory.path().join(".xds-test-x"), "cut short").unwrap();
        let (error, aside) = kept.read(whole).unwrap_err();
        assert_eq!(error.reason(), "damaged");
        assert!(aside.to_string_lossy().contains("xds-test.damaged-") && aside.exists());
        assert_eq!(kept.read(whole).unwrap(), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        kept.write(BODY, at()).unwrap();
        let (_, aside) = kept.read(|_, _| Err::<(), _>(Error::Expired)).unwrap_err();
        assert!(aside.to_string_lossy().contains("xds-test.expired-"));
        assert_eq!(kept.read(whole).unwrap(), None);
    }
}

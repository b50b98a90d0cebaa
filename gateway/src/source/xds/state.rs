//! The last accepted resources on disk, so that a gateway that starts without its control plane serves what it knew.
//!
//! ```text
//! eastgate-xds-state\n
//! {"format":1,"node":"router~...","saved_at":<s>,"length":<bytes>,"sha256":"<hex>"}\n
//! DeltaDiscoveryResponse, one for each type, each with its length before it (protobuf's delimited form)
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_config::xds::{Saved, SavedResource};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FILE: &str = "xds-state";
const TEMPORARY: &str = ".xds-state-";
const MAGIC: &[u8] = b"eastgate-xds-state\n";
const FORMAT: u32 = 1;
/// A larger file was not written by us.
const MAX_FILE: u64 = 4 << 30;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    node: String,
    saved_at: u64,
    length: u64,
    sha256: String,
}

/// The format alone: what a newer header has otherwise is not for us to know.
#[derive(Debug, Deserialize)]
struct HeaderFormat {
    format: u32,
}

/// What was saved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// When.
    pub(super) at: SystemTime,
    /// What.
    pub(super) saved: Vec<Saved>,
}

/// Why a file of state is not used.
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
    /// The system does not let us.
    #[error("the system refuses")]
    Io(#[from] io::Error),
}

impl Error {
    /// A word for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::TooNew(_) => "too_new",
            Self::Foreign(_) => "foreign",
            Self::Io(_) => "io",
        }
    }
}

/// The parts of a node's id that say whose configuration it is: a pod or machine may come back with another address.
fn owner(node: &str) -> impl Iterator<Item = &str> {
    node.split('~').enumerate().filter(|(index, _)| *index != 1).map(|(_, part)| part)
}

fn encode(saved: &[Saved], node: &str, now: SystemTime) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    for saved in saved {
        to_wire(saved).encode_length_delimited(&mut body).map_err(io::Error::other)?;
    }
    let header = Header {
        format: FORMAT,
        node: node.into(),
        saved_at: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        length: body.len() as u64,
        sha256: digest(&body),
    };
    let mut file = MAGIC.to_vec();
    file.extend(serde_json::to_vec(&header)?);
    file.push(b'\n');
    file.extend(body);
    Ok(file)
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_wire(saved: &Saved) -> discovery::DeltaDiscoveryResponse {
    let resource = |resource: &SavedResource| discovery::Resource {
        name: resource.name.clone(),
        version: resource.version.clone(),
        resource: Some(pb::Any { type_url: saved.type_url.clone(), value: resource.body.clone() }),
        ..Default::default()
    };
    discovery::DeltaDiscoveryResponse {
        type_url: saved.type_url.clone(),
        system_version_info: saved.version.clone(),
        resources: saved.resources.iter().map(resource).collect(),
        ..Default::default()
    }
}

fn decode(file: &[u8], node: &str) -> Result<State, Error> {
    let rest = file.strip_prefix(MAGIC).ok_or(Error::Damaged("it does not begin as one"))?;
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or(Error::Damaged("its header has no end"))?;
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
    if !owner(&header.node).eq(owner(node)) {
        return Err(Error::Foreign(header.node));
    }
    let mut rest = body;
    let mut saved = Vec::new();
    while !rest.is_empty() {
        let response = discovery::DeltaDiscoveryResponse::decode_length_delimited(&mut rest)
            .map_err(|_| Error::Damaged("its resources cannot be read"))?;
        saved.push(from_wire(response));
    }
    Ok(State { at: UNIX_EPOCH + Duration::from_secs(header.saved_at), saved })
}

fn from_wire(response: discovery::DeltaDiscoveryResponse) -> Saved {
    let resource = |resource: discovery::Resource| SavedResource {
        name: resource.name,
        version: resource.version,
        body: resource.resource.map(|any| any.value).unwrap_or_default(),
    };
    Saved {
        type_url: response.type_url,
        version: response.system_version_info,
        resources: response.resources.into_iter().map(resource).collect(),
    }
}

/// Replaces the state in the directory: whoever reads it finds the old or the new one, whole.
pub(super) fn write(directory: &Path, saved: &[Saved], node: &str, now: SystemTime) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let bytes = encode(saved, node, now)?;
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist(directory.join(FILE)).map_err(|error| error.error)?;
    // The rename itself is on disk only when the directory is.
    std::fs::File::open(directory)?.sync_all()
}

/// Reads the state in the directory, if there is any. One that cannot be used is renamed, so that it can be looked at
/// and is not tried again; the path that it has now comes with the error.
///
/// # Errors
/// Why it cannot be used, and where it is.
pub(super) fn read(directory: &Path, node: &str) -> Result<Option<State>, (Error, PathBuf)> {
    sweep(directory);
    let path = directory.join(FILE);
    let bytes = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(Error::Damaged("it is too large")),
        Ok(_) => std::fs::read(&path).map_err(Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error.into()),
    };
    match bytes.and_then(|bytes| decode(&bytes, node)) {
        Ok(state) => Ok(Some(state)),
        Err(error @ Error::Io(_)) => Err((error, path)),
        Err(error) => {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let aside = directory.join(format!("{FILE}.damaged-{at}"));
            let now = if std::fs::rename(&path, &aside).is_ok() { aside } else { path };
            Err((error, now))
        }
    }
}

/// Removes what a write left that was cut short.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "router~10.0.0.1~a.b~b.svc.cluster.local";

    fn saved() -> Vec<Saved> {
        let resource =
            |name: &str| SavedResource { name: name.into(), version: "1".into(), body: vec![1, 2, 3] };
        vec![
            Saved {
                type_url: "t/A".into(),
                version: "v1".into(),
                resources: vec![resource("x"), resource("y")],
            },
            Saved { type_url: "t/B".into(), ..Saved::default() },
        ]
    }

    fn written() -> Vec<u8> {
        encode(&saved(), NODE, UNIX_EPOCH + Duration::from_secs(77)).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("not/there/yet");
        let at = UNIX_EPOCH + Duration::from_secs(77);
        write(&inner, &saved(), NODE, at).unwrap();
        write(&inner, &saved(), NODE, at).unwrap();
        assert_eq!(read(&inner, NODE).unwrap(), Some(State { at, saved: saved() }));
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn the_same_pod_with_another_address_is_the_same_node() {
        assert!(decode(&written(), "router~10.9.9.9~a.b~b.svc.cluster.local").is_ok());
        for other in
            ["router~10.0.0.1~c.b~b.svc.cluster.local", "sidecar~10.0.0.1~a.b~b.svc.cluster.local", ""]
        {
            assert!(matches!(decode(&written(), other), Err(Error::Foreign(_))), "{other}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let whole = written();
        for cut in 0..whole.len() {
            assert!(decode(&whole[..cut], NODE).is_err(), "cut at {cut}");
        }
        let body = whole.len() - 20;
        for at in (0..MAGIC.len()).chain(body..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            assert!(matches!(decode(&bytes, NODE), Err(Error::Damaged(_))), "byte {at}");
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let text = String::from_utf8_lossy(MAGIC) + "{\"format\":2,\"else\":{}}\nwhatever";
        let error = decode(text.as_bytes(), NODE).unwrap_err();
        assert!(matches!(error, Error::TooNew(2)), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_set_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "rubbish").unwrap();
        std::fs::write(directory.path().join(".xds-state-x"), "cut short").unwrap();
        let (error, aside) = read(directory.path(), NODE).unwrap_err();
        assert_eq!(error.reason(), "damaged");
        assert!(aside.to_string_lossy().contains(".damaged-") && aside.exists());
        assert_eq!(read(directory.path(), NODE).unwrap(), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

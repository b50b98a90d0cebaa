//! The last accepted resources on disk, so that a gateway that starts without its control plane serves what it knew:
//! a `DeltaDiscoveryResponse` for each type, each with its length before it (protobuf's delimited form).

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use eastgate_config::xds::{Saved, SavedResource};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

use super::kept::{Error, Kept};

/// What was saved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// When.
    pub(super) at: SystemTime,
    /// What.
    pub(super) saved: Vec<Saved>,
}

fn file(directory: &Path, node: &str) -> Kept {
    Kept { directory: directory.into(), name: "xds-state", owner: node.into() }
}

/// Replaces the state in the directory.
pub(super) fn write(directory: &Path, saved: &[Saved], node: &str, now: SystemTime) -> io::Result<()> {
    file(directory, node).write(&encode(saved)?, now)
}

/// Reads the state in the directory, if there is any.
///
/// # Errors
/// Why it cannot be used, and where it is.
pub(super) fn read(directory: &Path, node: &str) -> Result<Option<State>, (Error, PathBuf)> {
    file(directory, node).read(|at, body| Ok(State { at, saved: decode(body)? }))
}

fn encode(saved: &[Saved]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    for saved in saved {
        to_wire(saved).encode_length_delimited(&mut body).map_err(io::Error::other)?;
    }
    Ok(body)
}

fn decode(mut body: &[u8]) -> Result<Vec<Saved>, Error> {
    let mut saved = Vec::new();
    while !body.is_empty() {
        let response = discovery::DeltaDiscoveryResponse::decode_length_delimited(&mut body)
            .map_err(|_| Error::Damaged("its resources cannot be read"))?;
        saved.push(from_wire(response));
    }
    Ok(saved)
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_rubbish_is_not() {
        let resource =
            |name: &str| SavedResource { name: name.into(), version: "1".into(), body: vec![1, 2, 3] };
        let saved = vec![
            Saved {
                type_url: "t/A".into(),
                version: "v1".into(),
                resources: vec![resource("x"), resource("y")],
            },
            Saved { type_url: "t/B".into(), ..Saved::default() },
        ];
        let directory = tempfile::tempdir().unwrap();
        let at = UNIX_EPOCH + Duration::from_secs(77);
        write(directory.path(), &saved, "node", at).unwrap();
        assert_eq!(read(directory.path(), "node").unwrap(), Some(State { at, saved }));
        file(directory.path(), "node").write(b"\x05rubbish", at).unwrap();
        assert_eq!(read(directory.path(), "node").unwrap_err().0.reason(), "damaged");
    }
}

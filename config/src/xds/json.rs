//! Accepted resources as protobuf's JSON, for people.

use serde::{Serialize, Serializer};

/// A resource; serializes as an `Any` that holds it. Its type is looked up and its bytes are read only then.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(eastgate_proto::json::Json<'a>);

impl<'a> Json<'a> {
    /// The resource of this type with these bytes.
    pub fn new(type_url: &'a str, body: &'a [u8]) -> Self {
        Self(eastgate_proto::json::Json::new(type_url, body))
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

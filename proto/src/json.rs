//! Messages as JSON, by [protobuf's mapping](https://protobuf.dev/programming-guides/json/) and with the fields' names
//! as they stand in the .proto files, which is how Envoy's admin interface prints them.
//!
//! A message whose type is not known here, or whose bytes are no such message, is printed as
//! `{"@type": ..., "value": BASE64}`: what somebody wants to look at is most of all what nobody expected.

use std::fmt;
use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use prost_reflect::{EnumDescriptor, SerializeOptions};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// Compiled by `build.rs`. Reading it takes some ten milliseconds, which only those pay who print something.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
        .unwrap_or_default()
});

/// How deep `Any`s within `Any`s are printed. Whoever sends them decides how deep they are; our stack does not grow.
const DEEPEST: usize = 32;

/// A text is no such message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// The bytes of a message of this type (such as `envoy.service.discovery.v3.DiscoveryResponse`) that is given as JSON.
///
/// # Errors
/// The type is not known here, a type inside an `Any` is not, or the text is no such message; says where in it.
pub fn read(name: &str, text: &str) -> Result<Vec<u8>, Unreadable> {
    let unreadable = |error: &dyn fmt::Display| Unreadable(error.to_string());
    let descriptor = POOL.get_message_by_name(name);
    let descriptor = descriptor.ok_or_else(|| unreadable(&format_args!("the type {name} is not known")))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message =
        DynamicMessage::deserialize(descriptor, &mut deserializer).map_err(|error| unreadable(&error))?;
    deserializer.end().map_err(|error| unreadable(&error))?;
    Ok(message.encode_to_vec())
}

/// A message together with its type, as a `google.protobuf.Any` has them; serializes as one.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a> {
    type_url: &'a str,
    body: &'a [u8],
    depth: usize,
}

impl<'a> Json<'a> {
    /// A message of this type with these bytes.
    pub fn new(type_url: &'a str, body: &'a [u8]) -> Self {
        Self { type_url, body, depth: 0 }
    }

    fn message(&self) -> Option<DynamicMessage> {
        let name = self.type_url.rsplit('/').next()?;
        let descriptor = POOL.get_message_by_name(name).filter(|_| self.depth < DEEPEST)?;
        DynamicMessage::decode(descriptor, self.body).ok()
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@type", self.type_url)?;
        match self.message() {
            // https://protobuf.dev/programming-guides/json/#any: a type with a form of its own stands under "value".
            Some(message) if has_own_form(&message) => {
                map.serialize_entry("value", &Nested { message: &message, depth: self.depth + 1 })?;
            }
            Some(message) => fields(&mut map, &message, self.depth + 1)?,
            None => map.serialize_entry("value", &base64(self.body))?,
        }
        map.end()
    }
}

/// Is the message's JSON something else than its fields by name?
fn has_own_form(message: &DynamicMessage) -> bool {
    message.descriptor().parent_file().package_name() == "google.protobuf"
        && message.descriptor().name() != "Empty"
}

fn fields<M: SerializeMap>(map: &mut M, message: &DynamicMessage, depth: usize) -> Result<(), M::Error> {
    // Fields that have their default value are left out; a field with presence is there if it was set.
    for (field, value) in message.fields() {
        map.serialize_entry(field.name(), &Field { kind: field.kind(), value, depth, of: Some(&field) })?;
    }
    Ok(())
}

/// A value and what the .proto file says of it.
struct Field<'a> {
    kind: Kind,
    value: &'a Value,
    depth: usize,
    /// None inside a list or a map.
    of: Option<&'a FieldDescriptor>,
}

impl<'a> Field<'a> {
    fn inner(&self, kind: Kind, value: &'a Value) -> Self {
        Self { kind, value, depth: self.depth, of: None }
    }
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            // JavaScript's numbers are too short for these.
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::F32(value) => float(f64::from(*value), serializer),
            Value::F64(value) => float(*value, serializer),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&base64(value)),
            Value::EnumNumber(number) => enumerated(self.kind.as_enum(), *number, serializer),
            Value::Message(message) => Nested { message, depth: self.depth }.serialize(serializer),
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&self.inner(self.kind.clone(), value))?;
                }
                list.end()
            }
            Value::Map(values) => {
                let entry = self.of.and_then(|field| field.kind().as_message().cloned());
                let kind = entry.map_or(self.kind.clone(), |entry| entry.map_entry_value_field().kind());
                let mut sorted: Vec<_> = values.iter().map(|(key, value)| (key_text(key), value)).collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                let mut map = serializer.serialize_map(Some(sorted.len()))?;
                for (key, value) in sorted {
                    map.serialize_entry(&key, &self.inner(kind.clone(), value))?;
                }
                map.end()
            }
        }
    }
}

/// A message where its type is known from the field it stands in.
struct Nested<'a> {
    message: &'a DynamicMessage,
    depth: usize,
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = self.message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            let text = self.message.get_field_by_name("type_url");
            let body = self.message.get_field_by_name("value");
            let type_url = text.as_deref().and_then(Value::as_str).unwrap_or_default();
            let body = body.as_deref().and_then(Value::as_bytes).map_or(&[][..], |bytes| bytes);
            return Json { type_url, body, depth: self.depth }.serialize(serializer);
        }
        if has_own_form(self.message) {
            return well_known(self.message, serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        fields(&mut map, self.message, self.depth)?;
        map.end()
    }
}

/// Timestamps, durations, wrappers, structs: their forms are prost-reflect's business. A value that has none, such as
/// a time after the year 9999, must not end the whole dump.
fn well_known<S: Serializer>(message: &DynamicMessage, serializer: S) -> Result<S::Ok, S::Error> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    match message.serialize_with_options(serde_json::value::Serializer, &options) {
        Ok(value) => value.serialize(serializer),
        Err(_) => serializer.serialize_none(),
    }
}

fn enumerated<S: Serializer>(
    descriptor: Option<&EnumDescriptor>,
    number: i32,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match descriptor.and_then(|descriptor| descriptor.get_value(number)) {
        Some(value) => serializer.serialize_str(value.name()),
        None => serializer.serialize_i32(number),
    }
}

fn float<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        value if value.is_nan() => serializer.serialize_str("NaN"),
        f64::INFINITY => serializer.serialize_str("Infinity"),
        f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
        value => serializer.serialize_f64(value),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;

//! Tests of the decoders. The messages are built here; what they become is compared as a whole where it is short.

mod arbitrary;
mod cluster;
mod endpoints;
mod listener;

use eastgate_proto::Message;
use eastgate_proto::google::protobuf as pb;

use super::*;

const PREFIX: &str = "type.googleapis.com/";

fn packed(kind: &str, message: &impl Message) -> pb::Any {
    pb::Any { type_url: format!("{PREFIX}{kind}"), value: message.encode_to_vec() }
}

fn seconds(seconds: i64) -> Option<pb::Duration> {
    Some(pb::Duration { seconds, nanos: 0 })
}

fn number(value: u32) -> Option<pb::UInt32Value> {
    Some(pb::UInt32Value { value })
}

fn fields(texts: &[(&str, &str)]) -> pb::Struct {
    let field = |(key, text): &(&str, &str)| {
        let kind = Some(pb::value::Kind::StringValue((*text).into()));
        ((*key).into(), pb::Value { kind })
    };
    pb::Struct { fields: texts.iter().map(field).collect() }
}

/// `field: reason` of each problem.
fn told(problems: &[Problem]) -> String {
    let each = problems.iter().map(|problem| format!("{}: {}", problem.field, problem.reason));
    each.collect::<Vec<_>>().join("\n")
}

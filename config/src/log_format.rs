//! Lines of the access log by Envoy's format strings
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#format-strings>): text, and
//! operators such as `%BYTES_SENT%`, `%START_TIME(%s)%` or `%REQUESTED_SERVER_NAME:64%`. Those that mean something where TLS
//! is passed through have a value, and those of HTTP are the dash that they are for TCP in Envoy, so that Istio's default
//! format can be used as it is.

/// A format string, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line(pub Vec<Part>);

/// A piece of a format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands as it is.
    Text(String),
    /// Stands for a value of the connection.
    Value {
        /// Which.
        operator: Operator,
        /// So many bytes of it at most.
        limit: Option<usize>,
    },
}

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names in OPERATORS say it")]
pub enum Operator {
    /// In this form of `strftime`; empty for `2026-01-31T23:59:59.999Z`.
    StartTime(String),
    Duration,
    BytesReceived,
    BytesSent,
    Flags,
    FlagsLong,
    Details,
    TerminationDetails,
    UpstreamFailure,
    DownstreamFailure,
    Host,
    Upstream(Piece),
    UpstreamLocal(Piece),
    Cluster,
    DownstreamRemote(Piece),
    DownstreamDirectRemote(Piece),
    DownstreamLocal(Piece),
    ServerName,
    FilterChain,
    ConnectionId,
    ConnectTime,
    Attempts,
    Hostname,
    LogType,
    Zero,
    Absent,
    Listener,
    RewrittenName,
    Locality,
    Engine,
    HelloTime,
    Error,
}

/// Of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they say it")]
pub enum Piece {
    Whole,
    Ip,
    Port,
}

/// Every operator by its name. Those without Envoy's word for them are ours.
const OPERATORS: &[(&str, Operator)] = &[
    ("START_TIME", Operator::StartTime(String::new())),
    ("DURATION", Operator::Duration),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("RESPONSE_FLAGS", Operator::Flags),
    ("RESPONSE_FLAGS_LONG", Operator::FlagsLong),
    ("CONNECTION_TERMINATION_DETAILS", Operator::TerminationDetails),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Operator::UpstreamFailure),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Operator::DownstreamFailure),
    ("UPSTREAM_HOST", Operator::Host),
    ("UPSTREAM_REMOTE_ADDRESS", Operator::Upstream(Piece::Whole)),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::Upstream(Piece::Ip)),
    ("UPSTREAM_REMOTE_PORT", Operator::Upstream(Piece::Port)),
    ("UPSTREAM_LOCAL_ADDRESS", Operator::UpstreamLocal(Piece::Whole)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::UpstreamLocal(Piece::Ip)),
    ("UPSTREAM_LOCAL_PORT", Operator::UpstreamLocal(Piece::Port)),
    ("UPSTREAM_CLUSTER", Operator::Cluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::Cluster),
    ("DOWNSTREAM_REMOTE_ADDRESS", Operator::DownstreamRemote(Piece::Whole)),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamRemote(Piece::Ip)),
    ("DOWNSTREAM_REMOTE_PORT", Operator::DownstreamRemote(Piece::Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Operator::DownstreamDirectRemote(Piece::Whole)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamDirectRemote(Piece::Ip)),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Operator::DownstreamDirectRemote(Piece::Port)),
    ("DOWNSTREAM_LOCAL_ADDRESS", Operator::DownstreamLocal(Piece::Whole)),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::DownstreamLocal(Piece::Ip)),
    ("DOWNSTREAM_LOCAL_PORT", Operator::DownstreamLocal(Piece::Port)),
    ("REQUESTED_SERVER_NAME", Operator::ServerName),
    ("FILTER_CHAIN_NAME", Operator::FilterChain),
    ("CONNECTION_ID", Operator::ConnectionId),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", Operator::ConnectTime),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Operator::Attempts),
    ("HOSTNAME", Operator::Hostname),
    ("ACCESS_LOG_TYPE", Operator::LogType),
    ("RESPONSE_CODE", Operator::Zero),
    ("RESPONSE_CODE_DETAILS", Operator::Details),
    ("PROTOCOL", Operator::Absent),
    ("ROUTE_NAME", Operator::Absent),
    ("VIRTUAL_CLUSTER_NAME", Operator::Absent),
    ("REQ", Operator::Absent),
    ("REQ_WITHOUT_QUERY", Operator::Absent),
    ("RESP", Operator::Absent),
    ("TRAILER", Operator::Absent),
    ("REQUEST_DURATION", Operator::Absent),
    ("RESPONSE_DURATION", Operator::Absent),
    ("RESPONSE_TX_DURATION", Operator::Absent),
    ("GRPC_STATUS", Operator::Absent),
    ("DYNAMIC_METADATA", Operator::Absent),
    ("FILTER_STATE", Operator::Absent),
    ("LISTENER_NAME", Operator::Listener),
    ("REWRITTEN_SERVER_NAME", Operator::RewrittenName),
    ("UPSTREAM_LOCALITY", Operator::Locality),
    ("RELAY_ENGINE", Operator::Engine),
    ("HELLO_DURATION", Operator::HelloTime),
    ("ERROR", Operator::Error),
];

/// Why a format string is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such operator.
    #[error("there is no operator %{name}%; the nearest is %{nearest}%")]
    Unknown {
        /// As it was written.
        name: String,
        /// One that there is.
        nearest: &'static str,
    },
    /// It begins and does not end.
    #[error("the % at byte {0} begins no operator; a percent sign is written %%")]
    Loose(usize),
    /// What follows a colon is no number.
    #[error("%{0}%: what follows the colon is a length in bytes, such as %REQUESTED_SERVER_NAME:64%")]
    Length(String),
}

impl Line {
    /// Takes a format string apart.
    ///
    /// # Errors
    /// Names the operator that there is none of and the nearest one, or the place that is no operator.
    pub fn parse(format: &str) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let at = format.len() - after.len() - 1;
            let (part, after) = operator(after, at)?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(part);
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    /// The operators in it.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.0.iter().filter_map(|part| match part {
            Part::Value { operator, .. } => Some(operator),
            Part::Text(_) => None,
        })
    }
}

/// Reads an operator behind its percent sign: `NAME`, perhaps `(ARGUMENT)`, perhaps `:LENGTH`, and a percent sign.
fn operator(after: &str, at: usize) -> Result<(Part, &str), Error> {
    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    let (argument, rest) = match rest.strip_prefix('(') {
        // An argument may hold percent signs, and ends with the parenthesis before a colon or the closing one.
        Some(inner) => {
            let closes = |(index, _): &(usize, &str)| {
                inner.get(index + 1..).is_some_and(|tail| tail.starts_with(['%', ':']))
            };
            let Some((end, _)) = inner.match_indices(')').find(closes) else { return Err(Error::Loose(at)) };
            (Some(&inner[..end]), &inner[end + 1..])
        }
        None => (None, rest),
    };
    let Some((length, rest)) = rest.split_once('%') else { return Err(Error::Loose(at)) };
    if name.is_empty() {
        return Err(Error::Loose(at));
    }
    let limit = match length {
        "" => None,
        length => {
            let digits = length.strip_prefix(':').ok_or(Error::Loose(at))?;
            Some(digits.parse().map_err(|_| Error::Length(name.into()))?)
        }
    };
    let Some((_, operator)) = OPERATORS.iter().find(|(known, _)| *known == name) else {
        let distance = |known: &str| strsim::damerau_levenshtein(name, known);
        let nearest = OPERATORS.iter().map(|(known, _)| *known).min_by_key(|known| distance(known));
        return Err(Error::Unknown { name: name.into(), nearest: nearest.unwrap_or_default() });
    };
    let operator = match operator {
        Operator::StartTime(_) => Operator::StartTime(argument.unwrap_or_default().into()),
        other => other.clone(),
    };
    Ok((Part::Value { operator, limit }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(operator: Operator) -> Part {
        Part::Value { operator, limit: None }
    }

    #[test]
    fn text_and_operators_stand_in_their_order() {
        let line =
            Line::parse("[%START_TIME(%Y/%m (%s))%] 100%% \"%REQUESTED_SERVER_NAME:9%\"%REQ(:METHOD?X):3%\n");
        let parts = vec![
            Part::Text("[".into()),
            value(Operator::StartTime("%Y/%m (%s)".into())),
            Part::Text("] 100% \"".into()),
            Part::Value { operator: Operator::ServerName, limit: Some(9) },
            Part::Text("\"".into()),
            Part::Value { operator: Operator::Absent, limit: Some(3) },
            Part::Text("\n".into()),
        ];
        assert_eq!(line, Ok(Line(parts)));
    }

    #[test]
    fn what_is_no_operator_is_named_with_the_nearest_that_is() {
        let error = |text| Line::parse(text).unwrap_err().to_string();
        assert_eq!(
            error("%UPSTREAM_HOSTT%"),
            "there is no operator %UPSTREAM_HOSTT%; the nearest is %UPSTREAM_HOST%"
        );
        assert_eq!(
            error("50% %DURATION%"),
            "the % at byte 2 begins no operator; a percent sign is written %%"
        );
        assert_eq!(Line::parse("%DURATION"), Err(Error::Loose(0)));
        assert_eq!(Line::parse("%DURATION:x%"), Err(Error::Length("DURATION".into())));
        assert_eq!(Line::parse("%START_TIME(%s%"), Err(Error::Loose(0)));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text in "[%A-Z_():0-9 x\u{e4}]{0,40}") {
            let _ = Line::parse(&text);
        }

        #[test]
        fn what_is_put_together_is_taken_apart_again(
            pieces in proptest::collection::vec(
                prop_oneof![
                    "[a-z %\u{e4}]{1,8}".prop_map(|text| (None, text, None)),
                    (0..OPERATORS.len(), proptest::option::of(0usize..999))
                        .prop_map(|(index, limit)| (Some(index), String::new(), limit)),
                ],
                0..12,
            )
        ) {
            let mut format = String::new();
            let mut expected: Vec<Part> = Vec::new();
            for (index, text, limit) in pieces {
                match index {
                    Some(index) => {
                        let (name, operator) = &OPERATORS[index];
                        let length = limit.map(|limit| format!(":{limit}")).unwrap_or_default();
                        format += &format!("%{name}{length}%");
                        expected.push(Part::Value { operator: operator.clone(), limit });
                    }
                    None => {
                        format += &text.replace('%', "%%");
                        match expected.last_mut() {
                            Some(Part::Text(before)) => before.push_str(&text),
                            _ => expected.push(Part::Text(text)),
                        }
                    }
                }
            }
            prop_assert_eq!(Line::parse(&format), Ok(Line(expected)));
        }
    }
}

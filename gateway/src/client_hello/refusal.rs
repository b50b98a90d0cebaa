//! Why a connection's first bytes are refused, and the TLS alert that tells the client so.

use eastgate_config::server_name;

/// Why no connection is made for a client's first bytes.
///
/// Nothing falls through to a default: bytes that two parsers could read in two ways, or that no TLS server would
/// accept, end here, each with its own reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first byte starts no TLS record.
    #[error("not TLS: the first byte is 0x{0:02x}")]
    NotTls(u8),
    /// A plaintext HTTP request.
    #[error("not TLS: a plaintext HTTP request")]
    Http,
    /// A PROXY protocol header, version 1 or 2, where the listener does not expect one.
    #[error("a PROXY protocol header, which this listener is not set to expect")]
    ProxyHeader,
    /// A ClientHello in the format of SSL 2.0, which has no server name.
    #[error("an SSL 2.0 ClientHello, which has no server name")]
    Ssl2,
    /// A TLS record of another kind than a handshake's: change_cipher_spec, alert, application data, ...
    #[error("a TLS record of content type {0} where the ClientHello is expected")]
    ContentType(u8),
    /// A record whose major version is not 3.
    #[error("a handshake record of major version {0}, not 3")]
    RecordVersion(u8),
    /// A record header claims more than 2^14 bytes.
    #[error("a record of {0} bytes, more than 2^14")]
    RecordOverflow(u16),
    /// The handshake starts with another message than a ClientHello.
    #[error("a handshake message of type {0} where the ClientHello is expected")]
    HandshakeType(u8),
    /// The ClientHello's length, with its header, is over the limit.
    #[error("a ClientHello of {length} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What the header claims, and the header.
        length: usize,
        /// The most that the listener takes.
        limit: usize,
    },
    /// The records around the ClientHello waste so many bytes that they pass the limit on everything read.
    #[error("a ClientHello that does not end within {limit} bytes of records")]
    TooManyRecords {
        /// The most bytes that are read for one ClientHello.
        limit: usize,
    },
    /// The record with the ClientHello's end holds more of the handshake.
    #[error("{0} bytes of another handshake message follow the ClientHello in its record")]
    MessageAfterHello(usize),
    /// A length inside the ClientHello points past the end of what encloses it, or a field is cut short.
    #[error("the ClientHello's {0} is cut short")]
    CutShort(&'static str),
    /// Bytes are left over inside the ClientHello or one of its fields.
    #[error("bytes are left over after the ClientHello's {0}")]
    TrailingBytes(&'static str),
    /// A list that must have an element has none.
    #[error("the ClientHello's {0} is empty")]
    EmptyList(&'static str),
    /// A list of 16-bit values with an odd number of bytes.
    #[error("the ClientHello's {0} has an odd number of bytes")]
    OddList(&'static str),
    /// A session id longer than 32 bytes.
    #[error("a session id of {0} bytes, more than 32")]
    SessionId(u8),
    /// An extension type, other than server_name, that occurs twice.
    #[error("extension {0} occurs twice")]
    DuplicateExtension(u16),
    /// There is no server_name extension, so there is nothing to route by.
    #[error("no server name")]
    NoServerName,
    /// Two names in the server_name extension, or two such extensions.
    #[error("more than one server name")]
    TwoServerNames,
    /// An entry of the server_name extension is no host_name; how it would be read is nowhere defined.
    #[error("a server name of type {0}, not host_name")]
    NameType(u8),
    /// The server name is none that could be routed.
    #[error(transparent)]
    BadName(server_name::Error),
    /// The ClientHello was not whole in time.
    #[error("no whole ClientHello in time: {received} bytes received")]
    TooSlow {
        /// How many bytes came.
        received: usize,
    },
    /// The client closed in the middle of its ClientHello.
    #[error("closed before the end of the ClientHello: {received} bytes received")]
    ClosedEarly {
        /// How many bytes came.
        received: usize,
    },
    /// The client closed without a byte, as port scanners and load balancers' TCP health checks do.
    #[error("closed without a byte")]
    ClosedUnused,
}

impl Refusal {
    /// The reason in one word of a small fixed set, for metric labels and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotTls(_) => "not_tls",
            Self::Http => "http",
            Self::ProxyHeader => "proxy_header",
            Self::Ssl2 => "sslv2",
            Self::ContentType(20) => "change_cipher_spec",
            Self::ContentType(21) => "alert",
            Self::ContentType(23) => "application_data",
            Self::ContentType(_) => "content_type",
            Self::RecordVersion(_) => "record_version",
            Self::RecordOverflow(_) => "record_overflow",
            Self::HandshakeType(_) => "handshake_type",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyRecords { .. } => "too_many_records",
            Self::MessageAfterHello(_) => "message_after_hello",
            Self::CutShort(_) => "cut_short",
            Self::TrailingBytes(_) => "trailing_bytes",
            Self::EmptyList(_) => "empty_list",
            Self::OddList(_) => "odd_list",
            Self::SessionId(_) => "session_id",
            Self::DuplicateExtension(_) => "duplicate_extension",
            Self::NoServerName => "no_server_name",
            Self::TwoServerNames => "two_server_names",
            Self::NameType(_) => "name_type",
            Self::BadName(error) => bad_name(*error),
            Self::TooSlow { .. } => "too_slow",
            Self::ClosedEarly { .. } => "closed_early",
            Self::ClosedUnused => "closed_unused",
        }
    }

    /// The alert that fits, by [RFC 8446 §6.2](https://www.rfc-editor.org/rfc/rfc8446#section-6.2) and, for the
    /// server name, [RFC 6066 §3](https://www.rfc-editor.org/rfc/rfc6066#section-3).
    pub fn alert(&self) -> Alert {
        match self {
            Self::NotTls(_)
            | Self::Http
            | Self::ProxyHeader
            | Self::ContentType(_)
            | Self::HandshakeType(_)
            | Self::TooManyRecords { .. }
            | Self::MessageAfterHello(_) => Alert::UnexpectedMessage,
            Self::Ssl2 | Self::RecordVersion(_) => Alert::ProtocolVersion,
            Self::RecordOverflow(_) => Alert::RecordOverflow,
            Self::CutShort(_)
            | Self::TrailingBytes(_)
            | Self::EmptyList(_)
            | Self::OddList(_)
            | Self::SessionId(_)
            | Self::BadName(server_name::Error::Empty)
            | Self::ClosedEarly { .. } => Alert::DecodeError,
            Self::TooLarge { .. }
            | Self::DuplicateExtension(_)
            | Self::TwoServerNames
            | Self::NameType(_) => Alert::IllegalParameter,
            Self::NoServerName => Alert::MissingExtension,
            Self::BadName(_) => Alert::UnrecognizedName,
            Self::TooSlow { .. } | Self::ClosedUnused => Alert::UserCanceled,
        }
    }
}

fn bad_name(error: server_name::Error) -> &'static str {
    match error {
        server_name::Error::Empty => "name_empty",
        server_name::Error::TooLong => "name_too_long",
        server_name::Error::EmptyLabel => "name_empty_label",
        server_name::Error::LabelTooLong => "name_label_too_long",
        server_name::Error::IpLiteral => "name_ip_literal",
        server_name::Error::BadByte(_) => "name_bad_byte",
    }
}

/// The TLS alerts that the gateway itself sends, each with its number in
/// [IANA's registry](https://www.iana.org/assignments/tls-parameters/tls-parameters.xhtml#tls-parameters-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// A message or record that does not belong here.
    UnexpectedMessage = 10,
    /// A record longer than allowed.
    RecordOverflow = 22,
    /// A field that is well formed and yet not allowed.
    IllegalParameter = 47,
    /// The connection is not allowed to whoever asks for it.
    AccessDenied = 49,
    /// Lengths that do not add up.
    DecodeError = 50,
    /// A protocol version that cannot be served.
    ProtocolVersion = 70,
    /// The gateway itself cannot go on, as when no endpoint can be reached.
    InternalError = 80,
    /// The handshake is given up for a reason outside the protocol.
    UserCanceled = 90,
    /// There is no server name.
    MissingExtension = 109,
    /// No route for the server name.
    UnrecognizedName = 112,
    /// No route for the ALPN protocols.
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The alert's number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The alert's name in RFC 8446.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnexpectedMessage => "unexpected_message",
            Self::RecordOverflow => "record_overflow",
            Self::IllegalParameter => "illegal_parameter",
            Self::AccessDenied => "access_denied",
            Self::DecodeError => "decode_error",
            Self::ProtocolVersion => "protocol_version",
            Self::InternalError => "internal_error",
            Self::UserCanceled => "user_canceled",
            Self::MissingExtension => "missing_extension",
            Self::UnrecognizedName => "unrecognized_name",
            Self::NoApplicationProtocol => "no_application_protocol",
        }
    }

    /// The record that says so to the client: a fatal alert, in the clear, as every alert before the ServerHello is.
    pub fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self.code()]
    }
}

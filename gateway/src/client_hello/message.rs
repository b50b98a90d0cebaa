//! Reads the ClientHello message: everything must add up, and there must be exactly one server name.
//!
//! ```text
//! +---------+------------+-----+------+-----+---------------+-----+-------------+-----+---------------------------+
//! | version | random, 32 | len | sess.| len | cipher suites | len | compression | len | extension, extension, ... |
//! |    2    |            |  1  | ≤ 32 |  2  |    2 each     |  1  |   1 each    |  2  | type 2, length 2, body    |
//! +---------+------------+-----+------+-----+---------------+-----+-------------+-----+---------------------------+
//!
//! server_name:         length of list 2, then: type 1 (0, host_name), length 2, name
//! ALPN:                length of list 2, then each: length 1, protocol
//! supported_versions:  length of list 1, then each: version 2
//! ```
//!
//! ([RFC 8446 §4.1.2](https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2),
//! [RFC 6066 §3](https://www.rfc-editor.org/rfc/rfc6066#section-3),
//! [RFC 7301 §3.1](https://www.rfc-editor.org/rfc/rfc7301#section-3.1))

use eastgate_config::server_name::ServerName;
use tls_parser::{TlsClientHelloContents, TlsExtension};

use super::ClientHello;
use super::refusal::Refusal;
use super::seen::Seen;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The first byte of that extension in an outer hello ([RFC 9849 §5](https://www.rfc-editor.org/rfc/rfc9849#section-5)).
const ECH_OUTER: u8 = 0;

/// Reads a whole handshake message, header and all; `consumed` is what it took of the raw bytes.
pub(super) fn read(message: &[u8], consumed: usize) -> Result<ClientHello, Refusal> {
    let body = body(message)?;
    let mut wanted = Wanted::default();
    let mut seen = Seen::default();
    for extension in extensions(body.ext.unwrap_or_default()) {
        let (kind, data) = extension?;
        if !seen.insert(kind) {
            return Err(match kind {
                SERVER_NAME => Refusal::TwoServerNames,
                _ => Refusal::DuplicateExtension(kind),
            });
        }
        wanted.take(kind, data)?;
    }
    let mut client_random = [0; 32];
    client_random.copy_from_slice(body.random.get(..32).ok_or(Refusal::CutShort("random"))?);
    // ALPN and versions share one allocation: most connections drop it unread.
    let mut lists = Vec::with_capacity(wanted.alpn.len() + wanted.versions.len());
    lists.extend_from_slice(wanted.alpn);
    lists.extend_from_slice(wanted.versions);
    Ok(ClientHello {
        server_name: wanted.server_name.ok_or(Refusal::NoServerName)?,
        lists: lists.into_boxed_slice(),
        alpn_length: wanted.alpn.len(),
        legacy_version: body.version.0,
        client_random,
        early_data: wanted.early_data,
        ech: wanted.ech,
        consumed,
    })
}

/// What is looked at among the extensions.
#[derive(Default)]
struct Wanted<'a> {
    server_name: Option<ServerName>,
    alpn: &'a [u8],
    versions: &'a [u8],
    early_data: bool,
    ech: bool,
}

impl<'a> Wanted<'a> {
    fn take(&mut self, kind: u16, data: &'a [u8]) -> Result<(), Refusal> {
        match kind {
            SERVER_NAME => self.server_name = Some(server_name(data)?),
            ALPN => self.alpn = alpn(data)?,
            SUPPORTED_VERSIONS => self.versions = versions(data)?,
            EARLY_DATA if !data.is_empty() => return Err(Refusal::TrailingBytes("early data")),
            EARLY_DATA => self.early_data = true,
            ENCRYPTED_CLIENT_HELLO => self.ech = data.first() == Some(&ECH_OUTER),
            // The rest is between the client and the server that it is passed to.
            _ => {}
        }
        Ok(())
    }
}

/// Takes the message apart down to the block of extensions.
pub(super) fn body(message: &[u8]) -> Result<TlsClientHelloContents<'_>, Refusal> {
    let body = message.get(4..).unwrap_or_default();
    let Ok((rest, hello)) = tls_parser::parse_tls_handshake_client_hello(body) else {
        return Err(broken(body));
    };
    if hello.ciphers.is_empty() {
        return Err(Refusal::EmptyList("cipher suites"));
    }
    if hello.comp.is_empty() {
        return Err(Refusal::EmptyList("compression methods"));
    }
    match (rest, hello.ext) {
        ([], _) => Ok(hello),
        (_, Some(_)) => Err(Refusal::TrailingBytes("extensions")),
        (_, None) => Err(Refusal::CutShort("extensions")),
    }
}

/// Says what is wrong with a body that `tls-parser` refuses.
fn broken(body: &[u8]) -> Refusal {
    let Some((&session_id, rest)) = body.get(34..).and_then(|rest| rest.split_first()) else {
        return Refusal::CutShort("version, random or session id");
    };
    if session_id > 32 {
        return Refusal::SessionId(session_id);
    }
    let Some(rest) = rest.get(usize::from(session_id)..) else { return Refusal::CutShort("session id") };
    match split_u16(rest) {
        Some((ciphers, rest)) if rest.len() >= ciphers && ciphers % 2 == 1 => {
            Refusal::OddList("cipher suites")
        }
        Some((ciphers, rest)) if rest.len() >= ciphers => Refusal::CutShort("compression methods"),
        _ => Refusal::CutShort("cipher suites"),
    }
}

/// The extensions of a block, each as type and body; the last item is an error where the block does not add up.
pub(super) fn extensions(mut block: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Refusal>> {
    std::iter::from_fn(move || {
        if block.is_empty() {
            return None;
        }
        let extension = split_extension(block);
        block = extension.map_or(&[], |(_, _, rest)| rest);
        Some(extension.map(|(kind, data, _)| (kind, data)).ok_or(Refusal::CutShort("extensions")))
    })
}

fn split_extension(block: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&kind, rest) = block.split_first_chunk::<2>()?;
    let (length, rest) = split_u16(rest)?;
    let (data, rest) = rest.split_at_checked(length)?;
    Some((u16::from_be_bytes(kind), data, rest))
}

fn split_u16(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&length, rest) = bytes.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_be_bytes(length)), rest))
}

/// The one name of a server_name extension.
fn server_name(data: &[u8]) -> Result<ServerName, Refusal> {
    const LIST: &str = "server name list";
    let list = whole_list(data, LIST)?;
    // How long a name of an unknown type is nobody can say, so what stands behind it cannot be read either.
    if let Some(other) = list.first().filter(|kind| **kind != 0) {
        return Err(Refusal::NameType(*other));
    }
    let Ok((_, TlsExtension::SNI(names))) = tls_parser::parse_tls_extension_sni_content(data) else {
        return Err(Refusal::CutShort(LIST));
    };
    let Some((_, name)) = names.first() else { return Err(Refusal::CutShort("server name")) };
    match list.get(3 + name.len()..).unwrap_or_default() {
        [] => ServerName::from_sni(name).map_err(Refusal::BadName),
        [0, ..] if names.len() > 1 => Err(Refusal::TwoServerNames),
        [0, ..] => Err(Refusal::CutShort("server name")),
        [other, ..] => Err(Refusal::NameType(*other)),
    }
}

/// The list of an ALPN extension: each protocol behind its length.
fn alpn(data: &[u8]) -> Result<&[u8], Refusal> {
    const LIST: &str = "ALPN list";
    let list = whole_list(data, LIST)?;
    let mut rest = list;
    while let Some((&length, tail)) = rest.split_first() {
        if length == 0 {
            return Err(Refusal::EmptyList("ALPN protocol"));
        }
        rest = tail.get(usize::from(length)..).ok_or(Refusal::CutShort(LIST))?;
    }
    Ok(list)
}

/// The list of a supported_versions extension.
fn versions(data: &[u8]) -> Result<&[u8], Refusal> {
    const LIST: &str = "list of supported versions";
    let (&length, list) = data.split_first().ok_or(Refusal::EmptyList(LIST))?;
    exactly(list, usize::from(length), LIST)?;
    if list.len() % 2 == 1 {
        return Err(Refusal::OddList(LIST));
    }
    Ok(list)
}

/// The bytes of a list behind a length of two bytes.
fn whole_list<'a>(data: &'a [u8], name: &'static str) -> Result<&'a [u8], Refusal> {
    if data.is_empty() {
        return Err(Refusal::EmptyList(name));
    }
    let (length, list) = split_u16(data).ok_or(Refusal::CutShort(name))?;
    exactly(list, length, name)?;
    Ok(list)
}

fn exactly(list: &[u8], length: usize, name: &'static str) -> Result<(), Refusal> {
    if list.len() < length {
        return Err(Refusal::CutShort(name));
    }
    if list.len() > length {
        return Err(Refusal::TrailingBytes(name));
    }
    if list.is_empty() {
        return Err(Refusal::EmptyList(name));
    }
    Ok(())
}

//! `eastgate hello`: reads the first bytes of clients from files and says what the gateway would make of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::client_hello::{self, ClientHello, DEFAULT_MAX_MESSAGE, Inspector, MAX_MAX_MESSAGE, Refusal, ja4};

/// Decode captured ClientHellos: one line of JSON for each file.
///
/// Each file holds the raw bytes that a client sent first, TLS records and all. The line says whether the gateway would
/// route them, refuse them (with the reason, and the TLS alert sent), or need more of them.
#[derive(Debug, Clone, Args)]
pub struct HelloArgs {
    /// Files to read; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub files: Vec<PathBuf>,
    /// The files hold hexadecimal digits; white space and colons between them are skipped
    #[arg(long)]
    pub hex: bool,
    /// Feed the bytes in pieces of these sizes, as segments would bring them; `n` is the rest, the last size repeats
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "n")]
    pub chunks: Vec<Chunk>,
    /// Refuse ClientHellos of more bytes than this
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_MESSAGE, value_parser = max_message)]
    pub max_message: usize,
    /// Also say where the gateway would connect to, with the mesh of this directory of YAML files
    #[arg(long, value_name = "DIR")]
    pub mesh_dir: Option<PathBuf>,
}

/// The size of a piece of `--chunks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// So many bytes.
    Bytes(usize),
    /// All that is left: `n`.
    Rest,
}

impl FromStr for Chunk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("n", _) => Ok(Self::Rest),
            (_, Ok(size @ 1..)) => Ok(Self::Bytes(size)),
            _ => Err("a size is a number from 1 on, or n for the rest".into()),
        }
    }
}

fn max_message(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=MAX_MAX_MESSAGE) => Ok(size),
        _ => Err(format!("the size must be between 1 and {MAX_MAX_MESSAGE}")),
    }
}

/// Decodes every file and writes the lines to standard output; `route` says where a connection would go, or `None` where
/// there is no mesh to ask.
///
/// A file that cannot be read gets a line with `error`, and makes the exit code 1 at the end.
///
/// # Errors
/// Fails where standard output cannot be written to. That its reader has gone is not an error.
pub fn run(args: &HelloArgs, route: impl Fn(&ClientHello) -> Option<Value>) -> anyhow::Result<ExitCode> {
    match report(args, route, &mut io::stdout().lock()) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

/// Writes the lines; false where a file could not be read.
fn report(
    args: &HelloArgs,
    route: impl Fn(&ClientHello) -> Option<Value>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut all_read = true;
    for file in &args.files {
        let name = file.to_string_lossy();
        let line = match bytes_of(file, args) {
            Ok(bytes) => decode(&name, &bytes, args, &route)?,
            Err(error) => {
                all_read = false;
                serde_json::json!({ "file": name, "error": error.to_string() }).to_string()
            }
        };
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(all_read)
}

/// Reads as much of a file as can matter: after that the inspector has answered.
fn bytes_of(file: &Path, args: &HelloArgs) -> io::Result<Vec<u8>> {
    const RECORD_HEADER: usize = 5;
    let most = client_hello::max_raw(args.max_message) + RECORD_HEADER;
    let source: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(File::open(file)?) };
    if args.hex {
        return from_hex(BufReader::new(source), most);
    }
    let mut bytes = Vec::new();
    source.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn from_hex(source: impl BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut high = None;
    for character in source.bytes() {
        let character = char::from(character?);
        if character.is_ascii_whitespace() || character == ':' {
            continue;
        }
        // A hexadecimal digit is below 16, so the cast loses nothing.
        let digit = character.to_digit(16).ok_or_else(|| not_hex("not a hexadecimal digit"))? as u8;
        match high.take() {
            None => high = Some(digit << 4),
            Some(high) => bytes.push(high | digit),
        }
        if bytes.len() == most {
            return Ok(bytes);
        }
    }
    match high {
        None => Ok(bytes),
        Some(_) => Err(not_hex("an odd number of hexadecimal digits")),
    }
}

fn not_hex(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// One line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: &'a str,
    verdict: &'static str,
    server_name: Option<&'a str>,
    alpn: Option<Vec<String>>,
    reason: Option<&'static str>,
    /// The refusal in words.
    detail: Option<String>,
    alert: Option<u8>,
    alert_name: Option<&'static str>,
    consumed: Option<usize>,
    versions: Option<Vec<String>>,
    ja4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Value>,
}

fn decode(
    file: &str,
    bytes: &[u8],
    args: &HelloArgs,
    route: impl Fn(&ClientHello) -> Option<Value>,
) -> serde_json::Result<String> {
    let mut inspector = Inspector::new(args.max_message);
    let outcome = feed(&mut inspector, bytes, &args.chunks);
    let hello = outcome.as_ref().ok().and_then(Option::as_ref);
    let refusal = outcome.as_ref().err();
    let line = Line {
        file,
        verdict: match outcome {
            Ok(Some(_)) => "route",
            Ok(None) => "need_more",
            Err(_) => "refuse",
        },
        server_name: hello.map(|hello| hello.server_name().as_str()),
        alpn: hello.map(|hello| hello.alpn().map(|protocol| protocol.escape_ascii().to_string()).collect()),
        reason: refusal.map(Refusal::reason),
        detail: refusal.map(ToString::to_string),
        alert: refusal.map(|refusal| refusal.alert().code()),
        alert_name: refusal.map(|refusal| refusal.alert().name()),
        consumed: hello.map(ClientHello::consumed),
        versions: hello.map(|hello| hello.versions().map(version_name).collect()),
        // A hello that is refused can have a fingerprint all the same.
        ja4: inspector.message().and_then(ja4::fingerprint),
        route: hello.and_then(route),
    };
    serde_json::to_string(&line)
}

fn feed(
    inspector: &mut Inspector,
    mut bytes: &[u8],
    chunks: &[Chunk],
) -> Result<Option<ClientHello>, Refusal> {
    let last = chunks.last().copied().unwrap_or(Chunk::Rest);
    let mut sizes = chunks.iter().copied().chain(std::iter::repeat(last));
    while !bytes.is_empty() {
        let size = match sizes.next() {
            Some(Chunk::Bytes(size)) => size.min(bytes.len()),
            _ => bytes.len(),
        };
        let (piece, rest) = bytes.split_at(size);
        inspector.push(piece);
        bytes = rest;
        if let Some(hello) = inspector.advance()? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

fn version_name(version: u16) -> String {
    match version {
        0x0300 => "SSL3.0".into(),
        0x0301 => "TLS1.0".into(),
        0x0302 => "TLS1.1".into(),
        0x0303 => "TLS1.2".into(),
        0x0304 => "TLS1.3".into(),
        other => format!("0x{other:04x}"),
    }
}

#[cfg(test)]
mod tests;

//! Builds ClientHellos, good and broken ones, and cuts them into records.

/// A ClientHello in its parts; each can be broken by hand.
#[derive(Debug, Clone)]
pub(crate) struct HelloBuilder {
    pub(crate) legacy_version: u16,
    pub(crate) session_id: Vec<u8>,
    pub(crate) ciphers: Vec<u8>,
    pub(crate) compression: Vec<u8>,
    /// `None` leaves out even the block's length.
    pub(crate) extensions: Option<Vec<(u16, Vec<u8>)>>,
    /// What stands behind the extensions, inside the message.
    pub(crate) junk: Vec<u8>,
}

impl HelloBuilder {
    /// A TLS 1.3 hello without a server name.
    pub(crate) fn nameless() -> Self {
        let key_share = [&[0, 36, 0, 29, 0, 32][..], &[7; 32]].concat();
        Self {
            legacy_version: 0x0303,
            session_id: vec![5; 32],
            ciphers: vec![0x13, 0x01, 0x13, 0x02, 0xc0, 0x2f],
            compression: vec![0],
            extensions: Some(vec![
                (10, vec![0, 4, 0, 29, 0, 23]),
                (13, vec![0, 4, 4, 3, 8, 4]),
                (43, vec![4, 3, 4, 3, 3]),
                (51, key_share),
            ]),
            junk: vec![],
        }
    }

    /// The same with a server name as the first extension.
    pub(crate) fn new(name: impl AsRef<[u8]>) -> Self {
        Self::nameless().first(0, sni(name))
    }

    /// A hello with a server name and without supported_versions, as clients of TLS 1.2 and before send.
    pub(crate) fn named_without_versions() -> Self {
        let mut hello = Self::new("a.global");
        hello.extensions.get_or_insert_default().retain(|(kind, _)| *kind != 43);
        hello
    }

    /// Takes a good message apart.
    pub(crate) fn from_message(message: &[u8]) -> Self {
        let take = |at: &mut usize, count: usize| {
            *at += count;
            message[*at - count..*at].to_vec()
        };
        let number =
            |at: &mut usize, count: usize| take(at, count).iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let mut at = 4;
        let legacy_version = number(&mut at, 2) as u16;
        at += 32;
        let length = number(&mut at, 1);
        let session_id = take(&mut at, length);
        let length = number(&mut at, 2);
        let ciphers = take(&mut at, length);
        let length = number(&mut at, 1);
        let compression = take(&mut at, length);
        let mut extensions = vec![];
        at += 2;
        while at < message.len() {
            let kind = number(&mut at, 2) as u16;
            let length = number(&mut at, 2);
            extensions.push((kind, take(&mut at, length)));
        }
        Self { legacy_version, session_id, ciphers, compression, extensions: Some(extensions), junk: vec![] }
    }

    /// Puts an extension in front.
    pub(crate) fn first(mut self, kind: u16, body: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().insert(0, (kind, body));
        self
    }

    /// Puts an extension at the end.
    pub(crate) fn last(mut self, kind: u16, body: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().push((kind, body));
        self
    }

    /// Pads with an unknown extension, the last one or before all others, until the message has `size` bytes. As all
    /// extensions together have 64 KiB at most, the rest of a longer one is cipher suites.
    pub(crate) fn sized(mut self, size: usize, name_first: bool) -> Self {
        let missing = size - self.message().len() - 4;
        let of_ciphers = missing.saturating_sub(65_400).next_multiple_of(2);
        self.ciphers.extend(std::iter::repeat_n([0xc0, 0x30], of_ciphers / 2).flatten());
        let padding = vec![0; missing - of_ciphers];
        let hello = if name_first { self.last(0x7000, padding) } else { self.first(0x7000, padding) };
        assert_eq!(hello.message().len(), size);
        hello
    }

    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend(1..=32);
        body.extend(with_length(1, &self.session_id));
        body.extend(with_length(2, &self.ciphers));
        body.extend(with_length(1, &self.compression));
        if let Some(extensions) = &self.extensions {
            let block: Vec<u8> = extensions
                .iter()
                .flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), with_length(2, body)].concat())
                .collect();
            body.extend(with_length(2, &block));
        }
        body.extend(&self.junk);
        [vec![1], with_length(3, &body)].concat()
    }

    /// The message in as few records as can hold it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        records(&self.message(), 1 << 14)
    }
}

/// Bytes behind their length, which takes `width` bytes. Lengths too long for their width lose their upper bytes.
pub(crate) fn with_length(width: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - width..], bytes].concat()
}

/// A server_name extension of one host_name.
pub(crate) fn sni(name: impl AsRef<[u8]>) -> Vec<u8> {
    sni_list(&[(0, name.as_ref())])
}

/// A server_name extension of these entries.
pub(crate) fn sni_list(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [vec![*kind], with_length(2, name)].concat()).collect();
    with_length(2, &list)
}

/// An ALPN extension.
pub(crate) fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| with_length(1, protocol)).collect();
    with_length(2, &list)
}

/// One handshake record.
pub(crate) fn record(payload: &[u8]) -> Vec<u8> {
    [vec![22, 3, 1], with_length(2, payload)].concat()
}

/// A message in records of so many bytes.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

use proptest::prelude::*;

use super::*;

#[allow(dead_code, reason = "each test program uses another part")]
#[path = "../../tests/support/client_hello.rs"]
pub(super) mod support;

use self::support::{HelloBuilder, alpn, record, records, sni_list, with_length};

/// What is made of bytes that come in these pieces.
fn inspect_pieces<'a>(
    max_message: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<ClientHello>, Refusal> {
    let mut inspector = Inspector::new(max_message);
    for piece in pieces {
        inspector.push(piece);
        if let Some(hello) = inspector.advance()? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

fn inspect(bytes: &[u8]) -> Result<Option<ClientHello>, Refusal> {
    inspect_pieces(DEFAULT_MAX_MESSAGE, [bytes])
}

fn refusal(bytes: &[u8]) -> Refusal {
    inspect(bytes).expect_err("the bytes should be refused")
}

/// The shortest prefix with a refusal, and the refusal.
fn first_refusal(bytes: &[u8]) -> (usize, Refusal) {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    for (at, byte) in bytes.iter().enumerate() {
        inspector.push(&[*byte]);
        if let Err(refusal) = inspector.advance() {
            return (at + 1, refusal);
        }
    }
    panic!("no prefix is refused");
}

#[test]
fn a_hello_yields_all_that_routing_needs() {
    let hello = HelloBuilder::new("HttpBin.Bar.Global.")
        .last(16, alpn(&[b"istio", b"\xff\x00"]))
        .last(42, vec![])
        .last(0xfe0d, vec![0, 0, 1, 0, 1])
        .bytes();
    let read = inspect(&hello).unwrap().unwrap();
    assert_eq!(read.server_name().as_str(), "httpbin.bar.global");
    assert_eq!(read.alpn().collect::<Vec<_>>(), [&b"istio"[..], b"\xff\x00"]);
    assert_eq!(read.versions().collect::<Vec<_>>(), [0x0304, 0x0303]);
    assert_eq!(read.client_random()[..4], [1, 2, 3, 4]);
    assert_eq!(read.client_random()[31], 32);
    assert!(read.early_data() && read.has_ech());
    assert_eq!(read.consumed(), hello.len());
}

#[test]
fn without_the_extensions_there_is_no_alpn_and_only_the_legacy_version() {
    let mut hello = HelloBuilder::new("a.global");
    hello.legacy_version = 0x0301;
    hello.extensions.as_mut().unwrap().truncate(1);
    let read = inspect(&hello.bytes()).unwrap().unwrap();
    assert_eq!(read.alpn().count(), 0);
    assert_eq!(read.versions().collect::<Vec<_>>(), [0x0301]);
    assert!(!read.early_data() && !read.has_ech());
}

#[test]
fn an_inner_ech_marker_is_no_outer_hello() {
    let read = inspect(&HelloBuilder::new("a.global").last(0xfe0d, vec![1]).bytes()).unwrap().unwrap();
    assert!(!read.has_ech());
}

#[test]
fn a_message_in_one_record_is_read_in_place_and_another_is_joined() {
    let hello = HelloBuilder::new("a.global").message();
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(&records(&hello, 1 << 14));
    assert!(inspector.advance().unwrap().is_some());
    let raw = inspector.raw.as_ptr_range();
    assert!(raw.contains(&inspector.message().unwrap().as_ptr()));
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(&records(&hello, 7));
    assert!(inspector.advance().unwrap().is_some());
    assert_eq!(inspector.message(), Some(hello.as_slice()));
}

#[test]
fn what_follows_the_hello_is_kept_for_the_replay_and_not_looked_at() {
    let hello = HelloBuilder::new("a.global").bytes();
    let all = [&hello[..], &[23, 3, 3, 0xff, 0xff], &[9; 100_000]].concat();
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(&all);
    assert_eq!(inspector.advance().unwrap().unwrap().consumed(), hello.len());
    assert_eq!(inspector.into_raw(), all);
}

#[test]
fn what_is_asked_for_grows_with_what_was_received() {
    let hello = HelloBuilder::new("a.global").sized(60_000, false).bytes();
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    let mut rest = hello.as_slice();
    let mut read = None;
    while !rest.is_empty() {
        assert!(inspector.wanted() > 0 && inspector.wanted() <= inspector.received_bytes().max(FIRST_READ));
        let (piece, behind) = rest.split_at(inspector.wanted().min(rest.len()).min(1448));
        inspector.push(piece);
        rest = behind;
        read = inspector.advance().unwrap();
    }
    assert_eq!(read.unwrap().consumed(), hello.len());
    assert!(inspector.raw.capacity() <= 2 * hello.len());
    assert_eq!(inspector.into_raw(), hello);
}

#[test]
fn claimed_lengths_allocate_nothing() {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(&[22, 3, 1, 0, 5, 1, 0, 0xff, 0xfc, 3]);
    assert_eq!(inspector.advance(), Ok(None));
    assert!(format!("{:?}", inspector.deframer).contains("length: Some(65536)"));
    assert!(inspector.raw.capacity() < 100);
}

#[test]
fn each_refusal_comes_with_the_first_byte_that_decides_it() {
    let overflow = [22, 3, 1, 0x40, 0x01, 1];
    assert_eq!(first_refusal(&overflow), (5, Refusal::RecordOverflow(16385)));
    assert_eq!(first_refusal(&[22, 2, 0, 0, 9]), (2, Refusal::RecordVersion(2)));
    assert_eq!(first_refusal(&[22, 3, 1, 0, 9, 2, 0]), (6, Refusal::HandshakeType(2)));
    assert_eq!(first_refusal(&[22, 3, 1, 0, 2, 2, 0]), (6, Refusal::HandshakeType(2)));
    let large = Refusal::TooLarge { length: 0x00ff_ffff + 4, limit: DEFAULT_MAX_MESSAGE };
    assert_eq!(first_refusal(&[22, 3, 1, 0, 99, 1, 0xff, 0xff, 0xff, 3]), (9, large));
    assert_eq!(first_refusal(&[22, 3, 1, 0, 9, 1, 0, 0, 4, 3]), (9, Refusal::MessageAfterHello(1)));
    let cut = [record(&[1, 0]), record(&[0, 4, 9, 9, 9, 9, 9])].concat();
    assert_eq!(first_refusal(&cut), (14, Refusal::MessageAfterHello(1)));
    let cut = [record(&[1, 0, 0, 4, 9]), record(&[9, 9, 9, 9])].concat();
    assert_eq!(first_refusal(&cut), (15, Refusal::MessageAfterHello(1)));
    let cut = [record(&[1, 0, 0, 4, 9]), vec![21, 3, 3, 0, 2]].concat();
    assert_eq!(first_refusal(&cut), (11, Refusal::ContentType(21)));
}

#[test]
fn what_is_no_tls_is_named_by_its_first_bytes() {
    assert_eq!(first_refusal(b"GET / HTTP/1.1\r\n"), (4, Refusal::Http));
    assert_eq!(first_refusal(b"PRI * HTTP/2.0\r\n"), (12, Refusal::Http));
    assert_eq!(first_refusal(b"PROXY TCP4 192.0.2.1"), (6, Refusal::ProxyHeader));
    assert_eq!(first_refusal(b"\r\n\r\n\0\r\nQUIT\n!"), (12, Refusal::ProxyHeader));
    assert_eq!(first_refusal(b"\r\n\r\n!"), (5, Refusal::NotTls(b'\r')));
    assert_eq!(first_refusal(b"SSH-2.0-x"), (1, Refusal::NotTls(b'S')));
    assert_eq!(first_refusal(b"PROUD"), (4, Refusal::NotTls(b'P')));
    assert_eq!(first_refusal(b"\x80\x2e\x01\x00\x02"), (4, Refusal::Ssl2));
    assert_eq!(first_refusal(b"\x80\x2e\x01\x03\x01"), (4, Refusal::Ssl2));
    assert_eq!(first_refusal(b"\x80\x2e\x02"), (3, Refusal::NotTls(0x80)));
    for content_type in [20, 21, 23, 24] {
        assert_eq!(first_refusal(&[content_type]), (1, Refusal::ContentType(content_type)));
    }
    assert_eq!(first_refusal(&[0]), (1, Refusal::NotTls(0)));
}

#[test]
fn a_refusal_is_final() {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(&[22, 3, 1, 0, 9, 1, 0, 0, 4, 3]);
    let refusal = inspector.advance().unwrap_err();
    inspector.push(&HelloBuilder::new("a.global").bytes());
    assert_eq!(inspector.advance(), Err(refusal));
}

#[test]
fn tiny_records_are_taken_up_to_the_limit_on_all_bytes() {
    let hello = HelloBuilder::new("a.global").sized(20_000, false).message();
    assert!(inspect(&records(&hello, 1)).unwrap().is_some());
    let hello = HelloBuilder::new("a.global").sized(30_000, false).message();
    let limit = max_raw(DEFAULT_MAX_MESSAGE);
    assert_eq!(limit, 144 << 10);
    assert_eq!(refusal(&records(&hello, 1)), Refusal::TooManyRecords { limit });
    let empty = record(&[]).repeat(limit / 5);
    assert_eq!(inspect(&empty), Ok(None));
    assert_eq!(refusal(&[empty, record(&[])].concat()), Refusal::TooManyRecords { limit });
}

#[test]
fn the_limit_on_the_message_counts_its_header_and_is_at_most_128_kib() {
    let hello = HelloBuilder::new("a.global").sized(1000, true).bytes();
    assert!(inspect_pieces(1000, [&hello[..]]).unwrap().is_some());
    let large = Refusal::TooLarge { length: 1000, limit: 999 };
    assert_eq!(inspect_pieces(999, [&hello[..]]), Err(large));
    let most = HelloBuilder::new("a.global").sized(MAX_MAX_MESSAGE, true).bytes();
    assert!(inspect_pieces(usize::MAX, [&most[..]]).unwrap().is_some());
    let more = [22, 3, 1, 0, 4, 1, 2, 0, 0];
    let large = Refusal::TooLarge { length: MAX_MAX_MESSAGE + 4, limit: MAX_MAX_MESSAGE };
    assert_eq!(inspect_pieces(usize::MAX, [&more[..]]), Err(large));
}

#[test]
fn ending_without_a_hello_says_how_much_came() {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    assert_eq!(inspector.closed(), Refusal::ClosedUnused);
    assert_eq!(inspector.too_slow(), Refusal::TooSlow { received: 0 });
    inspector.push(&[22, 3, 1]);
    assert_eq!(inspector.advance(), Ok(None));
    assert_eq!(inspector.closed(), Refusal::ClosedEarly { received: 3 });
    assert_eq!(inspector.too_slow(), Refusal::TooSlow { received: 3 });
    assert_eq!(inspector.closed().to_string(), "closed before the end of the ClientHello: 3 bytes received");
}

#[test]
fn an_alert_is_a_fatal_record_in_the_clear() {
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
    assert_eq!(Refusal::NoServerName.alert().record(), [21, 3, 3, 0, 2, 2, 109]);
    assert_eq!(Alert::DecodeError.name(), "decode_error");
}

#[test]
fn lists_that_do_not_add_up_are_refused_each_for_its_reason() {
    let with = |kind, body: &[u8]| refusal(&HelloBuilder::new("a.global").last(kind, body.to_vec()).bytes());
    let alpn_list = "ALPN list";
    assert_eq!(with(16, &[]), Refusal::EmptyList(alpn_list));
    assert_eq!(with(16, &[0]), Refusal::CutShort(alpn_list));
    assert_eq!(with(16, &[0, 0]), Refusal::EmptyList(alpn_list));
    assert_eq!(with(16, &[0, 1, 0]), Refusal::EmptyList("ALPN protocol"));
    assert_eq!(with(16, &[0, 3, 2, b'h', b'2', 0]), Refusal::TrailingBytes(alpn_list));
    assert_eq!(with(16, &[0, 2, 2, b'h']), Refusal::CutShort(alpn_list));
    assert_eq!(with(42, &[0]), Refusal::TrailingBytes("early data"));
    let versions =
        |body: &[u8]| refusal(&HelloBuilder::named_without_versions().last(43, body.to_vec()).bytes());
    let list = "list of supported versions";
    assert_eq!(versions(&[]), Refusal::EmptyList(list));
    assert_eq!(versions(&[0]), Refusal::EmptyList(list));
    assert_eq!(versions(&[3, 3, 4]), Refusal::CutShort(list));
    assert_eq!(versions(&[3, 3, 4, 3]), Refusal::OddList(list));
    assert_eq!(versions(&[2, 3, 4, 3]), Refusal::TrailingBytes(list));
}

#[test]
fn server_name_lists_that_can_be_read_in_two_ways_are_refused() {
    let with = |body: &[u8]| refusal(&HelloBuilder::nameless().last(0, body.to_vec()).bytes());
    let list = "server name list";
    assert_eq!(with(&[0]), Refusal::CutShort(list));
    assert_eq!(with(&[0, 4, 0, 0, 2, b'a']), Refusal::CutShort("server name"));
    assert_eq!(with(&[0, 5, 0, 0, 1, b'a', 0]), Refusal::CutShort("server name"));
    assert_eq!(with(&[0, 5, 0, 0, 1, b'a', 7]), Refusal::NameType(7));
    assert_eq!(with(&[0, 3, 0, 0, 1, b'a']), Refusal::TrailingBytes(list));
    assert_eq!(with(&[0, 9, 0, 0, 1, b'a']), Refusal::CutShort(list));
    assert_eq!(with(&sni_list(&[(0, b"a"), (1, b"b")])), Refusal::NameType(1));
    assert_eq!(with(&sni_list(&[(0, b"a"), (0, b"a")])), Refusal::TwoServerNames);
}

#[test]
fn a_message_cut_short_anywhere_inside_is_refused() {
    // With a length that matches, only the fields themselves can tell. A hello may end after the compression
    // methods: then it has no extensions.
    let whole = HelloBuilder::new("a.global").message();
    let body = &whole[4..];
    let no_extensions = 2 + 32 + 1 + 32 + 2 + 6 + 1 + 1;
    for length in 0..body.len() {
        let refusal = refusal(&record(&[vec![1], with_length(3, &body[..length])].concat()));
        if length == no_extensions {
            assert_eq!(refusal, Refusal::NoServerName);
        } else {
            assert_eq!(refusal.reason(), "cut_short", "{length}: {refusal}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_their_pieces_do_not_matter(
        bytes in arbitrary_flight(), cuts in proptest::collection::vec(1_usize..40, 1..20),
    ) {
        let whole = inspect_pieces(1000, [&bytes[..]]);
        prop_assert_eq!(&inspect_pieces(1000, bytes.chunks(1)), &whole);
        let mut inspector = Inspector::new(1000);
        let mut rest = bytes.as_slice();
        let mut sizes = cuts.into_iter().cycle();
        let mut answer = Ok(None);
        while let (false, Ok(None), Some(size)) = (rest.is_empty(), &answer, sizes.next()) {
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            inspector.push(piece);
            rest = behind;
            answer = inspector.advance();
        }
        prop_assert_eq!(answer, whole);
    }
}

/// Bytes that get past the first checks often enough: noise, noise in records, and good hellos with a few bytes changed.
fn arbitrary_flight() -> impl Strategy<Value = Vec<u8>> {
    let noise = || proptest::collection::vec(any::<u8>(), 0..300);
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
    let hello = (changes, 1_usize..400).prop_map(|(changes, size)| {
        let mut message = HelloBuilder::new("a.global").last(16, alpn(&[b"istio"])).message();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        records(&message, size)
    });
    let framed = (noise(), 1_usize..300)
        .prop_map(|(noise, size)| records(&[vec![1], with_length(3, &noise)].concat(), size));
    prop_oneof![noise(), framed, hello]
}

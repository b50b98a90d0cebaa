//! What we make of the inputs that other gateways were measured with: every row of the comparison that concerns the
//! ClientHello, by the name it has there. Whether a name has a route is the table's business, not the reader's: what
//! is "A" or "B" there is "routed by this name" here, and the rows in which others guess are refusals with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's panic is its report")]

use eastgate::client_hello::{DEFAULT_MAX_MESSAGE, MAX_MAX_MESSAGE};

#[allow(dead_code, reason = "each test program uses another part")]
#[path = "support/client_hello.rs"]
mod support;

use support::{HelloBuilder, record, records, sni_list, with_length};

#[path = "support/peers.rs"]
mod peers;

use peers::{GOOD, OTHER, Row, Then, Verdict, check, good, in_segments, refused, routed};

/// The hello with the record's version changed.
fn record_version(version: u16) -> Vec<u8> {
    let mut bytes = good().bytes();
    bytes[1..3].copy_from_slice(&version.to_be_bytes());
    bytes
}

fn legacy_version(version: u16) -> Vec<u8> {
    HelloBuilder { legacy_version: version, ..good() }.bytes()
}

fn followed_by(mut bytes: Vec<u8>, more: usize) -> Vec<u8> {
    let application_data = [&[23, 3, 3, 0x10, 0][..], &[0xaa; 4096]].concat();
    bytes.extend(application_data.iter().cycle().take(more));
    bytes
}

fn ech_outer() -> Vec<u8> {
    [&[0, 0, 1, 0, 1, 7, 0, 32][..], &[3; 32], &with_length(2, &[4; 144])].concat()
}

fn greased() -> HelloBuilder {
    let mut hello = good().first(0x2a2a, vec![]).last(0xfafa, vec![0]);
    hello.ciphers.splice(0..0, [0x3a, 0x3a]);
    hello
}

/// The key shares of a client that offers X25519MLKEM768 and X25519.
fn post_quantum() -> HelloBuilder {
    let shares = [
        [vec![0x11, 0xec], with_length(2, &[9; 1216])].concat(),
        [vec![0, 29], with_length(2, &[8; 32])].concat(),
    ];
    let mut hello = good();
    hello.extensions.as_mut().unwrap().retain(|(kind, _)| *kind != 51);
    hello.last(51, with_length(2, &shares.concat())).sized(1_700, true)
}

fn named(name: impl AsRef<[u8]>) -> Vec<u8> {
    HelloBuilder::new(name).bytes()
}

fn with_sni(body: Vec<u8>) -> Vec<u8> {
    HelloBuilder::nameless().first(0, body).bytes()
}

fn under_wild(length: usize) -> String {
    let tail = ".wild.example";
    let labels = format!("{}.", "a".repeat(60)).repeat(20);
    let head = labels.trim_end_matches('.');
    format!("{}{tail}", &head[head.len() + tail.len() - length..])
}

#[test]
fn whatever_a_tls_server_would_accept_is_routed() {
    let mut tls12 = good();
    tls12.extensions.as_mut().unwrap().retain(|(kind, _)| !matches!(kind, 43 | 51));
    let mut tls10 = tls12.clone();
    tls10.legacy_version = 0x0301;
    let sni_after_ech =
        HelloBuilder::nameless().last(0xfe0d, ech_outer()).last(0, sni_list(&[(0, GOOD.as_bytes())]));
    check(
        vec![
            routed("TLS1.3 hello, SNI good.example", good().bytes(), GOOD),
            routed("TLS1.2-only hello (no supported_versions)", tls12.bytes(), GOOD),
            routed("TLS1.0 hello legacy_version 0x0301", tls10.bytes(), GOOD),
            routed("SNI x.wild.example (wildcard route)", named("x.wild.example"), "x.wild.example"),
            routed("SNI other.example, not configured", named(OTHER), OTHER),
            routed("record version 0x0300", record_version(0x0300), GOOD),
            routed("record version 0x0302", record_version(0x0302), GOOD),
            routed("record version 0x0303", record_version(0x0303), GOOD),
            routed("record version 0x0304", record_version(0x0304), GOOD),
            routed("record version 0x03ff", record_version(0x03ff), GOOD),
            routed("legacy_version 0x0300 in hello", legacy_version(0x0300), GOOD),
            routed("legacy_version 0x0304 in hello", legacy_version(0x0304), GOOD),
            routed("legacy_version 0x7f7f in hello", legacy_version(0x7f7f), GOOD),
            routed("GREASE cipher + exts", greased().bytes(), GOOD),
            routed(
                "ECH outer (0xfe0d), outer SNI good.example",
                good().last(0xfe0d, ech_outer()).bytes(),
                GOOD,
            ),
            routed("ECH outer, SNI after ECH", sni_after_ech.bytes(), GOOD),
            routed(
                "hello + 8 KB of app-data records in the same write",
                followed_by(good().bytes(), 8 << 10),
                GOOD,
            ),
            routed("hello + 60 KB more in the same write", followed_by(good().bytes(), 60 << 10), GOOD),
            routed("hello + 1 MB at once", followed_by(good().bytes(), 1 << 20), GOOD),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn any_split_into_segments_and_records_is_routed() {
    let hello = good().bytes();
    let message = good().message();
    let half = hello.len() / 2;
    let inside_name = message.windows(4).position(|bytes| bytes == b"good").unwrap() + 5;
    let (head, tail) = message.split_at(inside_name);
    let in_two = records(&message, message.len() / 2 + 1);
    check(
        vec![
            in_segments(
                "X25519MLKEM768 hello (~1.7 KiB) in 2 segments, 50 ms apart",
                &post_quantum().bytes(),
                1_448,
            ),
            in_segments("one byte per TCP segment, 1 ms apart", &hello, 1),
            Row {
                segments: vec![hello[..5].to_vec(), hello[5..].to_vec()],
                ..routed("first 5 bytes, 300 ms, rest", vec![], GOOD)
            },
            in_segments("two halves 1 s apart", &hello, half + 1),
            routed("hello over 2 TLS records (one segment)", in_two.clone(), GOOD),
            routed("2 records, split inside the SNI name", [record(head), record(tail)].concat(), GOOD),
            routed("hello over 100-byte records", records(&message, 100), GOOD),
            in_segments("2 records in 2 segments 100 ms apart", &in_two, message.len() / 2 + 1 + 5),
            routed("zero-length handshake record, then hello", [record(&[]), hello.clone()].concat(), GOOD),
            routed("hello over 1-byte TLS records", records(&message, 1), GOOD),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn what_is_not_tls_is_refused_at_once() {
    let hello = || good().bytes();
    let noise: Vec<u8> = (0..64_u32).map(|n| (n * 167 + 91) as u8).collect();
    let ssl2 = [&[0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[7; 37]].concat();
    let proxy2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[127, 0, 0, 1, 127, 0, 0, 1, 1, 2, 3, 4]].concat();
    let proxy1 = b"PROXY TCP4 127.0.0.1 127.0.0.1 4000 443\r\n";
    check(
        vec![
            refused(
                "plain HTTP request",
                b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n".to_vec(),
                "http",
                10,
            ),
            refused("64 random-ish non-TLS bytes", noise, "not_tls", 10),
            refused("record version 0x0200", record_version(0x0200), "record_version", 70),
            refused("record version 0x0400", record_version(0x0400), "record_version", 70),
            refused(
                "PROXY v1 header (not enabled) then hello",
                [&proxy1[..], &hello()].concat(),
                "proxy_header",
                10,
            ),
            refused(
                "PROXY v2 header (not enabled) then hello",
                [proxy2, hello()].concat(),
                "proxy_header",
                10,
            ),
            refused("SSLv2-compatible ClientHello", ssl2, "sslv2", 70),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn records_that_are_no_client_hello_are_refused_at_once() {
    let hello = || good().bytes();
    let overflow = [&[22, 3, 1][..], &with_length(2, &good().sized(20_000, false).message())].concat();
    check(
        vec![
            refused(
                "0x16 0x03 0x01 then junk handshake type 0x99",
                record(&[0x99, 0, 0, 2, 1, 1]),
                "handshake_type",
                10,
            ),
            refused(
                "TLS application_data record first",
                vec![23, 3, 3, 0, 4, 1, 2, 3, 4],
                "application_data",
                10,
            ),
            refused(
                "ServerHello handshake type (2) as first record",
                record(&[2, 0, 0, 2, 3, 3]),
                "handshake_type",
                10,
            ),
            refused(
                "TLS alert record first, then hello",
                [vec![21, 3, 3, 0, 2, 1, 0], hello()].concat(),
                "alert",
                10,
            ),
            refused(
                "TLS1.3 dummy CCS record first, then hello",
                [vec![20, 3, 3, 0, 1, 1], hello()].concat(),
                "change_cipher_spec",
                10,
            ),
            refused(
                "record header claims 65535 bytes, 20 sent, silence",
                [&[22, 3, 1, 0xff, 0xff, 1][..], &[0; 19]].concat(),
                "record_overflow",
                22,
            ),
            refused(
                "handshake len 0xffffff in a small record, silence",
                record(&[1, 0xff, 0xff, 0xff, 3, 3]),
                "too_large",
                47,
            ),
            refused("20000-B hello in ONE oversize record (>2^14)", overflow, "record_overflow", 22),
            refused(
                "hello and a second handshake msg in same record",
                record(&[good().message(), vec![20, 0, 0, 1, 0]].concat()),
                "message_after_hello",
                10,
            ),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn slow_and_broken_off_hellos_end_at_the_deadline_or_the_close() {
    let late = |name, bytes: Vec<u8>, then, reason| {
        let expected = Verdict::AtDeadline(reason, bytes.len());
        Row { name, segments: bytes.chunks(1).map(<[u8]>::to_vec).collect(), then, expected }
    };
    let half = || good().bytes()[..80].to_vec();
    check(
        vec![
            late("record header length 0 only, then silence", record(&[]), Then::Silence, "too_slow"),
            late("connect, send nothing", vec![], Then::Silence, "too_slow"),
            late("1 byte each 400 ms until cut", half(), Then::Silence, "too_slow"),
            late("first half of hello then silence", half(), Then::Silence, "too_slow"),
            late("first half of hello then FIN", half(), Then::Fin, "closed_early"),
            late("connect then FIN at once", vec![], Then::Fin, "closed_unused"),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn large_hellos_are_routed_up_to_the_limit() {
    let sized = |name, size, name_first| routed(name, good().sized(size, name_first).bytes(), GOOD);
    let fits = vec![
        sized("hello 4096 B, one record, SNI first", 4096, true),
        sized("hello 4096 B, one record, SNI last", 4096, false),
        sized("hello 8000 B, one record, SNI first", 8000, true),
        sized("hello 8000 B, one record, SNI last", 8000, false),
        sized("hello 12000 B, one record, SNI first", 12_000, true),
        sized("hello 12000 B, one record, SNI last", 12_000, false),
        sized("hello 16000 B, one record, SNI first", 16_000, true),
        sized("hello 16000 B, one record, SNI last", 16_000, false),
        sized("handshake exactly 16384 B, one record, SNI last", 16_384, false),
        sized("hello 17000 B over 16 KiB records, SNI first", 17_000, true),
        sized("hello 17000 B over 16 KiB records, SNI last", 17_000, false),
        sized("hello 32000 B over 16 KiB records, SNI first", 32_000, true),
        sized("hello 32000 B over 16 KiB records, SNI last", 32_000, false),
        sized("hello 60000 B over 16 KiB records, SNI first", 60_000, true),
        sized("hello 60000 B over 16 KiB records, SNI last", 60_000, false),
    ];
    check(fits, DEFAULT_MAX_MESSAGE);
    let larger = || {
        vec![
            sized("hello ~70 KB, SNI first", 70_000, true),
            sized("hello ~70 KB, SNI last", 70_000, false),
            sized("hello ~120 KB, SNI last", 120_000, false),
        ]
    };
    check(larger(), MAX_MAX_MESSAGE);
    let too_large = larger().into_iter().map(|row| Row { expected: Verdict::Refuse("too_large", 47), ..row });
    check(too_large.collect(), DEFAULT_MAX_MESSAGE);
}

#[test]
fn names_are_canonical_or_refused() {
    let subset = "outbound_.443_._.svc.ns.svc.cluster.local.wild.example";
    let longest = under_wild(255);
    check(
        vec![
            routed("SNI GOOD.EXAMPLE", named("GOOD.EXAMPLE"), GOOD),
            routed("SNI X.Wild.Example", named("X.Wild.Example"), "x.wild.example"),
            routed("SNI good.example. (trailing dot)", named("good.example."), GOOD),
            routed(
                "SNI a.b.wild.example (2 labels under wildcard)",
                named("a.b.wild.example"),
                "a.b.wild.example",
            ),
            routed("SNI outbound_.443_._.svc.ns.svc.cluster.local-like under wild", named(subset), subset),
            routed("SNI 255 bytes under wild", named(&longest), &longest),
            refused("SNI 256 bytes under wild", named(under_wild(256)), "name_too_long", 112),
            refused("SNI 1000 bytes under wild", named(under_wild(1000)), "name_too_long", 112),
            refused(
                "label of 64 bytes under wild",
                named("a".repeat(64) + ".wild.example"),
                "name_label_too_long",
                112,
            ),
            refused("SNI .good.example", named(".good.example"), "name_empty_label", 112),
            refused("SNI .wild.example (empty label)", named(".wild.example"), "name_empty_label", 112),
            refused("SNI x..wild.example", named("x..wild.example"), "name_empty_label", 112),
            refused("SNI *.wild.example", named("*.wild.example"), "name_bad_byte", 112),
            refused("SNI 127.0.0.1", named("127.0.0.1"), "name_ip_literal", 112),
            refused("SNI ::1", named("::1"), "name_ip_literal", 112),
            refused("SNI with 0xff bytes", named(b"good\xff\xff.example"), "name_bad_byte", 112),
            refused("SNI in UTF-8", named("bücher.example"), "name_bad_byte", 112),
            refused("SNI with space", named("good .example"), "name_bad_byte", 112),
            refused("SNI good.example:443", named("good.example:443"), "name_bad_byte", 112),
            refused("SNI with ESC and quote", named("x\x1b\".wild.example"), "name_bad_byte", 112),
            refused("SNI with newline", named("x\nfake log line.wild.example"), "name_bad_byte", 112),
            refused("SNI good.example\\0.evil", named("good.example\0.evil"), "name_bad_byte", 112),
            refused("SNI good.example\\0", named("good.example\0"), "name_bad_byte", 112),
            refused("SNI zero-length host_name", named(""), "name_empty", 50),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn a_hello_without_exactly_one_server_name_is_refused() {
    let bare = HelloBuilder { extensions: None, ..HelloBuilder::nameless() };
    let ech = HelloBuilder::nameless().last(0xfe0d, ech_outer());
    let (good_name, other_name) = ((0, GOOD.as_bytes()), (0, OTHER.as_bytes()));
    let two = |first, second| with_sni(sni_list(&[first, second]));
    let twice = |first, second: &[u8]| HelloBuilder::new(first).last(0, sni_list(&[(0, second)])).bytes();
    let name = "two host_names in the list: good,other";
    check(
        vec![
            refused("no SNI extension", HelloBuilder::nameless().bytes(), "no_server_name", 109),
            refused("hello without extensions block", bare.bytes(), "no_server_name", 109),
            refused("ECH outer without SNI", ech.bytes(), "no_server_name", 109),
            refused("SNI ext with empty list", with_sni(vec![0, 0]), "empty_list", 50),
            refused("SNI ext with zero-length body", with_sni(vec![]), "empty_list", 50),
            refused("only name_type 1 entry", with_sni(sni_list(&[(1, GOOD.as_bytes())])), "name_type", 47),
            refused("name_type 1 then host_name", two((1, b"x"), good_name), "name_type", 47),
            refused(name, two(good_name, other_name), "two_server_names", 47),
            refused(
                "two host_names in the list: other,good",
                two(other_name, good_name),
                "two_server_names",
                47,
            ),
            refused(
                "duplicate SNI extensions: good, other",
                twice(GOOD, OTHER.as_bytes()),
                "two_server_names",
                47,
            ),
            refused(
                "duplicate SNI extensions: other, good",
                twice(OTHER, GOOD.as_bytes()),
                "two_server_names",
                47,
            ),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

#[test]
fn lengths_that_do_not_add_up_are_refused() {
    let garbage = [sni_list(&[(0, GOOD.as_bytes())]), vec![1, 2, 3]].concat();
    let overrun = [&with_length(2, &[&[0, 0, 99][..], GOOD.as_bytes()].concat())[..]].concat();
    let mut extensions_overrun = good().message();
    let at = 4 + 2 + 32 + 1 + 32 + 2 + 6 + 1 + 1;
    extensions_overrun[at + 1] += 9;
    let groups_twice = good().last(10, vec![0, 2, 0, 29]);
    let broken = |change: fn(&mut HelloBuilder)| {
        let mut hello = good();
        change(&mut hello);
        hello.bytes()
    };
    check(
        vec![
            refused("host_name length overruns list", with_sni(overrun), "cut_short", 50),
            refused("extensions length overruns the message", record(&extensions_overrun), "cut_short", 50),
            refused("odd cipher list length", broken(|hello| hello.ciphers.push(0)), "odd_list", 50),
            refused("trailing garbage inside SNI ext", with_sni(garbage), "trailing_bytes", 50),
            refused(
                "8 junk bytes after extensions inside hello",
                broken(|hello| hello.junk = vec![0; 8]),
                "trailing_bytes",
                50,
            ),
            refused(
                "duplicate non-SNI extension (groups twice)",
                groups_twice.bytes(),
                "duplicate_extension",
                47,
            ),
            refused(
                "33-byte session id (illegal)",
                broken(|hello| hello.session_id = vec![0; 33]),
                "session_id",
                50,
            ),
            refused("empty cipher list", broken(|hello| hello.ciphers.clear()), "empty_list", 50),
            refused("empty compression list", broken(|hello| hello.compression.clear()), "empty_list", 50),
        ],
        DEFAULT_MAX_MESSAGE,
    );
}

use super::super::tests::support::{HelloBuilder, alpn, with_length};
use super::*;

/// Builds the hello that a published raw fingerprint (`JA4_ro` or `JA4_r`) describes, with GREASE thrown in.
fn of_raw(raw: &str) -> String {
    let [head, ciphers, extensions, signatures] = raw.split('_').collect::<Vec<_>>()[..] else {
        panic!("{raw}")
    };
    let numbers = |list: &str| -> Vec<u16> {
        list.split(',').filter(|n| !n.is_empty()).map(|n| u16::from_str_radix(n, 16).unwrap()).collect()
    };
    let bytes =
        |list: &str| [0x5a5a].into_iter().chain(numbers(list)).flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    let body = |kind: u16| match kind {
        SIGNATURE_ALGORITHMS => with_length(2, &bytes(signatures)),
        ALPN => alpn(&[b"h2", b"http/1.1"]),
        SUPPORTED_VERSIONS => with_length(1, &[0x7a, 0x7a, 3, 3, 3, 4]),
        _ => vec![],
    };
    let mut kinds = numbers(extensions);
    // The sorted form leaves these out.
    let missing = [(head.starts_with("t13d"), SERVER_NAME), (head.ends_with("h2"), ALPN)];
    kinds.extend(
        missing.iter().filter(|(is, kind)| *is && !numbers(extensions).contains(kind)).map(|(_, kind)| *kind),
    );
    kinds.push(0x0a0a);
    let mut hello = HelloBuilder::nameless();
    hello.ciphers = bytes(ciphers);
    hello.extensions = Some(kinds.into_iter().map(|kind| (kind, body(kind))).collect());
    fingerprint(&hello.message()).unwrap()
}

#[test]
fn the_example_of_the_rules_has_the_fingerprint_given_there() {
    let raw = "t13d1516h2_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035_001b,0000,0033,\
               0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015_0403,0804,0401,0503,0805,0501,0806,0601";
    assert_eq!(of_raw(raw), "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

#[test]
fn a_post_quantum_chrome_has_its_published_fingerprint() {
    let raw = "t13d1516h2_002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9_0005,000a,000b,\
               000d,0012,0017,001b,0023,002b,002d,0033,44cd,fe0d,ff01_0403,0804,0401,0503,0805,0501,0806,0601";
    assert_eq!(of_raw(raw), "t13d1516h2_8daaf6152771_d8a2da3f94cd");
}

#[test]
fn without_signature_algorithms_no_underscore_is_hashed() {
    let list = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01";
    assert_eq!(short_hash(list), "6d807ffa2a79");
}

#[test]
fn odd_protocols_are_shown_as_the_rules_say() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "00"),
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"0\xab", "3b"),
        (b"01\xab\xcd", "3d"),
        (b"0\xab\xcd1", "01"),
        (b" ", "20"),
        (b" a", "21"),
        (b"a ", "60"),
    ];
    for (alpn, shown) in cases {
        assert_eq!(protocol(alpn), shown, "{alpn:?}");
    }
}

#[test]
fn empty_lists_are_zeros_and_long_ones_count_as_99() {
    let mut hello = HelloBuilder::nameless();
    hello.legacy_version = 0x0302;
    hello.extensions = None;
    assert!(fingerprint(&hello.message()).unwrap().starts_with("t11i030000_"));
    assert!(fingerprint(&hello.message()).unwrap().ends_with("_000000000000"));
    hello.ciphers = vec![0x2a, 0x2a];
    assert_eq!(fingerprint(&hello.message()).unwrap(), "t11i000000_000000000000_000000000000");
    hello.ciphers = (0..240).collect();
    assert!(fingerprint(&hello.message()).unwrap().starts_with("t11i99"));
    assert_eq!(fingerprint(b"no hello"), None);
}

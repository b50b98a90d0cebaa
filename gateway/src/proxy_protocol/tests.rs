use proptest::prelude::*;

use super::*;

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, body].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];

fn header_of(ends: Option<(SocketAddr, SocketAddr)>, length: usize) -> Verdict {
    Verdict::Header(Told::of(ends), length)
}

fn ends() -> Option<(SocketAddr, SocketAddr)> {
    Some(("192.0.2.1:56324".parse().unwrap(), "192.0.2.2:443".parse().unwrap()))
}

#[test]
fn both_versions_name_the_client() {
    let one = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n\x16\x03\x01";
    assert_eq!(parse(one), Ok(header_of(ends(), one.len() - 3)));
    let six = b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n";
    let expected = Some(("[2001:db8::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()));
    assert_eq!(parse(six), Ok(header_of(expected, six.len())));
    let two = v2(0x21, 0x11, V4);
    assert_eq!(parse(&two), Ok(header_of(ends(), two.len())));
    let with_tlvs = v2(0x21, 0x11, &[V4, &[4, 0, 1, 9, 0xea, 0, 0]].concat());
    assert_eq!(parse(&with_tlvs), Ok(header_of(ends(), with_tlvs.len())));
}

#[test]
fn a_load_balancers_own_connection_names_nobody() {
    for header in
        [v2(0x20, 0x00, &[]), v2(0x20, 0x11, &[1]), v2(0x21, 0x00, &[7, 7]), v2(0x21, 0x31, &[0; 216])]
    {
        assert_eq!(parse(&header), Ok(header_of(None, header.len())));
    }
    assert_eq!(parse(b"PROXY UNKNOWN what ever\r\n"), Ok(header_of(None, 25)));
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "PROXY TCP4 999.1.2.3 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Error::Version1), "{line}");
    }
    assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 120]].concat()), Err(Error::Version1));
    assert_eq!(parse(&v2(0x31, 0x11, V4)), Err(Error::Version2(0x31, 0x11)));
    assert_eq!(parse(&v2(0x21, 0x12, V4)), Err(Error::Version2(0x21, 0x12)));
    assert_eq!(parse(&v2(0x21, 0x11, &V4[1..])), Err(Error::Length));
    assert_eq!(parse(&v2(0x21, 0x11, &[V4, &[4, 0, 2, 9]].concat())), Err(Error::Length));
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 60_000])), Err(Error::TooLong(60_016)));
}

#[test]
fn other_protocols_have_no_header() {
    for bytes in [&b"\x16\x03\x01"[..], b"GET /", b"PROXIES", b"\r\n\r\nGET"] {
        assert_eq!(parse(bytes), Ok(Verdict::Absent));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(source: SocketAddr, destination: SocketAddr, v2_form: bool) {
        let version = if v2_form { ProxyVersion::V2 } else { ProxyVersion::V1 };
        let header = header(version, (source, destination), Some("a.b"), None);
        let Ok(Verdict::Header(Told { ends: Some(read), tlvs }, length)) = parse(&header) else { panic!("{header:?}") };
        prop_assert_eq!(length, header.len());
        prop_assert_eq!(tlvs.authority.as_deref(), v2_form.then_some("a.b"));
        let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
        prop_assert_eq!(canonical(read.0), canonical(source));
        prop_assert_eq!(canonical(read.1), canonical(destination));
    }

    #[test]
    fn every_prefix_of_a_header_needs_more_and_what_follows_changes_nothing(
        tail in prop::collection::vec(any::<u8>(), 0..40), v2_form: bool,
    ) {
        let header =
            if v2_form { v2(0x21, 0x11, V4) } else { b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec() };
        for end in 0..header.len() {
            prop_assert_eq!(parse(&header[..end]), Ok(Verdict::NeedMore));
        }
        prop_assert_eq!(parse(&[&header[..], &tail].concat()), Ok(header_of(ends(), header.len())));
    }

    #[test]
    fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..3) {
        match start {
            0 => { bytes.splice(0..0, *SIGNATURE); }
            1 => { bytes.splice(0..0, V1_START.iter().copied()); }
            _ => {}
        }
        let _ = parse(&bytes);
    }
}

#[test]
fn a_checksum_is_over_the_whole_header_and_a_changed_bit_is_found() {
    let made = header(ProxyVersion::V2, ends().unwrap(), Some("a.b"), Some(b"h2"));
    let Ok(Verdict::Header(told, length)) = parse(&made) else { panic!("{made:02x?}") };
    assert_eq!((told.tlvs.authority.as_deref(), told.tlvs.alpn.as_deref()), (Some("a.b"), Some(&b"h2"[..])));
    assert_eq!(length, made.len());
    for at in 16..made.len() {
        let mut changed = made.clone();
        changed[at] ^= 1;
        assert!(parse(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn the_values_that_are_used_have_their_limits() {
    let with = |kind: u8, value: &[u8]| {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        parse(&v2(0x21, 0x11, &[V4, &[kind], &length, value].concat()))
    };
    assert_eq!(with(2, &[0xff]), Err(Error::Tlv(2)));
    assert_eq!(with(2, &[b'a'; 256]), Err(Error::Tlv(2)));
    assert_eq!(with(5, &[0; 129]), Err(Error::Tlv(5)));
    assert_eq!(with(3, &[0; 3]), Err(Error::Tlv(3)));
    assert_eq!(with(3, &[0; 4]), Err(Error::Checksum));
    let many = [V4, &[4, 0, 0].repeat(65)].concat();
    assert_eq!(parse(&v2(0x21, 0x11, &many)), Err(Error::Tlv(4)));
    let Ok(Verdict::Header(told, _)) = with(5, b"id-1") else { panic!() };
    assert_eq!(told.tlvs.unique_id.as_deref(), Some(&b"id-1"[..]));
}

//! A PROXY protocol header, or what only looks like one.

#![no_main]

use eastgate_config::cluster::ProxyVersion;
use eastgate_fuzz::proxy_protocol::{MAX_HEADER, Told, Verdict, header, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let verdict = parse(bytes);
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"\x16\x03\x01 and so on");
    match &verdict {
        // With more behind it, it may become anything.
        Ok(Verdict::NeedMore) => assert!(bytes.len() < MAX_HEADER),
        known => assert_eq!(known, &parse(&more)),
    }
    let Ok(Verdict::Header(Told { ends, tlvs }, length)) = verdict else { return };
    assert!(length <= bytes.len());
    let told = tlvs.to_string();
    assert!(!told.contains(['\r', '\n', '\0']), "{told:?} may forge a line of a log");
    let Some(ends) = ends else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = header(version, ends, tlvs.authority.as_deref(), tlvs.alpn.as_deref());
        let Ok(Verdict::Header(again, all)) = parse(&written) else { panic!("not read: {written:?}") };
        assert_eq!((again.ends.is_some(), all), (true, written.len()));
        if version == ProxyVersion::V2 {
            assert_eq!(again.tlvs.authority, tlvs.authority);
        }
    }
});

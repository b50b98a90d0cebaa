//! A PROXY protocol header, or what only looks like one.

#![no_main]

use eastgate_config::cluster::ProxyVersion;
use eastgate_fuzz::proxy_protocol::{Verdict, header, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let verdict = parse(bytes);
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"\x16\x03\x01 and so on");
    match verdict {
        // With more behind it, it may become anything.
        Ok(Verdict::NeedMore) => {}
        known => assert_eq!(known, parse(&more)),
    }
    let Ok(Verdict::Header(ends, length)) = verdict else { return };
    assert!(length <= bytes.len());
    let Some((source, destination)) = ends else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = header(version, source, destination);
        assert!(matches!(parse(&written), Ok(Verdict::Header(Some(_), all)) if all == written.len()));
    }
});

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::names::certificate_is_for;

#[test]
fn mesh_names_wildcards_addresses_and_spiffe_uris_all_fit_one_certificate() {
    let names = [
        "outbound_.8000_._.httpbin.bar.global",
        "*.bar.svc.cluster.local",
        "127.0.0.1",
        "spiffe://cluster.local/ns/bar/sa/httpbin",
    ];
    let identity = Ca::new().unwrap().issue(&names).unwrap();
    let leaf = &identity.chain()[0];
    for name in names.iter().filter(|name| !name.starts_with('*')) {
        assert!(certificate_is_for(leaf, name), "{name}");
    }
    assert!(certificate_is_for(leaf, "httpbin.bar.svc.cluster.local"));
    assert!(certificate_is_for(leaf, "OUTBOUND_.8000_._.httpbin.bar.global"));
    assert!(!certificate_is_for(leaf, "httpbin.foo.svc.cluster.local"));
    assert!(!certificate_is_for(leaf, "127.0.0.2"));
    assert_eq!(identity.names(), [names[0], names[1], names[3]]);
}

#[test]
fn a_name_longer_than_a_common_name_may_be_is_still_issued() {
    let name = format!("outbound_.8000_._.{}.bar.global", "x".repeat(63));
    let identity = Ca::new().unwrap().issue(&[&name]).unwrap();
    assert!(certificate_is_for(&identity.chain()[0], &name));
}

#[test]
fn names_that_webpki_cannot_read_are_refused_by_name() {
    let ca = Ca::new().unwrap();
    for name in
        ["outbound|8000||httpbin.bar.svc.cluster.local", "", "a..b", "*", "bücher.example", "a*.example"]
    {
        let error = ca.issue(&["good.example", name]).unwrap_err();
        assert!(matches!(&error, Error::Name(named) if named == name), "{name}: {error}");
    }
}

#[test]
fn a_ca_in_a_directory_is_made_once_and_its_certificates_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/for/me");
    let first = Ca::load_or_create(&dir).unwrap();
    let second = Ca::load_or_create(&dir).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    assert!(first.verifies(&second.issue(&["a.example"]).unwrap()));
    assert!(second.verifies(&first.issue(&["a.example"]).unwrap()));
    assert_eq!(roots_from_file(&dir.join(CERTIFICATE_FILE)).unwrap().len(), 1);
    assert_eq!(fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn two_authorities_do_not_vouch_for_each_other_though_they_have_one_name() {
    let (ours, theirs) = (Ca::new().unwrap(), Ca::new().unwrap());
    assert!(!ours.verifies(&theirs.issue(&["a.example"]).unwrap()));
}

#[test]
fn processes_that_start_at_once_share_one_ca() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Ca::load_or_create(dir.path()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().certificate_pem().to_owned()).collect()
    });
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn half_a_ca_and_a_mixed_pair_are_refused_with_what_to_do() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Ca::load_or_create(one.path()).unwrap();
    Ca::load_or_create(two.path()).unwrap();
    fs::copy(one.path().join(KEY_FILE), two.path().join(KEY_FILE)).unwrap();
    let error = Ca::load_or_create(two.path()).unwrap_err();
    assert!(matches!(error, Error::Pair(_)) && error.to_string().contains("delete both"), "{error}");
    fs::remove_file(one.path().join(CERTIFICATE_FILE)).unwrap();
    let error = Ca::load_or_create(one.path()).unwrap_err();
    assert!(matches!(error, Error::Half(_)) && error.to_string().contains("bring back"), "{error}");
}

#[test]
fn a_file_without_a_certificate_is_no_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.pem");
    fs::write(&path, "hello").unwrap();
    assert!(matches!(roots_from_file(&path), Err(Error::Pem { .. })));
    assert!(matches!(roots_from_file(&dir.path().join("none.pem")), Err(Error::File { .. })));
}

#[test]
fn an_identity_is_written_as_pem_but_never_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let identity = Ca::new().unwrap().issue(&["a.example"]).unwrap();
    identity.write_pem(&chain, &key).unwrap();
    assert_eq!(CertificateDer::from_pem_file(&chain).unwrap(), identity.chain()[0]);
    assert_eq!(PrivateKeyDer::from_pem_file(&key).unwrap(), identity.key());
    assert!(matches!(identity.write_pem(&chain, &key), Err(Error::File { .. })));
}

//! The names that a certificate holds: DNS names, IP addresses and URIs such as
//! `spiffe://cluster.local/ns/bar/sa/httpbin`.
//!
//! Mesh clients do not look for the server name in the certificate: `outbound_.8000_._.httpbin.bar.global` says where
//! to go, the SPIFFE URI says who answers. So a name is matched by what it looks like, not by where it came from.

use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

/// The DNS names and URIs of a certificate, in that order; none where the certificate cannot be read.
pub fn certificate_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect()
}

/// Whether the certificate was issued for `expected`: a DNS name, an IP address, a URI, or a URI that ends in `/*`,
/// which stands for every URI below it (`spiffe://cluster.local/*`: every workload of the trust domain).
pub fn certificate_is_for(certificate: &CertificateDer<'_>, expected: &str) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    if is_uri(expected) {
        return certificate.valid_uri_names().any(|uri| uri_is_in(uri, expected));
    }
    ServerName::try_from(expected)
        .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Whether a name is to be read as a URI rather than as a DNS name or address.
pub(crate) fn is_uri(name: &str) -> bool {
    name.contains("://")
}

fn uri_is_in(uri: &str, expected: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => uri.starts_with(prefix),
        _ => uri == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_the_rest_of_a_uri_and_only_after_a_slash() {
        let uri = "spiffe://cluster.local/ns/bar/sa/httpbin";
        assert!(uri_is_in(uri, uri));
        assert!(uri_is_in(uri, "spiffe://cluster.local/*"));
        assert!(uri_is_in(uri, "spiffe://cluster.local/ns/bar/*"));
        assert!(!uri_is_in(uri, "spiffe://cluster.loc*"));
        assert!(!uri_is_in(uri, "spiffe://cluster.local/ns/foo/*"));
        assert!(!uri_is_in("spiffe://cluster.local.evil/x", "spiffe://cluster.local/*"));
    }

    #[test]
    fn bytes_that_are_no_certificate_hold_no_name() {
        let rubbish = CertificateDer::from(vec![1, 2, 3]);
        assert!(certificate_names(&rubbish).is_empty());
        assert!(!certificate_is_for(&rubbish, "example.com"));
    }
}

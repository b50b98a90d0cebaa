//! What is to be done about a TLS error, in the words of people who run a mesh.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// By whose word the other side is believed, and so what is to be looked at when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The mesh's CA.
    Mesh,
    /// Who a DestinationRule names.
    Rule,
}

/// The error with its remedy, where there is one.
pub fn with_remedy(error: io::Error, trust: Trust) -> io::Error {
    let remedy = tls(&error).and_then(|error| match trust {
        Trust::Mesh => remedy(error),
        Trust::Rule => by_rule(error),
    });
    let Some(remedy) = remedy else { return error };
    let error_text = match tls(&error) {
        // What we found out ourselves, which rustls would quote in the words of Rust.
        Some(Error::InvalidCertificate(CertificateError::Other(found))) => found.0.to_string(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{error_text}; {remedy}"))
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Such an error is not about the one endpoint, and would come again.
pub(super) fn is_about_certificates(error: &io::Error) -> bool {
    // What `with_remedy` made has no rustls error inside any more; it is always about more than one connection.
    error.kind() == io::ErrorKind::InvalidData || tls(error).is_some()
}

fn remedy(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidCertificate(why) => Some(certificate(why)),
        Error::NoCertificatesPresented => {
            Some("it showed no certificate: only clients of the mesh may connect")
        }
        Error::AlertReceived(alert) => self::alert(*alert),
        Error::InvalidMessage(_) => Some("it does not speak TLS: is this a port of the mesh?"),
        Error::NoApplicationProtocol => Some("it offers no protocol of the mesh (ALPN istio)"),
        _ => None,
    }
}

/// What a DestinationRule's author can do.
fn by_rule(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => Some(
            "it is from a CA that is not believed: have caCertificates of the DestinationRule name a file with that CA's root \
             (without it, this machine's own roots count)",
        ),
        Error::InvalidCertificate(CertificateError::Revoked) => {
            Some("its certificate is in the list of caCrl: have it replaced")
        }
        Error::InvalidCertificate(CertificateError::Other(_)) => Some(
            "add one of its names to subjectAltNames of the DestinationRule if it may be there, or set sni",
        ),
        Error::InvalidCertificate(CertificateError::InvalidPurpose) => {
            Some("its certificate is none for a server: have another one issued")
        }
        Error::InvalidCertificate(why) => Some(certificate(why)),
        Error::InvalidMessage(_) => Some(
            "it does not speak TLS: is the port right? For plain TCP set tls.mode DISABLE in the DestinationRule",
        ),
        Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        ) => Some("it does not believe our certificate: look at clientCertificate of the DestinationRule"),
        Error::AlertReceived(AlertDescription::CertificateRequired) => Some(
            "it wants a certificate: set tls.mode MUTUAL with clientCertificate and privateKey in the DestinationRule",
        ),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            Some("it says that our certificate has expired: renew clientCertificate, and compare the clocks")
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            Some("it has no such name: look at sni of the DestinationRule")
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure) => Some(
            "it agrees to no protocol or cipher, or wants a certificate (tls.mode MUTUAL in the DestinationRule)",
        ),
        _ => None,
    }
}

fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is from another CA than root-cert.pem: have both sides use certificates of the same mesh"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: have it renewed, and compare the clocks"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks"
        }
        _ => "its certificate is none that a CA should issue: have another one issued",
    }
}

fn alert(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError => {
            Some(
                "it does not believe our certificate, which is from another CA than its root: get cert-chain.pem, key.pem \
             and root-cert.pem of its mesh",
            )
        }
        AlertDescription::CertificateExpired => {
            Some("it says that our certificate has expired: renew it, and compare the clocks")
        }
        AlertDescription::CertificateRequired => Some("it wants a certificate"),
        AlertDescription::AccessDenied => Some("our identity is not allowed there"),
        AlertDescription::UnrecognisedName => Some(
            "the gateway knows no service of this name: look at the ServiceEntry's host and port, and at the gateway's Gateway",
        ),
        AlertDescription::NoApplicationProtocol => Some("it does not agree to ALPN istio"),
        AlertDescription::InternalError => Some("the gateway reaches no endpoint of the service"),
        _ => None,
    }
}

/// Why our own chain cannot be used.
pub(super) fn own_chain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "it is from another CA; get cert-chain.pem, key.pem and root-cert.pem of the same mesh".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("it has expired ({error}); have the mesh's CA issue another, and look at the clock")
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!("it is not valid yet ({error}); look at the clock"),
        error => error.to_string(),
    }
}

//! What is to be done about a TLS error, in the words of people who run a mesh.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// The error with its remedy, where there is one.
pub fn with_remedy(error: io::Error) -> io::Error {
    let Some(remedy) = tls(&error).and_then(remedy) else { return error };
    io::Error::new(error.kind(), format!("{error}; {remedy}"))
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
        _ => "its certificate is none that the mesh's CA would issue",
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

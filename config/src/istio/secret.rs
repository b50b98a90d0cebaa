//! Kubernetes' Secret, as far as it holds keys and certificates: `kubernetes.io/tls`, or an opaque one with Istio's own keys.
//!
//! | | Istio's, which come first | `kubernetes.io/tls` |
//! |---|---|---|
//! | certificate and key | `cert`, `key` | `tls.crt`, `tls.key` |
//! | roots, and revocations of theirs | `cacert`, `crl` | `ca.crt`, `ca.crl` |
//!
//! Nothing of a value is repeated in what is told of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::findings::Findings;
use crate::secrets::Pem;

/// Kubernetes takes no larger one.
const MAX_SECRET: usize = 1 << 20;

/// Reads what matters; a Secret of something else is an empty one.
pub(super) fn parse(value: &Value, findings: &mut Findings) -> Pem {
    let mut get = |key: &str| part(value, key, findings);
    let pair = |certificate: Option<Vec<u8>>, key: Option<Vec<u8>>| certificate.zip(key);
    let shown = pair(get("cert"), get("key")).or_else(|| pair(get("tls.crt"), get("tls.key")));
    let (certificate, key) = shown.unzip();
    let believed = |roots: Option<Vec<u8>>, revocations| roots.map(|roots| (roots, revocations));
    let trusted = believed(get("cacert"), get("crl")).or_else(|| believed(get("ca.crt"), get("ca.crl")));
    let (roots, revocations) = trusted.unzip();
    Pem { certificate, key, roots, revocations: revocations.flatten() }
}

/// A part that is there and not empty. What `stringData` says goes before `data`, as the API server has it.
fn part(value: &Value, key: &str, findings: &mut Findings) -> Option<Vec<u8>> {
    let (field, bytes) = match (&value["stringData"][key], &value["data"][key]) {
        (Value::String(text), _) => (format!("stringData.{key}"), Some(text.clone().into_bytes())),
        (_, Value::String(text)) => {
            let text: String = text.split_ascii_whitespace().collect();
            (format!("data.{key}"), STANDARD.decode(text).ok())
        }
        (Value::Null, Value::Null) => return None,
        _ => (format!("data.{key}"), None),
    };
    let Some(bytes) = bytes else {
        findings.refuse(field, "it is not base64; encode it, or give it in stringData as it is");
        return None;
    };
    if bytes.len() > MAX_SECRET {
        findings
            .refuse(field, format!("it is larger than {MAX_SECRET} bytes, more than Kubernetes would take"));
        return None;
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> (Pem, Findings) {
        let mut findings = Findings::default();
        (parse(value, &mut findings), findings)
    }

    fn texts(pem: &Pem) -> [Option<&str>; 4] {
        [&pem.certificate, &pem.key, &pem.roots, &pem.revocations]
            .map(|part| part.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()))
    }

    #[test]
    fn both_kinds_of_keys_are_read_and_istios_own_come_first() {
        let both = json!({"stringData": {"tls.crt": "a", "tls.key": "b", "ca.crt": "c", "ca.crl": "d"}});
        assert_eq!(texts(&read(&both).0), [Some("a"), Some("b"), Some("c"), Some("d")]);
        let own = json!({"data": {"cert": "YQ==", "key": "Yg==\n", "cacert": "Yw==", "ca.crl": "ZA==", "tls.crt": "eA=="}});
        assert_eq!(texts(&read(&own).0), [Some("a"), Some("b"), Some("c"), None]);
        let halved = json!({"stringData": {"cert": "a", "key": "", "tls.crt": "x", "tls.key": "y"}});
        assert_eq!(texts(&read(&halved).0), [Some("x"), Some("y"), None, None]);
        assert_eq!(texts(&read(&json!({"data": {"password": "!"}})).0), [None; 4]);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field_and_not_by_its_value() {
        for value in [json!({"data": {"tls.key": "hunter2!"}}), json!({"data": {"tls.key": 4_711}})] {
            let (_, findings) = read(&value);
            let (field, reason) = &findings.refusals[0];
            assert_eq!(field, "data.tls.key");
            assert!(
                !reason.contains("hunter2") && !reason.contains("4711") && reason.contains("stringData"),
                "{reason}"
            );
        }
    }
}

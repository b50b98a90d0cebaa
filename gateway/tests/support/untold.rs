//! Secrets, and that nobody tells them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

/// Every way of writing it that would tell it.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(secret).into_owned();
    let numbers: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        text.into_bytes(),
        numbers.join(", ").into_bytes(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ]
}

/// The parts of a private key that tell it: the lines of its PEM, and its bytes.
pub fn key_parts(identity: &eastgate_loadtest::ca::Identity) -> Vec<Vec<u8>> {
    let pem = identity.key_pem();
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).map(|line| line.as_bytes().to_vec());
    // The scalar of P-256 begins behind what is the same in every key.
    lines.chain([identity.key().secret_der()[36..68].to_vec()]).collect()
}

/// Looks for every spelling of these secrets in what was told where.
pub fn assert_untold(told: &[(String, String)], secrets: &[Vec<u8>]) {
    for (place, text) in told {
        for secret in secrets.iter().flat_map(|secret| spellings(secret)) {
            let found = text.as_bytes().windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{place} tells {}", String::from_utf8_lossy(&secret));
        }
    }
}

//! The bearer token: read for every stream, because Kubernetes replaces it every hour or so, and never shown.

use std::fmt;
use std::io;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};

/// A token, ready to be sent.
#[derive(Clone)]
pub(super) struct Token(MetadataValue<Ascii>);

/// Why there is a token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is empty, or has characters in it that no token has.
    #[error("it holds no token")]
    Malformed,
}

impl Token {
    /// Reads it; none where there is no such file, for a gateway that shows a certificate instead.
    pub(super) async fn read(path: &Path) -> Result<Option<Self>, Error> {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Read(error)),
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() || text.contains(char::is_whitespace) {
            return Err(Error::Malformed);
        }
        let mut value = MetadataValue::try_from(format!("Bearer {text}")).map_err(|_| Error::Malformed)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of `authorization`.
    pub(super) fn authorization(self) -> MetadataValue<Ascii> {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_trimmed_and_never_shown() {
        let token = Token::parse("abc.def.ghi\n").unwrap();
        assert!(!format!("{token:?}").contains("abc"));
        let value = token.authorization();
        assert_eq!(value.to_str().unwrap(), "Bearer abc.def.ghi");
        assert!(!format!("{value:?}").contains("abc"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", " \n", "a b", "a\nb", "\u{0}"] {
            assert!(Token::parse(text).is_err(), "{text:?}");
        }
    }
}

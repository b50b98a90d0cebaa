//! From a server name to a cluster: routes, and the rewrite that comes before them.

use std::fmt;

use serde::Serialize;

use crate::server_name::SubsetKey;

/// Where a filter chain sends its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// One cluster, or several of which one is drawn by weight for each connection. Never empty.
    pub clusters: Vec<WeightedCluster>,
    /// The server name itself chooses the cluster, and `clusters` takes what [`ByServerName::cluster_for`] refuses
    /// (Istio's is `BlackHoleCluster`, which has no endpoints).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_server_name: Option<ByServerName>,
}

/// Envoy's `sni_cluster` filter, and Istio's `tcp_cluster_rewrite` after it: the cluster is the one that has the
/// server name for its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ByServerName {
    /// Applied in this order, each to what the one before it made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrites: Vec<Rewrite>,
}

impl ByServerName {
    /// The cluster for a name that the chain's own patterns match.
    ///
    /// Only names of the form `outbound_.PORT_.SUBSET_.HOST` are cluster names here, before and after the rewrites.
    /// A name of any other form would let a client choose among clusters that were never meant for it, such as
    /// `outbound|80||host`, or the gateway's own (CVE-2021-31921).
    pub fn cluster_for(&self, server_name: &str) -> Option<String> {
        SubsetKey::parse(server_name)?;
        let mut name = server_name.to_owned();
        for rewrite in &self.rewrites {
            name = rewrite.apply(&name).unwrap_or(name);
        }
        SubsetKey::parse(&name)?;
        Some(name)
    }
}

/// A cluster and its share of a route's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: String,
    /// Its share; 0 takes none.
    pub weight: u32,
}

impl Route {
    /// Everything to one cluster.
    pub fn to(cluster: impl Into<String>) -> Self {
        Self { clusters: vec![WeightedCluster { name: cluster.into(), weight: 1 }], by_server_name: None }
    }
}

/// Rewrites the server name by which a connection is routed; the bytes that are forwarded stay as they are, because
/// the ClientHello is hashed into the TLS transcript.
///
/// The semantics are those of Istio's `tcp_cluster_rewrite` filter, which ran C++ `std::regex_replace` with the
/// default ECMAScript grammar over the lower-cased name: the pattern is *searched*, *every* match is replaced, and
/// the replacement knows `$1`, `$&`, `` $` ``, `$'` and `$$`.
#[derive(Clone)]
pub struct Rewrite {
    pattern: String,
    replacement: String,
    regex: regress::Regex,
    /// Where the pattern is a plain text at the end of a name and so is what stands for it, that text: every connection
    /// with a `.global` name comes by here, and looking at its end costs a fraction of a search.
    ending: Option<String>,
}

/// A rewrite's pattern is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not an ECMAScript regular expression: {reason}")]
pub struct RewriteError {
    pattern: String,
    reason: String,
}

impl Rewrite {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// The pattern is empty (in Istio's filter that silently switched it off) or not an ECMAScript regular expression.
    pub fn new(pattern: &str, replacement: &str) -> Result<Self, RewriteError> {
        let error = |reason: String| RewriteError { pattern: pattern.into(), reason };
        if pattern.is_empty() {
            return Err(error("it is empty".into()));
        }
        let regex = regress::Regex::new(pattern).map_err(|cause| error(cause.to_string()))?;
        let ending = Some(replacement).filter(|text| !text.contains('$')).and_then(|_| plain_ending(pattern));
        Ok(Self { pattern: pattern.into(), replacement: replacement.into(), regex, ending })
    }

    /// The rewrite that the `.global` names of Istio's multicluster gateways need.
    #[allow(clippy::expect_used)]
    pub fn global_to(cluster_domain: &str) -> Self {
        Self::new(r"\.global$", &format!(".svc.{cluster_domain}")).expect("the pattern is a constant")
    }

    /// The pattern, as it was given.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The replacement, as it was given.
    pub fn replacement(&self) -> &str {
        &self.replacement
    }

    /// The rewritten name, or `None` where nothing matches.
    pub fn apply(&self, name: &str) -> Option<String> {
        match &self.ending {
            Some(ending) => name.strip_suffix(ending.as_str()).map(|head| [head, &self.replacement].concat()),
            None => self.search(name),
        }
    }

    fn search(&self, name: &str) -> Option<String> {
        let mut matches = self.regex.find_iter(name).peekable();
        matches.peek()?;
        let mut written = String::new();
        let mut copied = 0;
        for found in matches {
            written.push_str(&name[copied..found.start()]);
            self.expand(name, &found, &mut written);
            copied = found.end();
        }
        written.push_str(&name[copied..]);
        Some(written)
    }

    /// Appends the replacement for one match, as ECMAScript's `GetSubstitution` has it
    /// (<https://tc39.es/ecma262/#sec-getsubstitution>).
    fn expand(&self, name: &str, found: &regress::Match, written: &mut String) {
        let mut rest = self.replacement.as_str();
        while let Some(at) = rest.find('$') {
            written.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            let (text, used) = match tail.as_bytes() {
                [b'$', ..] => ("$", 1),
                [b'&', ..] => (&name[found.range()], 1),
                [b'`', ..] => (&name[..found.start()], 1),
                [b'\'', ..] => (&name[found.end()..], 1),
                digits => match group_of(digits, found.captures.len()) {
                    Some((group, used)) => (found.group(group).map_or("", |range| &name[range]), used),
                    None => ("$", 0),
                },
            };
            written.push_str(text);
            rest = &tail[used..];
        }
        written.push_str(rest);
    }
}

/// The text that a pattern such as `\.global$` finds at the end of a name, where it finds nothing else: letters, digits,
/// `-`, `_` and escaped dots stand for themselves.
fn plain_ending(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = pattern.strip_suffix('$')?.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => characters.next().filter(|escaped| *escaped == '.')?,
            '-' | '_' => character,
            _ if character.is_ascii_alphanumeric() => character,
            _ => return None,
        });
    }
    Some(text).filter(|text| !text.is_empty())
}

/// The capture group that `$n` or `$nn` names, and how many digits it took: two where the pattern has as many groups.
fn group_of(digits: &[u8], groups: usize) -> Option<(usize, usize)> {
    let digit = |index: usize| {
        digits.get(index).filter(|byte| byte.is_ascii_digit()).map(|byte| usize::from(byte - b'0'))
    };
    let first = digit(0)?;
    let two = digit(1).map(|second| (first * 10 + second, 2));
    two.into_iter().chain([(first, 1)]).find(|(group, _)| (1..=groups).contains(group))
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {:?}", self.pattern, self.replacement)
    }
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        (&self.pattern, &self.replacement) == (&other.pattern, &other.replacement)
    }
}

impl Eq for Rewrite {}

impl Serialize for Rewrite {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Rewrite", 2)?;
        out.serialize_field("pattern", &self.pattern)?;
        out.serialize_field("replacement", &self.replacement)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(pattern: &str, replacement: &str, name: &str) -> String {
        Rewrite::new(pattern, replacement).unwrap().apply(name).unwrap_or_else(|| name.into())
    }

    /// The vectors of `tcp_cluster_rewrite_test.cc` (the first one, an empty pattern, is refused here).
    #[test]
    fn istios_own_vectors_hold() {
        assert!(Rewrite::new("", "").is_err());
        let global = |name| rewritten(r"\.global$", ".svc.cluster.local", name);
        assert_eq!(global("hello.ns1.svc.cluster.local"), "hello.ns1.svc.cluster.local");
        assert_eq!(global("hello.ns1.global"), "hello.ns1.svc.cluster.local");
        assert_eq!(
            rewritten("^.*$", "another.svc.cluster.local", "hello.ns1.global"),
            "another.svc.cluster.local"
        );
    }

    #[test]
    fn only_the_last_suffix_is_rewritten_and_port_and_subset_stay() {
        let global = |name| rewritten(r"\.global$", ".svc.cluster.local", name);
        assert_eq!(
            global("outbound_.8000_._.httpbin.bar.global"),
            "outbound_.8000_._.httpbin.bar.svc.cluster.local"
        );
        assert_eq!(
            global("outbound_.8000_.v1_.httpbin.bar.global"),
            "outbound_.8000_.v1_.httpbin.bar.svc.cluster.local"
        );
        assert_eq!(global("outbound_.80_._.a.global.global"), "outbound_.80_._.a.global.svc.cluster.local");
        assert_eq!(global("x.globalx"), "x.globalx");
    }

    #[test]
    fn looking_at_the_end_finds_what_a_search_finds() {
        let endings = [r"\.global$", "l$", r"\.\.a$", "a-b_$"];
        let names =
            ["a.global", ".global", "global", "a.globall", "a.global.global", "..a", "xa-b_", "", "é.global"];
        for pattern in endings {
            let rewrite = Rewrite::new(pattern, ".x").unwrap();
            assert!(rewrite.ending.is_some(), "{pattern}");
            for name in names {
                assert_eq!(rewrite.apply(name), rewrite.search(name), "{pattern} on {name}");
            }
        }
        for other in ["$", r"\$", "a.b$", "^a$", r"\w$", "(a)$", "a*$", "a|b$", "a", r"a\", "é$"] {
            assert!(plain_ending(other).is_none(), "{other}");
        }
        assert!(Rewrite::new("a$", "[$&]").unwrap().ending.is_none());
    }

    #[test]
    fn every_match_is_replaced_and_the_replacement_is_ecmascript() {
        assert_eq!(rewritten("a", "b", "banana"), "bbnbnb");
        assert_eq!(rewritten(r"(\w+)\.(\w+)", "$2.$1", "a.b"), "b.a");
        assert_eq!(rewritten("b", "[$&|$`|$'|$$|$9|$]", "abc"), "a[b|a|c|$|$9|$]c");
        assert_eq!(rewritten("(a)(x)?", "<$1$2$10>", "a"), "<aa0>");
        assert_eq!(rewritten(".*", "x", "abc"), "xx");
        assert_eq!(rewritten(r"(\w)\1", "-", "aabbc"), "--c");
        assert_eq!(rewritten(r"\.global(?!\.)", ".local", "a.global.global"), "a.global.local");
    }

    #[test]
    fn only_a_name_of_istios_form_chooses_its_own_cluster() {
        let route = ByServerName { rewrites: vec![Rewrite::global_to("cluster.local")] };
        assert_eq!(
            route.cluster_for("outbound_.8000_._.httpbin.bar.global").as_deref(),
            Some("outbound_.8000_._.httpbin.bar.svc.cluster.local")
        );
        for name in
            ["outbound|8000||httpbin.bar.global", "blackholecluster", "xds-grpc", "httpbin.bar.global"]
        {
            assert_eq!(route.cluster_for(name), None, "{name}");
        }
        let escape = ByServerName { rewrites: vec![Rewrite::new("^.*$", "xds-grpc").unwrap()] };
        assert_eq!(escape.cluster_for("outbound_.8000_._.httpbin.bar.global"), None);
    }

    #[test]
    fn a_match_that_is_replaced_by_nothing_is_still_a_match() {
        assert_eq!(Rewrite::new("^.*$", "").unwrap().apply("abc"), Some(String::new()));
        assert_eq!(Rewrite::new("x", "y").unwrap().apply("abc"), None);
    }

    #[test]
    fn a_broken_pattern_says_what_is_wrong() {
        let error = Rewrite::new(r"\.global(", "x").unwrap_err().to_string();
        assert!(error.contains("global(") && error.contains("ECMAScript"), "{error}");
    }
}

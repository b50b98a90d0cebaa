//! `exportTo`: which namespaces may see a resource.

use super::findings::Findings;
use super::schema::Labels;

/// The annotation (and, since Istio 1.2x, the label) that does for a Kubernetes Service what `exportTo` does elsewhere.
const ANNOTATION: &str = "networking.istio.io/exportTo";

/// Which namespaces may see a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Export {
    /// Every namespace.
    #[default]
    Everywhere,
    /// These.
    To(Vec<String>),
}

impl Export {
    /// Reads `exportTo`; `.` is the resource's own namespace and `~` is none.
    pub(super) fn parse(list: &[String], namespace: &str, field: &str, findings: &mut Findings) -> Self {
        if list.is_empty() || list.iter().any(|entry| entry == "*") {
            return Self::Everywhere;
        }
        let mut namespaces = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            match entry.as_str() {
                "." => namespaces.push(namespace.to_owned()),
                "~" => {}
                name if is_namespace(name) => namespaces.push(name.to_owned()),
                other => findings.refuse(
                    format!("{field}[{index}]"),
                    format!("{other:?} is not a namespace; give a namespace, *, . (this one) or ~ (none)"),
                ),
            }
        }
        namespaces.sort();
        Self::To(namespaces)
    }

    /// Reads a Service's annotation.
    pub(super) fn of_service(annotations: &Labels, namespace: &str, findings: &mut Findings) -> Self {
        let Some(text) = annotations.get(ANNOTATION) else { return Self::Everywhere };
        let list: Vec<String> = text.split(',').map(|entry| entry.trim().to_owned()).collect();
        Self::parse(&list, namespace, &format!("metadata.annotations.{ANNOTATION}"), findings)
    }

    /// May resources of this namespace see it?
    pub(super) fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.iter().any(|to| to == namespace),
        }
    }

    /// May any namespace see it at all (not `exportTo: ["~"]`)?
    pub(super) fn reaches_any(&self) -> bool {
        !matches!(self, Self::To(namespaces) if namespaces.is_empty())
    }

    /// Is it for its own namespace alone (`exportTo: ["."]`)?
    pub(super) fn is_private_to(&self, namespace: &str) -> bool {
        matches!(self, Self::To(namespaces) if namespaces.iter().all(|to| to == namespace) && !namespaces.is_empty())
    }
}

/// An RFC 1123 label, as Kubernetes asks of namespaces.
pub(super) fn is_namespace(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| word(byte) || byte == b'-')
        && text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(list: &[&str]) -> (Export, Findings) {
        let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
        let mut findings = Findings::default();
        (Export::parse(&list, "bar", "spec.exportTo", &mut findings), findings)
    }

    #[test]
    fn nothing_and_a_star_reach_everyone_and_a_dot_its_own_namespace() {
        assert!(export(&[]).0.reaches("x") && export(&["*", "."]).0.reaches("x"));
        assert!(export(&["."]).0.reaches("bar") && !export(&["."]).0.reaches("x"));
        assert!(export(&["a", "b"]).0.reaches("b") && !export(&["a", "b"]).0.reaches("bar"));
        assert!(!export(&["~"]).0.reaches("bar") && !export(&["~"]).0.reaches_any());
        assert!(export(&[]).0.reaches_any() && export(&["."]).0.reaches_any());
        assert!(export(&["."]).0.is_private_to("bar") && !export(&["~"]).0.is_private_to("bar"));
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_its_index() {
        let (_, findings) = export(&["a", "Not One"]);
        assert_eq!(findings.refusals[0].0, "spec.exportTo[1]");
    }
}

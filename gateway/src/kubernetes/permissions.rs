//! What the gateway has to be allowed in a cluster: just the kinds that it watches.

use std::collections::BTreeMap;
use std::fmt::Write;

use eastgate_config::istio::Kind;

/// The ClusterRoles and their bindings, as YAML, for a service account of this name and namespace.
pub fn permissions(namespace: &str, account: &str) -> String {
    let mut text = String::from(
        "# Made from the list of kinds that the gateway watches (`just golden`); edits are lost.\n\
         # In the gateway's own cluster: everything that it reads. It writes nothing.\n",
    );
    text += &role("eastgate", |_| true);
    text += &binding("eastgate", namespace, account);
    text += "---\n# In the mesh's other clusters: their services and where they are.\n";
    text += &role("eastgate-remote", Kind::is_of_every_cluster);
    text += &binding("eastgate-remote", namespace, account);
    text += "---\n# Only for source.kubernetes.remote_secrets: the kubeconfigs of the other clusters.\n";
    let _ = write!(
        text,
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: eastgate-remote-secrets, namespace: {namespace}}}\n\
         rules:\n- apiGroups: [\"\"]\n  resources: [secrets]\n  verbs: [list, watch]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {{name: eastgate-remote-secrets, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: eastgate-remote-secrets}}\n\
         subjects:\n- {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}\n"
    );
    text
}

fn role(name: &str, wanted: impl Fn(Kind) -> bool) -> String {
    // By group and by the one object that matters, if it is one.
    let mut rules: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for kind in Kind::ALL.into_iter().filter(|kind| wanted(*kind)) {
        rules.entry((kind.group(), kind.only())).or_default().push(kind.plural());
    }
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {name}}}\nrules:\n"
    );
    for ((group, only), plurals) in rules {
        let _ = writeln!(text, "- apiGroups: [\"{group}\"]\n  resources: [{}]", plurals.join(", "));
        if let Some(only) = only {
            let _ = writeln!(text, "  resourceNames: [{only}]");
        }
        text += "  verbs: [list, watch]\n";
    }
    text
}

fn binding(name: &str, namespace: &str, account: &str) -> String {
    format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}\n\
         subjects:\n- {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_made_of_the_kinds() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/rbac.yaml");
        let made = permissions("istio-system", "eastgate");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == made,
            "deploy/kubernetes/rbac.yaml is stale; run `just golden` and read the difference"
        );
    }

    #[test]
    fn nothing_is_written_and_every_kind_is_listed_and_watched() {
        let text = permissions("n", "a");
        for kind in Kind::ALL {
            assert!(text.contains(kind.plural()), "{kind:?}");
        }
        for verb in ["get", "create", "update", "patch", "delete", "\"*\""] {
            assert!(!text.contains(verb), "{verb}");
        }
        assert_eq!(text.matches("verbs: [").count(), text.matches("verbs: [list, watch]").count());
    }
}

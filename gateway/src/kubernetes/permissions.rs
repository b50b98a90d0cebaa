//! What the gateway has to be allowed in a cluster: just the kinds that it watches.

use std::collections::BTreeMap;
use std::fmt::Write;

use eastgate_config::istio::Kind;

/// Who is allowed it: a service account, and what the roles' names begin with.
#[derive(Debug, Clone, Copy)]
pub struct Grantee<'a> {
    /// `eastgate` makes the ClusterRoles `eastgate` and `eastgate-remote`, and Roles such as `eastgate-secrets`.
    pub roles: &'a str,
    /// The service account's namespace, which is the gateway's.
    pub namespace: &'a str,
    /// Its name.
    pub account: &'a str,
}

/// What every gateway that reads the Kubernetes API needs, as one manifest for `kubectl apply`. No Secret is in it.
pub fn permissions(to: Grantee<'_>) -> String {
    format!(
        "{MADE}# In the gateway's own cluster: everything that it reads. It writes nothing.\n{}\
         ---\n# In the mesh's other clusters: their services and where they are.\n{}",
        own_cluster(to),
        other_clusters(to)
    )
}

/// A Role for the kubeconfigs of the other clusters, where they are Secrets.
pub fn remote_secrets(to: Grantee<'_>) -> String {
    format!(
        "{MADE}# Only for source.kubernetes.remote_secrets: the kubeconfigs of the other clusters. Which Secrets hold one is said by a\n\
         # label, for which a Role cannot ask: it is every Secret of the namespace.\n{}",
        every_secret(to)
    )
}

/// A Role for the Secrets that DestinationRules name, to be applied with the names in it: that of no other is read.
pub fn secrets(to: Grantee<'_>) -> String {
    format!(
        "# Only for source.kubernetes.secrets, which must have the same names: what credentialName of DestinationRules\n\
         # may name. Put your names in the place of these; without resourceNames it would be every Secret.\n{}",
        named_secrets(to, "[client-credential, client-credential-cacert]")
    )
}

/// The same for the Helm chart, where values decide.
pub fn template() -> String {
    let to = Grantee {
        roles: "{{ .Release.Namespace }}-{{ include \"eastgate.name\" . }}",
        namespace: "{{ .Release.Namespace }}",
        account: "{{ include \"eastgate.serviceAccountName\" . }}",
    };
    format!(
        "{MADE}{{{{- if .Values.source.kubernetes.enabled }}}}\n{}{{{{- if .Values.source.kubernetes.remoteSecrets }}}}\n---\n{}\
         {{{{- end }}}}\n{{{{- if .Values.source.kubernetes.secrets }}}}\n---\n{}\
         {{{{- end }}}}\n{{{{- end }}}}\n",
        own_cluster(to),
        every_secret(to),
        named_secrets(to, "{{ toJson .Values.source.kubernetes.secrets }}")
    )
}

const MADE: &str =
    "# Made from the list of kinds that the gateway watches (`just golden`); edits are lost.\n";

fn own_cluster(to: Grantee<'_>) -> String {
    role(to.roles, |_| true) + &binding(to.roles, to)
}

fn other_clusters(to: Grantee<'_>) -> String {
    let name = format!("{}-remote", to.roles);
    role(&name, Kind::is_of_every_cluster) + &binding(&name, to)
}

fn every_secret(to: Grantee<'_>) -> String {
    role_for_secrets(to, "remote-secrets", "")
}

/// The API server lets a list or watch by `metadata.name` pass for a name in `resourceNames`.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources>
fn named_secrets(to: Grantee<'_>, names: &str) -> String {
    role_for_secrets(to, "secrets", &format!("  resourceNames: {names}\n"))
}

fn role_for_secrets(Grantee { roles, namespace, account }: Grantee<'_>, name: &str, only: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {roles}-{name}, namespace: {namespace}}}\n\
         rules:\n- apiGroups: [\"\"]\n  resources: [secrets]\n{only}  verbs: [list, watch]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {{name: {roles}-{name}, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {roles}-{name}}}\n\
         subjects:\n- {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}\n"
    )
}

fn role(name: &str, wanted: impl Fn(Kind) -> bool) -> String {
    // By group and by the one object that matters, if it is one.
    let mut rules: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_by_name() && wanted(*kind)) {
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

fn binding(name: &str, Grantee { namespace, account, .. }: Grantee<'_>) -> String {
    format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}\n\
         subjects:\n- {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Grantee<'_> = Grantee { roles: "eastgate", namespace: "istio-system", account: "eastgate" };

    #[test]
    fn the_manifests_are_made_of_the_kinds() {
        for (path, made) in [
            ("deploy/kubernetes/rbac.yaml", permissions(HERE)),
            ("deploy/kubernetes/remote-secrets.yaml", remote_secrets(HERE)),
            ("deploy/kubernetes/secrets.yaml", secrets(HERE)),
            ("deploy/helm/eastgate/templates/rbac.yaml", template()),
        ] {
            let file = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&file, &made).unwrap();
            }
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(kept == made, "{path} is stale; run `just golden` and read the difference");
        }
    }

    #[test]
    fn nothing_is_written_and_every_kind_is_listed_and_watched() {
        let text = permissions(HERE);
        for kind in Kind::ALL {
            assert_eq!(text.contains(kind.plural()), kind != Kind::Secret, "{kind:?}");
        }
        for verb in ["get", "create", "update", "patch", "delete", "\"*\""] {
            assert!(!text.contains(verb), "{verb}");
        }
        assert!(secrets(HERE).contains("resourceNames: [") && !secrets(HERE).contains("ClusterRole"));
        assert_eq!(text.matches("verbs: [").count(), text.matches("verbs: [list, watch]").count());
    }
}

//! The way to a Kubernetes API, and what the gateway has to be allowed there.

use std::path::PathBuf;

use eastgate_config::istio::Kind;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::ApiResource;
use kube::{Client, Config};

mod permissions;
pub use permissions::{Grantee, permissions, remote_secrets, secrets, template};

/// Where the address and the credentials of an API server stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// In a Pod its service account, elsewhere what `kubectl` would take.
    Auto {
        /// The kubeconfig's context; none is its current one.
        context: Option<String>,
    },
    /// The Pod's service account.
    InCluster,
    /// A kubeconfig.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its context; none is its current one.
        context: Option<String>,
    },
    /// The text of a kubeconfig. It may come from a Secret, so that it may not have programs run.
    Text(String),
}

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in a Pod, or in one without a service account's token.
    #[error("there is no service account here; run in a Pod that mounts its token, or give a kubeconfig")]
    InCluster(#[source] Box<InClusterError>),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig{} cannot be used", .path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Kubeconfig {
        /// Where it is, if it is a file.
        path: Option<PathBuf>,
        /// What is wrong.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// A kubeconfig of another cluster wants a program run for its credentials.
    #[error(
        "the kubeconfig has user.{0}, which is not followed here; give a token or a client certificate in it"
    )]
    Program(&'static str),
    /// The client cannot be made.
    #[error("no client can be made of the credentials")]
    Client(#[source] Box<kube::Error>),
}

impl Access {
    /// As `source.kubernetes.config` and `--kubernetes` have it.
    pub fn new(config: &str, context: Option<&str>) -> Self {
        let context = context.map(str::to_owned);
        match config {
            "auto" => Self::Auto { context },
            "in-cluster" => Self::InCluster,
            path => Self::File { path: path.into(), context },
        }
    }

    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// The credentials cannot be read or used.
    pub async fn client(&self) -> Result<Client, Error> {
        let config = match self {
            Self::InCluster => in_cluster()?,
            Self::Auto { .. } if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => in_cluster()?,
            Self::Auto { context } => {
                let wrong = |source| Error::Kubeconfig { path: None, source: Box::new(source) };
                Config::from_kubeconfig(&options(context.as_deref())).await.map_err(wrong)?
            }
            Self::File { path, context } => {
                let wrong = |source| Error::Kubeconfig { path: Some(path.clone()), source: Box::new(source) };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(file, &options(context.as_deref())).await.map_err(wrong)?
            }
            Self::Text(text) => {
                let wrong = |source| Error::Kubeconfig { path: None, source: Box::new(source) };
                let read = Kubeconfig::from_yaml(text).map_err(wrong)?;
                refuse_programs(&read)?;
                Config::from_custom_kubeconfig(read, &options(None)).await.map_err(wrong)?
            }
        };
        Client::try_from(config).map_err(|source| Error::Client(Box::new(source)))
    }
}

fn in_cluster() -> Result<Config, Error> {
    Config::incluster().map_err(|source| Error::InCluster(Box::new(source)))
}

fn options(context: Option<&str>) -> KubeConfigOptions {
    KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() }
}

/// Whoever may write a Secret must not come by a shell, nor by the gateway's own files.
fn refuse_programs(kubeconfig: &Kubeconfig) -> Result<(), Error> {
    for user in kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()) {
        for (field, given) in [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("tokenFile", user.token_file.is_some()),
            ("client-certificate", user.client_certificate.is_some()),
            ("client-key", user.client_key.is_some()),
        ] {
            if given {
                return Err(Error::Program(field));
            }
        }
    }
    Ok(())
}

/// A kind in this version, as the API's paths have it.
pub(crate) fn resource(kind: Kind, version: &str) -> ApiResource {
    ApiResource {
        group: kind.group().into(),
        version: version.into(),
        api_version: api_version(kind.group(), version),
        kind: kind.as_str().into(),
        plural: kind.plural().into(),
    }
}

/// As in a resource's `apiVersion`.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kubeconfig_of_another_cluster_runs_no_program_and_reads_no_file() {
        let text = |user: &str| {
            format!(
                "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
                 clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:1'}}}}]\n\
                 users: [{{name: u, user: {user}}}]\n"
            )
        };
        assert!(Access::Text(text("{token: t}")).client().await.is_ok());
        for user in ["{exec: {command: sh}}", "{tokenFile: /etc/passwd}", "{client-key: /x}"] {
            let error = Access::Text(text(user)).client().await.err().unwrap().to_string();
            assert!(error.contains("not followed here"), "{error}");
        }
    }
}

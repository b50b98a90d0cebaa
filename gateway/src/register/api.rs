//! A Kubernetes API.

use anyhow::Context;
use eastgate_config::istio::Kind;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use kube::{Client, Error};
use serde_json::Value;

use super::plan::{Known, Step, title};
use crate::kubernetes::{api_version, resource};

const KINDS: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::ServiceEntry, Kind::WorkloadEntry];

pub(super) async fn known(client: &Client, namespace: &str) -> anyhow::Result<Known> {
    let mut known = Known::new();
    for kind in KINDS {
        let listed = api(client, kind, namespace).list(&ListParams::default()).await;
        match listed {
            Ok(list) => {
                for mut object in list.items {
                    // A list lends its items their kind.
                    let mut value = serde_json::to_value({
                        object.metadata.managed_fields = None;
                        object
                    })?;
                    value["apiVersion"] = api_version(kind.group(), version(kind)).into();
                    value["kind"] = kind.as_str().into();
                    known.push(value);
                }
            }
            // Istio is not installed.
            Err(Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(told(error)).with_context(|| format!("cannot list {}", kind.plural())),
        }
    }
    Ok(known)
}

pub(super) async fn carry_out(client: &Client, step: &Step) -> anyhow::Result<()> {
    let value = step.resource();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = KINDS.into_iter().find(|kind| value["kind"] == kind.as_str());
    let kind = kind.with_context(|| format!("{} is no kind of register's", value["kind"]))?;
    let api = api(client, kind, &text(&value["metadata"]["namespace"]));
    let name = text(&value["metadata"]["name"]);
    let object: DynamicObject = serde_json::from_value(value.clone())?;
    let done = match step {
        Step::Keep(_) => Ok(()),
        Step::Create(_) => api.create(&PostParams::default(), &object).await.map(drop),
        Step::Update(_) => api.replace(&name, &PostParams::default(), &object).await.map(drop),
        Step::Delete(_) => {
            // Just the one that was looked at, not one that took its name meanwhile.
            let preconditions = Preconditions { uid: object.metadata.uid, resource_version: None };
            let how = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            api.delete(&name, &how).await.map(drop)
        }
    };
    done.map_err(told).with_context(|| format!("{} cannot be {}", title(value), step.outcome()))
}

fn version(kind: Kind) -> &'static str {
    kind.versions().first().copied().unwrap_or("v1")
}

fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind, version(kind)))
}

/// In words that say what to do.
fn told(error: Error) -> anyhow::Error {
    let hint = match &error {
        Error::Api(status) => match status.code {
            401 => "the API server does not know these credentials; give another kubeconfig",
            403 => {
                "the credentials do not allow it; ask for create, update, delete and list of this kind there"
            }
            404 => {
                "the kind is not installed in the cluster; install Istio's definitions, or leave out --service-entry"
            }
            409 => "it was changed meanwhile; run the command again",
            _ => "the API server refused it",
        },
        _ => "the API server cannot be reached; look at the kubeconfig's server",
    };
    anyhow::Error::new(error).context(hint)
}

//! A mesh directory: one file of its own for each resource that register makes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::plan::{Known, Step, title};
use crate::source::files;

pub(super) fn known(directory: &Path, namespace: &str) -> anyhow::Result<Known> {
    anyhow::ensure!(directory.is_dir(), "{} is no directory; make it, or give another", directory.display());
    let mut known = Known::new();
    for (path, text) in files::read(directory)? {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{path} cannot be read; correct it first"))?;
        let items = documents.into_iter().flat_map(|mut document| match document["items"].take() {
            Value::Array(items) => items,
            _ => vec![document],
        });
        known.extend(
            items.filter(|resource| {
                resource["metadata"]["namespace"].as_str().unwrap_or("default") == namespace
            }),
        );
    }
    Ok(known)
}

pub(super) fn carry_out(directory: &Path, step: &Step) -> anyhow::Result<()> {
    let resource = step.resource();
    let path = path(directory, resource);
    match step {
        Step::Keep(_) => Ok(()),
        Step::Create(_) | Step::Update(_) => {
            anyhow::ensure!(
                matches!(step, Step::Create(_)) || path.exists(),
                "{} was made by register and is not in {}; edit it where it is",
                title(resource),
                path.display()
            );
            // Another file, then a rename: whoever watches the directory never sees half of it.
            let mut new = tempfile::NamedTempFile::with_prefix_in(".register", directory)?;
            std::io::Write::write_all(&mut new, serde_saphyr::to_string(resource)?.as_bytes())?;
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(new.path(), readable)?;
            new.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(())
        }
        Step::Delete(_) => std::fs::remove_file(&path).with_context(|| {
            format!("{} was made by register and is not in {}", title(resource), path.display())
        }),
    }
}

/// `register.NAMESPACE.KIND.NAME.yaml`
fn path(directory: &Path, resource: &Value) -> PathBuf {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    let metadata = &resource["metadata"];
    let (namespace, kind, name) =
        (text(&metadata["namespace"]), text(&resource["kind"]), text(&metadata["name"]));
    directory.join(format!("register.{namespace}.{kind}.{name}.yaml"))
}

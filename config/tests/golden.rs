//! Resources in `tests/golden/<case>/*.yaml` → `snapshot.yaml` beside them. `UPDATE=1` rewrites what is stale; read
//! the difference before committing it.

// The crate itself touches no file or variable; the test that feeds it has to, and a panic in it is the report.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use eastgate_config::istio::{File, Index, Options};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The name and text of every input of a directory.
fn inputs(directory: &Path) -> BTreeMap<String, String> {
    let mut inputs = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".yaml") && name != "snapshot.yaml" {
            inputs.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    assert!(!inputs.is_empty(), "{} has no input", directory.display());
    inputs
}

/// What gateway a case is about: the examples have several.
fn options_of(case: &str) -> (&str, Options) {
    let labelled = |app: &str, kind: &str| Options {
        labels: [("app", app), ("istio", kind)].map(|(key, value)| (key.into(), value.into())).into(),
        ..Options::default()
    };
    match case {
        "mesh-expansion" => (case, labelled("istio-ingressgateway", "ingressgateway")),
        "mesh-expansion-egress" => {
            let egress = labelled("istio-egressgateway", "egressgateway");
            let network_view = vec!["external".to_owned()];
            ("mesh-expansion", Options { network_view, ..egress })
        }
        _ => (case, Options::default()),
    }
}

fn snapshot_of(inputs: &BTreeMap<String, String>, options: &Options) -> String {
    let files: Vec<File<'_>> = inputs.iter().map(|(path, text)| File { path, text }).collect();
    let mut index = Index::default();
    index.load(&files);
    serde_saphyr::to_string(&index.snapshot(options)).unwrap()
}

/// Compares, or rewrites and says nothing.
fn is_current(expected_in: &Path, actual: &str) -> bool {
    if fs::read_to_string(expected_in).is_ok_and(|expected| expected == actual) {
        return true;
    }
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    if update {
        fs::write(expected_in, actual).unwrap();
    }
    update
}

#[test]
fn every_case_gives_the_snapshot_beside_it() {
    let mut stale = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(directory("tests/golden")).unwrap() {
        let case = entry.unwrap().path();
        // A documented example is an example first; only its snapshot stands among the cases.
        let (name, options) = options_of(case.file_name().unwrap().to_str().unwrap());
        let example = directory("examples").join(name);
        let inputs = inputs(if example.is_dir() { &example } else { &case });
        cases += 1;
        if !is_current(&case.join("snapshot.yaml"), &snapshot_of(&inputs, &options)) {
            stale.push(case.file_name().unwrap().to_owned());
        }
    }
    assert!(cases >= 10, "there are {cases} cases");
    assert!(stale.is_empty(), "stale: {stale:?}; run with UPDATE=1 and read the difference");
}

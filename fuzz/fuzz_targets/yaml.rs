//! A file of Istio and Kubernetes resources, as somebody may write it: what is wrong is a rejection.

#![no_main]

use eastgate_config::istio::{File, Index, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut index = Index::default();
    index.load(&[File { path: "fuzz.yaml", text }]);
    let snapshot = index.snapshot(&Options::default());
    let _ = snapshot.cross_check();
    let told: Vec<String> = snapshot.rejections.iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|rejection| !rejection.is_empty()));
    // The same resources make the same snapshot.
    let mut again = Index::default();
    again.load(&[File { path: "fuzz.yaml", text }]);
    assert_eq!(snapshot, again.snapshot(&Options::default()));
});

use std::sync::Arc;

use super::*;
use crate::istio::Options;
use crate::snapshot::Snapshot;

fn load(index: &mut Index, files: &[(&str, &str)]) -> Snapshot {
    let files: Vec<File<'_>> = files.iter().map(|(path, text)| File { path, text }).collect();
    index.load(&files);
    index.snapshot(&Options::default())
}

fn gateway(name: &str, port: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: istio-system}}\n\
         spec:\n  servers:\n  - port: {{number: {port}, name: tls, protocol: TLS}}\n    tls: {{mode: AUTO_PASSTHROUGH}}\n    \
         hosts: ['*.global']\n"
    )
}

fn listeners(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.listeners.keys().map(String::as_str).collect()
}

#[test]
fn a_resource_whose_new_version_is_bad_keeps_its_last_good_one_until_it_is_gone() {
    let mut index = Index::default();
    load(&mut index, &[("a.yaml", &gateway("a", "1"))]);
    let snapshot = load(&mut index, &[("a.yaml", &gateway("a", "70000"))]);
    assert_eq!(listeners(&snapshot), ["0.0.0.0_1"]);
    let rejection = &snapshot.rejections[0];
    assert!(rejection.last_good_kept, "{rejection}");
    assert_eq!(
        rejection.to_string(),
        "a.yaml:6: Gateway istio-system/a: spec.servers[0].port.number: 70000 is not a port; give one from 1 to 65535 \
         (its last good version stays in use)"
    );
    let snapshot = load(&mut index, &[("a.yaml", &gateway("a", "2"))]);
    assert!(snapshot.rejections.is_empty());
    assert_eq!(listeners(&snapshot), ["0.0.0.0_2"]);
    assert!(load(&mut index, &[]).listeners.is_empty());
}

#[test]
fn a_file_that_was_cut_to_nothing_keeps_its_resources_until_it_is_removed() {
    let mut index = Index::default();
    load(&mut index, &[("a.yaml", &gateway("a", "1")), ("b.yaml", "\n")]);
    for _ in 0..2 {
        let snapshot = load(&mut index, &[("a.yaml", ""), ("b.yaml", "\n")]);
        assert_eq!(listeners(&snapshot), ["0.0.0.0_1"]);
        let [rejection] = snapshot.rejections.as_slice() else { panic!("{:?}", snapshot.rejections) };
        assert!(rejection.last_good_kept && rejection.reason.contains("is empty"), "{rejection}");
    }
    assert!(load(&mut index, &[("b.yaml", "\n")]).listeners.is_empty());
    let cleared = load(&mut index, &[("a.yaml", "# nothing any more\n")]);
    assert!(cleared.rejections.is_empty() && cleared.listeners.is_empty());
}

#[test]
fn a_resource_that_was_never_good_has_nothing_to_keep() {
    let snapshot = load(&mut Index::default(), &[("a.yaml", &gateway("a", "0"))]);
    assert!(!snapshot.rejections[0].last_good_kept && snapshot.listeners.is_empty());
}

#[test]
fn a_file_that_no_longer_parses_keeps_its_resources_and_no_other_files() {
    let mut index = Index::default();
    let both = format!("{}---\n{}", gateway("a", "1"), gateway("b", "2"));
    load(&mut index, &[("ab.yaml", &both), ("c.yaml", &gateway("c", "3"))]);
    let broken = format!("{}---\nkind: [\n", gateway("a", "11"));
    let snapshot = load(&mut index, &[("ab.yaml", &broken)]);
    assert_eq!(listeners(&snapshot), ["0.0.0.0_11", "0.0.0.0_2"]);
    assert!(snapshot.rejections[0].last_good_kept);
    let snapshot = load(&mut index, &[("ab.yaml", &gateway("a", "11"))]);
    assert_eq!(listeners(&snapshot), ["0.0.0.0_11"]);
    let snapshot = load(&mut index, &[("ab.yaml", "kind: [\n"), ("b.yaml", &gateway("a", "12"))]);
    assert_eq!(
        listeners(&snapshot),
        ["0.0.0.0_12"],
        "a resource that moved to another file moves with its content"
    );
    assert!(!snapshot.rejections[0].last_good_kept);
}

#[test]
fn the_second_definition_of_a_resource_is_refused_and_names_both_places() {
    let files = [("b.yaml", gateway("a", "2")), ("a.yaml", gateway("a", "1"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let snapshot = load(&mut Index::default(), &files);
    assert_eq!(listeners(&snapshot), ["0.0.0.0_1"]);
    let text = snapshot.rejections[0].to_string();
    assert_eq!(
        text,
        "b.yaml:1: Gateway istio-system/a: it is already defined at a.yaml:1, which counts; remove one"
    );
}

#[test]
fn what_did_not_change_is_the_same_allocation_in_the_next_snapshot() {
    let mut index = Index::default();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n";
    let before = load(&mut index, &[("a", &gateway("a", "1")), ("s", service)]);
    let after = load(&mut index, &[("a", &gateway("a", "1")), ("b", &gateway("b", "2")), ("s", service)]);
    assert!(!before.clusters.is_empty());
    for (name, cluster) in &before.clusters {
        assert!(Arc::ptr_eq(cluster, &after.clusters[name]));
    }
    assert!(Arc::ptr_eq(&before.listeners["0.0.0.0_1"], &after.listeners["0.0.0.0_1"]));
}

#[test]
fn kinds_without_a_use_are_counted_and_istios_own_are_told_of_once() {
    let unused = |group: &str, kind: &str, name: &str| {
        format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n---\n")
    };
    let text = [
        unused("networking.istio.io", "Sidecar", "b"),
        unused("networking.istio.io", "Sidecar", "a"),
        unused("apps", "Deployment", "a"),
        unused("gateway.networking.k8s.io", "HTTPRoute", "a"),
        // It has no name, and is none of ours to refuse.
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n".to_owned(),
    ]
    .concat();
    let mut index = Index::default();
    let snapshot = load(&mut index, &[("a", &text)]);
    let notices: Vec<String> = snapshot.notices.iter().map(ToString::to_string).collect();
    let told = "a:5: Sidecar default/a: Sidecar is not used by this gateway; there are 2, of which this is the first";
    assert_eq!(notices, [told]);
    let counts: Vec<usize> = index.unused().map(|(_, _, count)| count).collect();
    assert_eq!(counts, [1, 1, 1, 2]);
}

use super::*;

fn workload(address: &str, ports: &[&str]) -> Workload {
    Workload {
        namespace: "bar".into(),
        name: "vm".into(),
        address: address.parse().unwrap(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        service_account: Some("vm".into()),
    }
}

/// What is there after these steps.
fn after(known: &Known, steps: &[Step]) -> Known {
    let same =
        |a: &Value, b: &Value| a["kind"] == b["kind"] && a["metadata"]["name"] == b["metadata"]["name"];
    let mut known = known.clone();
    for step in steps {
        known.retain(|resource| !same(resource, step.resource()));
        if !matches!(step, Step::Delete(_)) {
            known.push(step.resource().clone());
        }
    }
    known
}

fn outcomes(steps: &[Step]) -> Vec<(&str, String)> {
    steps.iter().map(|step| (step.outcome(), title(step.resource()))).collect()
}

fn forms() -> [Form; 2] {
    [Form::Service, Form::ServiceEntry { host: "vm.bar.global".into() }]
}

#[test]
fn registering_twice_changes_nothing_and_deregistering_leaves_nothing() {
    for form in forms() {
        let workload = workload("10.0.0.9", &["http:8000", "9000"]);
        let first = register(&workload, &form, &vec![]).unwrap();
        assert!(first.iter().all(|step| step.outcome() == "created"), "{first:?}");
        let known = after(&vec![], &first);
        let second = register(&workload, &form, &known).unwrap();
        assert!(second.iter().all(|step| step.outcome() == "unchanged"), "{second:?}");
        let gone = deregister("bar", "vm", &[], &known).unwrap();
        assert_eq!(gone.len(), 2);
        assert!(after(&known, &gone).is_empty());
        assert!(deregister("bar", "vm", &[], &vec![]).unwrap_err().contains("nothing is changed"));
    }
}

#[test]
fn the_service_goes_with_its_last_address() {
    for form in forms() {
        let known = after(&vec![], &register(&workload("10.0.0.9", &["8000"]), &form, &vec![]).unwrap());
        let more = register(&workload("fd00::1", &["8000"]), &form, &known).unwrap();
        assert_eq!(more[0].outcome(), "unchanged");
        let known = after(&known, &more);
        let steps = deregister("bar", "vm", &["10.0.0.9".parse().unwrap()], &known).unwrap();
        assert_eq!(steps.len(), 1, "{steps:?}");
        let known = after(&known, &steps);
        let steps = deregister("bar", "vm", &["fd00::1".parse().unwrap()], &known).unwrap();
        assert!(after(&known, &steps).is_empty());
    }
}

#[test]
fn what_others_made_is_used_and_neither_changed_nor_removed() {
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "vm", "namespace": "bar" },
        "spec": { "ports": [{ "name": "http", "port": 8000 }], "clusterIP": "10.96.0.7" },
    });
    let known = vec![theirs.clone()];
    let steps = register(&workload("10.0.0.9", &["http:8000"]), &Form::Service, &known).unwrap();
    assert_eq!(steps[0], Step::Keep(theirs.clone()));
    let known = after(&known, &steps);
    let steps = deregister("bar", "vm", &[], &known).unwrap();
    assert_eq!(outcomes(&steps), [("deleted", "EndpointSlice bar/vm-10-0-0-9".to_owned())]);
    let wrong =
        register(&workload("10.0.0.9", &["grpc:9000"]), &Form::Service, &vec![theirs.clone()]).unwrap_err();
    assert!(wrong.contains("has no port grpc"), "{wrong}");
    let mut selecting = theirs;
    selecting["spec"]["selector"] = json!({ "app": "x" });
    let wrong =
        register(&workload("10.0.0.9", &["http:8000"]), &Form::Service, &vec![selecting]).unwrap_err();
    assert!(wrong.contains("has a selector"), "{wrong}");
}

#[test]
fn a_service_of_ours_gets_more_ports_and_keeps_what_the_api_server_gave_it() {
    let mut known =
        after(&vec![], &register(&workload("10.0.0.9", &["http:8000"]), &Form::Service, &vec![]).unwrap());
    known[0]["spec"]["clusterIP"] = "10.96.0.7".into();
    known[0]["metadata"]["resourceVersion"] = "7".into();
    let steps = register(&workload("10.0.0.9", &["http:8000", "grpc:9000"]), &Form::Service, &known).unwrap();
    assert_eq!(steps[0].outcome(), "updated");
    let service = steps[0].resource();
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["metadata"]["resourceVersion"]),
        (&json!("10.96.0.7"), &json!("7"))
    );
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 2);
    let wrong = register(&workload("10.0.0.9", &["http:8001"]), &Form::Service, &known).unwrap_err();
    assert!(wrong.contains("has port http as 8000"), "{wrong}");
}

#[test]
fn a_port_is_a_number_with_or_without_a_name() {
    assert_eq!("http:80".parse(), Ok(Port { name: "http".into(), number: 80 }));
    assert_eq!("80".parse(), Ok(Port { name: "tcp-80".into(), number: 80 }));
    for wrong in ["", "0", "70000", "http", "Http:80", "-a:80"] {
        assert!(wrong.parse::<Port>().is_err(), "{wrong}");
    }
}

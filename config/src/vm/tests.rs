use super::*;

/// As the document writes it.
const CLASSIC: &str = "ISTIO_CP_AUTH=MUTUAL_TLS\nISTIO_SERVICE_CIDR=172.21.0.0/16,127.255.0.0/16\n\n";
/// As `istioctl x workload entry configure` writes it.
const CONFIGURED: &str = "CA_ADDR='istiod.istio-system.svc:15012'\nISTIO_INBOUND_PORTS='*'\n\
    ISTIO_METAJSON_LABELS='{\"app\":\"vmhttp\"}'\nISTIO_META_CLUSTER_ID='east'\nISTIO_NAMESPACE='vm'\n\
    ISTIO_SERVICE_CIDR='*'\nSERVICE_ACCOUNT='vm-account'\nTRUST_DOMAIN='example.org'\n";

fn read(cluster_env: &str, hosts: &str) -> Result<Machine, Error> {
    Machine::read(Texts { cluster_env, mesh_yaml: None, hosts: Some(hosts) }, &Vm::default())
}

#[test]
fn the_documents_directory_is_read() {
    let machine =
        read(CLASSIC, "35.232.112.158 istio-citadel istio-pilot istio-pilot.istio-system\n").unwrap();
    let ranges: Vec<_> = machine.service_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["172.21.0.0/16", "127.255.0.0/16"]);
    assert_eq!(machine.gateway.as_deref(), Some("35.232.112.158"));
    assert_eq!(machine.ca().as_deref(), Some("istio-citadel:8060"));
    assert_eq!((machine.namespace.as_str(), machine.service_account.as_str()), ("default", "default"));
    assert_eq!(machine.inbound_ports, Some(vec![]));
}

#[test]
fn the_directory_of_istioctl_is_read() {
    let mesh = "defaultConfig:\n  discoveryAddress: other.svc:15012\n  proxyMetadata:\n    A: b\n";
    let texts = Texts {
        cluster_env: CONFIGURED,
        mesh_yaml: Some(mesh),
        hosts: Some("192.0.2.7 istiod.istio-system.svc"),
    };
    let machine = Machine::read(texts, &Vm::default()).unwrap();
    assert_eq!(machine.gateway.as_deref(), Some("192.0.2.7"));
    assert_eq!(machine.ca().as_deref(), Some("istiod.istio-system.svc:15012"));
    assert_eq!((machine.inbound_ports, machine.service_ranges.len()), (None, 0));
    let identity = [machine.trust_domain, machine.namespace, machine.service_account].join("/");
    assert_eq!((identity.as_str(), machine.cluster_id.as_str()), ("example.org/vm/vm-account", "east"));
    let texts = Texts { cluster_env: "", mesh_yaml: Some(mesh), hosts: None };
    let ca = Machine::read(texts, &Vm::default()).unwrap().ca();
    assert_eq!(ca.as_deref(), Some("other.svc:15012"));
}

#[test]
fn quotes_comments_and_export_are_a_shells() {
    let environment = Environment::parse("# x\nexport A='b c'\nB=\"d=e\"\n C = f\nD=\n").unwrap_err();
    assert_eq!(environment, Error::Line { line: 4, text: "C = f".into() });
    let environment = Environment::parse("# x\nexport A='b c'\nB=\"d=e\"\nA=g\nD=\n").unwrap();
    assert_eq!(
        (environment.get("A"), environment.get("B"), environment.get("D")),
        (Some("g"), Some("d=e"), None)
    );
    assert!(Environment::parse("A='b").is_err());
}

#[test]
fn a_bad_line_is_named_with_what_it_should_be() {
    let error = |text: &str, hosts: &str| read(text, hosts).unwrap_err().to_string();
    assert_eq!(error("A\n", ""), "cluster.env:1: \"A\" is no NAME=VALUE");
    assert!(error("ISTIO_SERVICE_CIDR=1.2.3/8", "").contains("such as 172.21.0.0/16"));
    assert!(error("ISTIO_INBOUND_PORTS=80,http", "").contains("\"http\" is no list of ports"));
    assert!(error("ISTIO_SVC_IP=me", "").contains("ISTIO_SVC_IP"));
    assert!(error("", "1.2.3.4").starts_with("hosts:1:"));
    let texts = Texts { mesh_yaml: Some("defaultConfig: [\n"), ..Texts::default() };
    assert!(Machine::read(texts, &Vm::default()).unwrap_err().to_string().starts_with("mesh.yaml: "));
}

#[test]
fn variables_are_replaced_and_a_missing_one_is_named_with_its_line() {
    let settings = Vm { gateway: Some("192.0.2.9".into()), ..Vm::default() };
    let machine = Machine::read(Texts { cluster_env: "A=b\n", ..Texts::default() }, &settings).unwrap();
    let of = |text: &str| substitute("x.yaml", text, &machine.variables);
    assert_eq!(
        of("address: ${CLUSTER_GW_ADDR} # ${A}\n# ${B}\n").unwrap(),
        "address: 192.0.2.9 # b\n# ${B}\n"
    );
    assert_eq!(
        of("a\nb: ${B}").unwrap_err().to_string(),
        "x.yaml:2: ${B} has no value; add B=... to cluster.env"
    );
    let none =
        substitute("x.yaml", "- address: ${CLUSTER_GW_ADDR}", &BTreeMap::new()).unwrap_err().to_string();
    assert!(
        none.starts_with("x.yaml:1: ${CLUSTER_GW_ADDR} has no value; give the gateway's address"),
        "{none}"
    );
}

#[test]
fn inbound_ports_have_a_listener_each_or_one_that_is_redirected_to() {
    let settings = Vm { inbound: [(9000, "127.0.0.1:9001".parse().unwrap())].into(), ..Vm::default() };
    let machine = read("ISTIO_INBOUND_PORTS=8888,9000\n", "").unwrap();
    let ports = machine.inbound_ports(&settings);
    assert_eq!(ports[&8888].to_string(), "127.0.0.1:8888");
    assert_eq!(ports[&9000].to_string(), "127.0.0.1:9001");
    let mut how = Inbound { address: [10, 0, 0, 5].into(), redirect: None, ports, allowed: vec![] };
    let mut snapshot = crate::snapshot::Snapshot::default();
    inbound(&how, &mut snapshot);
    let names: Vec<_> = snapshot.listeners.keys().collect();
    assert_eq!(names, ["inbound_10.0.0.5_8888", "inbound_10.0.0.5_9000"]);
    how.redirect = Some(([0, 0, 0, 0], 15006).into());
    let mut snapshot = crate::snapshot::Snapshot::default();
    inbound(&how, &mut snapshot);
    assert_eq!(snapshot.listeners["inbound"].filter_chains.len(), 2);
    assert!(snapshot.cross_check().is_empty(), "{:?}", snapshot.cross_check());
}

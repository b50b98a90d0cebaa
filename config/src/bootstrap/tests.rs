use super::*;

fn with_file(text: &str) -> Result<Settings, String> {
    Layers::new().file(text).and_then(Layers::settings).map_err(|error| error.to_string())
}

fn with_variable(name: &str, text: &str) -> Result<Settings, String> {
    let variables = [(name.to_owned(), text.to_owned())];
    Layers::new().environment(variables).and_then(Layers::settings).map_err(|error| error.to_string())
}

/// The paths of all leaves, where a map or list that is itself a setting is a leaf.
fn leaves(tree: &Value, prefix: &str, found: &mut Vec<String>) {
    match tree {
        Value::Object(map) if !KEYS.iter().any(|key| key.path == prefix) => {
            for (name, inner) in map {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(inner, &path, found);
            }
        }
        _ => found.push(prefix.to_owned()),
    }
}

#[test]
fn every_setting_has_a_key_and_every_key_a_setting() {
    let mut found = Vec::new();
    leaves(&serde_json::to_value(Settings::default()).unwrap(), "", &mut found);
    found.sort();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    keys.sort();
    assert_eq!(found, keys);
}

#[test]
fn the_file_overrides_the_default_and_a_variable_the_file_and_a_flag_both() {
    let layers = Layers::new().file("inspect: {timeout: 5s}\nthreads: 3\n").unwrap();
    let variables =
        [("EASTGATE_THREADS", "4"), ("PATH", "/bin"), ("EASTGATE_LISTEN_PORTS", "{15443: 127.0.0.1:1}")];
    let layers = layers.environment(variables.map(|(name, text)| (name.into(), text.into()))).unwrap();
    let settings =
        layers.flag("threads", Some(5)).flag("relay.idle_timeout", None::<String>).settings().unwrap();
    assert_eq!(settings.inspect.timeout, Duration::from_secs(5));
    assert_eq!(settings.threads, 5);
    assert_eq!(settings.listen.ports[&15443].port(), 1);
    assert_eq!(settings.relay.idle_timeout, Duration::from_secs(3600));
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    let error = with_file("inspect: {timout: 5s}").unwrap_err();
    assert!(error.contains("inspect.timout") && error.contains("did you mean inspect.timeout?"), "{error}");
    let error = with_variable("EASTGATE_INSPECT_TIMEOT", "5s").unwrap_err();
    assert!(error.contains("did you mean EASTGATE_INSPECT_TIMEOUT?"), "{error}");
    let error = with_file("xyzzy_plugh: 1").unwrap_err();
    assert!(error.contains("eastgate config"), "{error}");
}

#[test]
fn a_wrong_value_names_its_key_and_what_would_be_right() {
    assert!(
        with_file("inspect: {timeout: soon}")
            .unwrap_err()
            .contains("inspect.timeout: \"soon\" is not a duration")
    );
    assert!(with_file("inspect: 5").unwrap_err().contains("inspect: it holds further keys"));
    assert!(with_file("inspect: {max_hello_bytes: 131073}").unwrap_err().contains("from 1 to 131072"));
    assert!(with_file("- a").unwrap_err().contains("list"));
    assert!(
        with_file("routing: {rewrites: [{pattern: '(', replacement: x}]}")
            .unwrap_err()
            .contains("rewrites[0]")
    );
    let error = with_variable("EASTGATE_ADMIN_ADDRESS", "localhost").unwrap_err();
    assert!(error.starts_with("EASTGATE_ADMIN_ADDRESS: "), "{error}");
}

#[test]
fn text_stays_text_even_when_it_looks_like_a_number() {
    let settings = with_variable("EASTGATE_NODE_NAMESPACE", "123").unwrap();
    assert_eq!(settings.node.namespace, "123");
    let settings = with_variable("EASTGATE_SOURCE_MESH_DIR", "007").unwrap();
    assert_eq!(settings.source.mesh_dir, Some("007".into()));
    let settings = with_variable("EASTGATE_ADMIN_READINESS_ADDRESS", "").unwrap();
    assert_eq!(settings.admin.readiness_address, None);
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(with_file(""), Ok(Settings::default()));
    assert_eq!(with_file("inspect:\n"), Ok(Settings::default()));
}

#[test]
fn what_is_printed_is_read_back() {
    let text = serde_saphyr::to_string(&Settings::default()).unwrap();
    assert_eq!(with_file(&text), Ok(Settings::default()), "{text}");
}

#[test]
fn the_variables_of_a_kubernetes_service_of_our_name_are_no_settings() {
    for name in [
        "EASTGATE_SERVICE_HOST",
        "EASTGATE_SERVICE_PORT",
        "EASTGATE_SERVICE_PORT_STATUS_PORT",
        "EASTGATE_PORT",
        "EASTGATE_PORT_15443_TCP",
        "EASTGATE_PORT_15443_TCP_ADDR",
        "EASTGATE_EGRESS_SERVICE_HOST",
    ] {
        assert_eq!(with_variable(name, "tcp://10.0.0.1:15443"), Ok(Settings::default()), "{name}");
    }
    assert!(
        !KEYS.iter().any(|key| layers::is_service_link(&key.variable())),
        "a setting must not look like one"
    );
}

#[test]
fn networks_are_a_list_or_one_text_with_commas() {
    let view = |text: &str| with_variable("EASTGATE_NODE_NETWORK_VIEW", text).unwrap().node.network_view;
    assert_eq!(
        (view("external"), view("[external]")),
        (vec!["external".to_owned()], vec!["external".into()])
    );
    assert_eq!(view("net1, external"), ["net1", "external"]);
    assert!(view("").is_empty());
    assert_eq!(with_variable("EASTGATE_NODE_NETWORK", "1").unwrap().node.network, "1");
}

//! `eastgate vm bundle`, `install`, `uninstall` and `rules`, as commands: what they lay out works, and nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use eastgate_loadtest::ca::Ca;
use machine::*;
use support::*;
use tempfile::TempDir;

fn eastgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eastgate")).arg("vm").args(arguments).output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = eastgate(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same, as programs read it.
fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&done(&[arguments, &["-o", "json"]].concat())).unwrap()
}

/// The one line that a command that fails says.
fn refused(arguments: &[&str]) -> String {
    let output = eastgate(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// What a bundle is made from, and where things go.
struct World {
    directory: TempDir,
    ca: Ca,
    vip: IpAddr,
}

impl World {
    fn new(gateway_port: u16) -> Self {
        let world =
            Self { directory: tempfile::tempdir().unwrap(), ca: Ca::new().unwrap(), vip: own_address() };
        let identity = world.ca.issue(&[VM]).unwrap();
        world.write("root.pem", world.ca.certificate_pem());
        world.write("chain.pem", &identity.chain_pem());
        world.write("key.pem", &identity.key_pem());
        std::fs::create_dir(world.path("services")).unwrap();
        world.write("services/httpbin.yaml", &httpbin(world.vip, gateway_port));
        // A system with a user for the files: whoever runs the test, so that no privilege is needed.
        let me = std::fs::metadata(world.directory.path()).unwrap();
        std::fs::create_dir_all(world.path("root/etc")).unwrap();
        world.write("root/etc/passwd", &format!("istio-proxy:x:{}:{}::/:/x\n", me.uid(), me.gid()));
        world.write("root/etc/hosts", "127.0.0.1 localhost\n");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn bundle(&self, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["bundle", "--out"].map(str::to_owned).into();
        let given = [
            ("--root-cert", "root.pem"),
            ("--cert-chain", "chain.pem"),
            ("--key", "key.pem"),
            ("--services", "services"),
        ];
        arguments.push(self.text("bundle"));
        for (flag, name) in given {
            arguments.extend([flag.to_owned(), self.text(name)]);
        }
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        arguments
    }
}

fn all(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Every file below a directory, with its mode and content.
fn tree(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = path.metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let content = if metadata.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
        found.insert(name, (metadata.permissions().mode() & 0o7777, content));
        if metadata.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

#[tokio::test]
async fn what_is_laid_out_works_and_taking_it_away_leaves_nothing() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let mut world = World::new(gateway.address.port());
    world.ca = ca;
    let identity = world.ca.issue(&[VM]).unwrap();
    world.write("root.pem", world.ca.certificate_pem());
    world.write("chain.pem", &identity.chain_pem());
    world.write("key.pem", &identity.key_pem());

    done(&all(&world.bundle(&["--gateway", "127.0.0.1", "--inbound-ports", "8888"])));
    let (bundle, root) = (world.text("bundle"), world.text("root"));
    let before = tree(&world.path("root"));
    let said = done(&["install", &bundle, "--root", &root, "--dry-run"]);
    assert!(said.contains("/etc/certs/key.pem 600 istio-proxy"), "{said}");
    let said = json(&["install", &bundle, "--root", &root, "--dry-run"]);
    let key = format!("{root}/etc/certs/key.pem");
    let files = said["files"].as_array().unwrap();
    let has_key = files.iter().any(|file| file["path"] == key.as_str() && file["mode"] == "600");
    assert!(has_key && said["dry_run"] == true && said["notes"] == serde_json::json!([]), "{said}");
    assert!(tree(&world.path("root")) == before, "a dry run has done something");

    done(&["install", &bundle, "--root", &root]);
    let installed = tree(&world.path("root"));
    let mode = |name: &str| installed[name].0;
    assert_eq!((mode("etc/certs/key.pem"), mode("etc/certs/cert-chain.pem")), (0o600, 0o644));
    let text = |name: &str| String::from_utf8(installed[name].1.clone()).unwrap();
    assert!(text("var/lib/istio/envoy/cluster.env").contains("CLUSTER_GW_ADDR='127.0.0.1'"));
    let hosts = text("etc/hosts");
    assert!(
        hosts.starts_with("127.0.0.1 localhost\n") && hosts.contains("127.0.0.1 istio-citadel\n"),
        "{hosts}"
    );
    assert!(hosts.contains(&format!("{} httpbin.bar.global\n", world.vip)), "{hosts}");
    done(&["install", &bundle, "--root", &root]);
    assert!(tree(&world.path("root")) == installed, "installing again has changed something");
    verify(&text("etc/systemd/system/eastgate-vm.service"));

    let config = world.path("root/var/lib/istio/envoy");
    let settings = eastgate_config::bootstrap::Layers::new()
        .flag("vm.config_dir", Some(config.display().to_string()))
        .flag("vm.certs_dir", Some(world.text("root/etc/certs")))
        .flag("vm.inbound_address", Some(own_address().to_string()))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some(""))
        .flag("access_log.path", Some(""))
        .flag("threads", Some(1));
    let mut app = eastgate::app::App::start(settings.settings().unwrap()).await.unwrap();
    tokio::time::timeout(PATIENCE, app.ready()).await.unwrap().unwrap();
    assert_eq!(http_get((world.vip, 8000).into(), "/hostname").await.0, 200);
    app.stop().await;

    let said = json(&["uninstall", "--root", &root]);
    let removed = said["removed"].as_array().unwrap();
    assert!(removed.contains(&key.into()) && said["kept"] == serde_json::json!([]), "{said}");
    assert!(tree(&world.path("root")) == before, "something is left: {:?}", tree(&world.path("root")).keys());
    assert!(done(&["uninstall", "--root", &root]).contains("nothing is installed"));
}

/// Has systemd read the unit, where it is installed.
fn verify(unit: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eastgate-vm.service");
    std::fs::write(&path, unit.replace("/usr/local/bin/eastgate", env!("CARGO_BIN_EXE_eastgate"))).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&path).output() {
        Err(error) => eprintln!("not run: the unit is checked by systemd-analyze: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about_ours: Vec<_> =
                said.lines().filter(|line| line.contains("eastgate-vm.service")).collect();
            assert!(output.status.success() && about_ours.is_empty(), "{said}");
        }
    }
}

#[test]
fn bad_input_for_a_bundle_is_told_on_one_line_and_leaves_nothing() {
    let world = World::new(15443);
    let other = Ca::new().unwrap();
    world.write("other.pem", other.certificate_pem());
    world.write("stranger-key.pem", &world.ca.issue(&[VM]).unwrap().key_pem());
    let nobody = world.ca.issue(&["a.example"]).unwrap();
    world.write("nobody.pem", &nobody.chain_pem());
    world.write("nobody-key.pem", &nobody.key_pem());
    // What is wrong is told under the name that its author knows, and not under that of a draft.
    let told = |changes: &[(&str, &str)], named: &str, wanted: &str| {
        let mut arguments = world.bundle(&["--gateway", "192.0.2.1"]);
        for (flag, value) in changes {
            match arguments.iter().position(|argument| argument == flag) {
                Some(at) => arguments[at + 1] = world.text(value),
                None => arguments.extend([(*flag).to_owned(), world.text(value)]),
            }
        }
        let said = refused(&all(&arguments));
        assert!(said.contains(wanted) && said.contains(&world.text(named)), "{said}");
        assert!(!said.contains("/.vm-"), "{said}");
        assert!(!world.path("bundle").exists(), "something is left");
    };
    told(&[("--root-cert", "other.pem")], "chain.pem", "it is from another CA");
    told(&[("--key", "stranger-key.pem")], "chain.pem", "the key does not belong to the chain");
    let nobody = [("--cert-chain", "nobody.pem"), ("--key", "nobody-key.pem")];
    told(&nobody, "nobody.pem", "holds no identity");
    told(&[("--root-cert", "absent.pem")], "absent.pem", "cannot read");
    told(&[("--root-cert", "key.pem")], "chain.pem", "no PEM certificate that can be a root");
    world.write("my.env", "A=1\nnonsense\n");
    told(&[("--cluster-env", "my.env")], "my.env", "cluster.env:2: \"nonsense\" is no NAME=VALUE");
    world.write(
        "services/bad.yaml",
        "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: b}\nspec: {host: [a.b]}\n",
    );
    told(&[], "services/bad.yaml", "bad.yaml:4");
    std::fs::remove_file(world.path("services/bad.yaml")).unwrap();
    let text = httpbin(world.vip, 15443).replace("${CLUSTER_GW_ADDR}", "${REMOTE_GW}");
    world.write("services/httpbin.yaml", &text);
    told(&[], "services/httpbin.yaml", "${REMOTE_GW} has no value; add REMOTE_GW=... to cluster.env");
}

#[test]
fn a_root_that_is_none_is_told_where_the_certificate_is_still_to_come() {
    let world = World::new(15443);
    world.write("token", "a.b.c");
    let (out, root, token) = (world.text("bundle"), world.text("key.pem"), world.text("token"));
    let arguments =
        ["bundle", "--out", &out, "--gateway", "192.0.2.1", "--root-cert", &root, "--token", &token];
    let said = refused(&arguments);
    assert!(said.contains(&root) && said.contains("no PEM certificate that can be a root"), "{said}");
}

#[test]
fn two_services_with_one_address_are_told() {
    let world = World::new(15443);
    let twin = httpbin(world.vip, 15443).replace("httpbin", "twin");
    world.write("services/twin.yaml", &twin);
    let said = done(&all(&world.bundle(&["--gateway", "192.0.2.1"])));
    let mut notes = said.lines().filter(|line| line.starts_with("note:"));
    let tells = |line: &str| {
        line.contains("twin.yaml") && line.contains("is already the address of httpbin.bar.global")
    };
    assert!(notes.any(tells), "{said}");
    std::fs::remove_dir_all(world.path("bundle")).unwrap();
    let said = json(&all(&world.bundle(&["--gateway", "192.0.2.1"])));
    assert!(said["notes"][0].as_str().is_some_and(tells), "{said}");
    assert_eq!(said["directory"], world.text("bundle"));
}

#[test]
fn a_directory_that_is_damaged_foreign_or_has_no_owner_is_not_laid_out() {
    let world = World::new(15443);
    done(&all(&world.bundle(&["--gateway", "192.0.2.1"])));
    let (bundle, root) = (world.text("bundle"), world.text("root"));
    let before = tree(&world.path("root"));
    let said = refused(&["install", &bundle, "--root", &root, "--user", "nobody-here"]);
    assert!(said.contains("there is no user nobody-here; create it"), "{said}");
    world.write("bundle/hosts", "1.2.3.4 x\n");
    let said = refused(&["install", &bundle, "--root", &root]);
    assert!(said.contains("hosts is not what SHA256SUMS says; copy the directory again"), "{said}");
    assert!(tree(&world.path("root")) == before);

    std::fs::remove_file(world.path("bundle/SHA256SUMS")).unwrap();
    std::fs::create_dir_all(world.path("root/etc/certs")).unwrap();
    world.write("root/etc/certs/key.pem", "somebody else's");
    let before = tree(&world.path("root"));
    let said = refused(&["install", &bundle, "--root", &root]);
    assert!(said.contains("is there and not ours; move it away, or give --force"), "{said}");
    assert!(tree(&world.path("root")) == before);
    let said = refused(&["install", &root, "--root", &root]);
    assert!(said.contains("holds no cert-chain.pem and key.pem"), "{said}");
}

#[test]
fn the_rules_are_taken_by_nftables() {
    let world = World::new(15443);
    let more = [
        "--gateway",
        "192.0.2.1",
        "--service-cidr",
        "172.21.0.0/16,127.0.0.0/8",
        "--inbound-ports",
        "8888,9000",
    ];
    done(&all(&world.bundle(&more)));
    let rules = done(&["rules", "--config-dir", &world.text("bundle"), "--user", "root"]);
    assert!(
        rules.contains("ip daddr { 127.0.0.0/8, 172.21.0.0/16 } meta l4proto tcp redirect to :15001"),
        "{rules}"
    );
    assert!(rules.contains("tcp dport { 8888, 9000 } redirect to :15006"), "{rules}");
    world.write("rules.nft", &rules);
    // A namespace of its own, so that even the check touches nothing.
    match Command::new("unshare").args(["-rn", "nft", "-c", "-f", &world.text("rules.nft")]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output)
            if String::from_utf8_lossy(&output.stderr).contains("nft:")
                || output.status.code() == Some(127) =>
        {
            eprintln!("not run: the rules are checked by nft: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => panic!("{}\n{rules}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("not run: the rules are checked by nft in a namespace: {error}"),
    }
}

//! What a reader may get wrong at each step, and the one line that says what to do about it. The page has the lines.

use std::time::Instant;

use crate::lab::Machine;
use crate::{Machines, PATIENCE, prefixed};

/// Something wrong, and the commands that show what is said of it.
struct Wrong<'m> {
    what: &'m str,
    machine: &'m Machine,
    /// To be done before, once.
    prepare: String,
    /// Prints what is said, and nothing else.
    look: String,
    told: &'m str,
}

/// Does everything wrong, one after the other, and leaves nothing of it.
pub(crate) fn all(machines: &Machines, page: &str) {
    let cases = bundles(&machines.cluster).into_iter().chain(clients(machines)).chain(services(&machines.vm));
    for case in cases.chain(limits(&machines.vm)).chain([twins(&machines.cluster)]) {
        assert!(page.contains(&format!("`{}`", case.told)), "the page does not say {:?}", case.told);
        case.see();
    }
    machines.vm.done("rm /var/lib/istio/envoy/wrong-*.yaml");
}

impl Wrong<'_> {
    fn see(&self) {
        println!("\n== wrong: {}, on the {}", self.what, self.machine.name);
        println!("promised: {}", self.told);
        self.machine.done(&self.prepare);
        print!("{}{}", prefixed(&self.prepare, "$ "), prefixed(&self.look, "$ "));
        let began = Instant::now();
        let said = loop {
            let (_, said) = self.machine.run(&self.look);
            if said.contains(self.told) || began.elapsed() > PATIENCE {
                break said;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        print!("{}", prefixed(&said, "> "));
        let logs = || self.machine.run("tail -qn 3 vm.log strict.log bare.log").1;
        assert!(said.contains(self.told), "{}: {said}{}", self.what, logs());
        assert_eq!(said.lines().count(), 1, "{} is told on one line", self.what);
    }
}

/// A bundle of what does not belong together.
fn bundles(cluster: &Machine) -> [Wrong<'_>; 3] {
    let bundle = |root: &str, keys: &str| {
        format!(
            "eastgate vm bundle --out wrong --gateway 198.51.100.1 --root-cert {root}/root-cert.pem \
             --cert-chain {keys}/cert-chain.pem --key {keys}/key.pem || test ! -e wrong"
        )
    };
    let certify = |ca: &str, out: &str, more: &str| {
        format!("eastgate-loadtest certify --ca-dir {ca} --out {out} --san {more}")
    };
    let vm = "spiffe://cluster.local/ns/vm/sa/default";
    let case = |what, prepare, look, told| Wrong { what, machine: cluster, prepare, look, told };
    [
        case(
            "a root of another CA",
            certify("other-ca", "other-keys", vm),
            bundle("other-keys", "vm-keys"),
            "it is from another CA; get cert-chain.pem, key.pem and root-cert.pem of the same mesh",
        ),
        case(
            "an expired certificate",
            certify("ca", "old-keys", &format!("{vm} --expired")),
            bundle("vm-keys", "old-keys"),
            "it has expired",
        ),
        case(
            "a certificate without an identity",
            certify("ca", "nobody-keys", "vm.example"),
            bundle("vm-keys", "nobody-keys"),
            "holds no identity",
        ),
    ]
}

/// Clients that may not connect to the VM's service.
fn clients(machines: &Machines) -> [Wrong<'_>; 3] {
    let connect = |to: &str, keys: &str| {
        format!(
            "openssl s_client -connect {to} -servername outbound_.8888_._.vmhttp.vm.global -alpn istio \
             -cert {keys}/cert-chain.pem -key {keys}/key.pem </dev/null >/dev/null 2>&1 || true\n"
        )
    };
    let strict = "eastgate vm run --config-dir vm1 --inbound 8889=127.0.0.1:8888 --allow 'cluster.local/ns/bar/*' \
                  --admin 127.0.0.1:15200 --readiness '' >strict.log 2>&1 & echo $! >strict.pid\n";
    let (from_other, from_sleep) =
        (connect("198.51.100.1:15443", "other-keys"), connect("192.0.2.10:8889", "sleep-keys"));
    let look = |connect: String, what: &str| {
        format!("{connect}grep '\"error\":\"' vm.log | grep '{what}' | tail -1")
    };
    [
        Wrong {
            what: "a client with a certificate of another CA",
            machine: &machines.client,
            prepare: String::new(),
            look: look(from_other, "another CA"),
            told: "its certificate is from another CA than root-cert.pem",
        },
        Wrong {
            what: "a client whose certificate has expired",
            machine: &machines.client,
            prepare: String::new(),
            look: look(connect("198.51.100.1:15443", "old-keys"), "expired"),
            told: "its certificate has expired: have it renewed, and compare the clocks",
        },
        Wrong {
            what: "a client whose identity may not connect",
            machine: &machines.cluster,
            prepare: machines.vm.done(strict),
            look: from_sleep + "grep vm.allow strict.log | tail -1",
            told: "add it to vm.allow if it may, too",
        },
    ]
}

/// ServiceEntries on the VM that lead nowhere.
fn services(vm: &Machine) -> [Wrong<'_>; 4] {
    let entry = |name: &str, change: &str| {
        format!(
            "sed 's/httpbin.bar.forvms/{name}/; {change}' httpbin-for-vms.yaml >.new && \
             mv .new /var/lib/istio/envoy/wrong-{name}.yaml"
        )
    };
    let look = |address: &str| {
        format!(
            "curl -s http://{address}:8000/ || true\ngrep 'outbound_{address}_' vm.log | grep '\"error\":\"' | tail -1"
        )
    };
    let case = |what, prepare, look, told| Wrong { what, machine: vm, prepare, look, told };
    [
        case(
            "a pod with another identity than the entry's",
            entry(
                "identity",
                r"s/240.0.0.3/240.0.0.6/; s|^spec:|&\n  subjectAltNames: [spiffe://cluster.local/ns/bar/sa/other]|",
            ),
            look("240.0.0.6"),
            "add it to the ServiceEntry's subjectAltNames if it may, too",
        ),
        case(
            "a service that the gateway does not know",
            entry("unknown", "s/240.0.0.3/240.0.0.7/; s/httpbin.bar.global/nosuch.bar.global/"),
            look("240.0.0.7"),
            "the gateway knows no service of this name: look at the ServiceEntry's host and port",
        ),
        case(
            "a gateway that no route leads to",
            entry(
                "unreachable",
                "s/240.0.0.3/240.0.0.8/; s/httpbin.bar.global/far.bar.global/; s/${CLUSTER_GW_ADDR}/203.0.113.1/",
            ),
            look("240.0.0.8"),
            "no route leads there: look at the address, and at this machine's routes",
        ),
        case(
            "a port of the gateway where nothing listens",
            entry(
                "closed",
                "s/240.0.0.3/240.0.0.9/; s/httpbin.bar.global/closed.bar.global/; s/15443/15444/",
            ),
            look("240.0.0.9"),
            "nothing listens there: is it running, and the port right?",
        ),
    ]
}

/// Two entries of the cluster that want one address.
fn twins(cluster: &Machine) -> Wrong<'_> {
    Wrong {
        what: "two services of the cluster with one address",
        machine: cluster,
        prepare: "mkdir twins && cp cluster/httpbin-for-vms.yaml twins/\n\
                  sed 's/httpbin.bar.forvms/twin/; s/httpbin.bar.global/twin.bar.global/' cluster/httpbin-for-vms.yaml >twins/twin.yaml"
            .to_owned(),
        look: "eastgate check twins | grep 'the address of'".to_owned(),
        told: "clients reach one of the two only, so give each its own",
    }
}

/// What the VM itself does not allow.
fn limits(vm: &Machine) -> [Wrong<'_>; 4] {
    let case = |what, prepare: &str, look: &str, told| Wrong {
        what,
        machine: vm,
        prepare: prepare.to_owned(),
        look: look.to_owned(),
        told,
    };
    [
        case(
            "two services with one address",
            "sed 's/httpbin.bar.forvms/twin/; s/httpbin.bar.global/twin.bar.global/' httpbin-for-vms.yaml >.new\n\
             mv .new /var/lib/istio/envoy/wrong-twin.yaml",
            "grep twin vm.log | tail -1",
            "is already the address of httpbin.bar.global",
        ),
        case(
            "a port below 1024 without the capability",
            "setpriv --reuid istio-proxy --regid istio-proxy --init-groups eastgate vm run --inbound 80=127.0.0.1:8888 \
             --admin 127.0.0.1:15300 --readiness '' >bare.log 2>&1 & echo $! >bare.pid",
            "grep inbound_192.0.2.10_80 bare.log | grep -v 8888",
            "ports below 1024 want CAP_NET_BIND_SERVICE",
        ),
        case(
            "an address that is not the machine's",
            "kill $(cat bare.pid strict.pid)\n\
             sed 's/httpbin.bar.forvms/stranger/; s/httpbin.bar.global/stranger.bar.global/; s/240.0.0.3/198.18.0.1/' \
             httpbin-for-vms.yaml >.new && mv .new /var/lib/istio/envoy/wrong-stranger.yaml",
            "grep outbound_198.18.0.1_8000 vm.log",
            "the address is not this machine's: give it one (ip route add local ADDRESS dev lo)",
        ),
        case(
            "no DNS server",
            "cp /etc/resolv.conf resolv.conf; : >/etc/resolv.conf\n\
             eastgate vm run --admin 127.0.0.1:15400 --readiness '' >undns.log 2>&1 & echo $! >undns.pid",
            "grep 'DNS server' undns.log && kill $(cat undns.pid) && cp resolv.conf /etc/resolv.conf",
            "there is no DNS server to ask: /etc/resolv.conf",
        ),
    ]
}

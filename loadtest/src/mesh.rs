//! The resources that tell a gateway of an origin: what a cluster would hold for services whose pods it stands in for.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// The port in the server names; where the origin listens stands in the EndpointSlice.
const SERVICE_PORT: u16 = 8000;
const NAMESPACE: &str = "bar";

/// The file of a mesh directory that holds the first service's EndpointSlice, for churn.
pub const SLICE_FILE: &str = "endpoint-slice.yaml";

/// Where the second endpoint of a service is that churns, at the origin's port.
pub const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

const GATEWAY: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: loadtest, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - hosts: ['*.global']
    port: {name: tls, number: 15443, protocol: TLS}
    tls: {mode: AUTO_PASSTHROUGH}
";

/// The name of a service; the first is the one of the recorded hello.
fn service_name(number: usize) -> String {
    if number == 0 { "httpbin".to_owned() } else { format!("httpbin-{number}") }
}

/// The server name by which a mesh client asks for a service of [`write()`].
pub fn server_name(number: usize) -> String {
    format!("outbound_.{SERVICE_PORT}_._.{}.{NAMESPACE}.global", service_name(number))
}

/// Writes a Gateway for `*.global` on port 15443, and so many services, all with `origin` as their only endpoint.
///
/// # Errors
/// When a file cannot be written.
pub fn write(directory: &Path, services: usize, origin: SocketAddr) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("gateway.yaml"), GATEWAY)?;
    fs::write(directory.join(SLICE_FILE), endpoint_slice(&service_name(0), origin, 1, 0))?;
    let mut text = String::new();
    for number in 0..services.max(1) {
        let name = service_name(number);
        text.push_str(&service(&name));
        if number > 0 {
            text.push_str(&endpoint_slice(&name, origin, 1, 0));
        }
    }
    fs::write(directory.join("services.yaml"), text)
}

fn service(name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: {SERVICE_PORT}}}]
"
    )
}

/// The endpoints of a service, which claim to speak mesh TLS, as a gateway shows no others: the origin, as often as asked for (the second time at [`SECOND_ADDRESS`]).
pub(crate) fn endpoint_slice(name: &str, origin: SocketAddr, endpoints: usize, generation: u64) -> String {
    let mut text = format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-0
  namespace: {NAMESPACE}
  labels: {{kubernetes.io/service-name: {name}, security.istio.io/tlsMode: istio}}
  annotations: {{loadtest/generation: '{generation}'}}
addressType: {}
ports: [{{name: http, port: {}}}]
endpoints:
",
        if origin.is_ipv4() { "IPv4" } else { "IPv6" },
        origin.port(),
    );
    for address in [origin.ip(), SECOND_ADDRESS.into()].into_iter().take(endpoints) {
        let _ = writeln!(text, "- {{addresses: ['{address}'], conditions: {{ready: true}}}}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::RECORDED_NAME;

    #[test]
    fn the_first_service_is_that_of_the_recorded_hello() {
        assert_eq!(server_name(0), RECORDED_NAME);
        assert_eq!(server_name(7), "outbound_.8000_._.httpbin-7.bar.global");
    }

    #[test]
    fn a_directory_holds_every_service_and_one_slice_that_may_churn() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), 3, "127.0.0.1:7777".parse().unwrap()).unwrap();
        let services = fs::read_to_string(directory.path().join("services.yaml")).unwrap();
        assert_eq!(
            (services.matches("kind: Service\n").count(), services.matches("port: 7777").count()),
            (3, 2)
        );
        let slice = fs::read_to_string(directory.path().join(SLICE_FILE)).unwrap();
        assert!(slice.contains("service-name: httpbin,") && slice.contains("port: 7777"));
    }
}

//! A VM that has a token and no certificate gets one from the real istiod's CA, and is in the mesh with it: what the guide
//! has `node_agent` say ("CSR is approved successfully").

use eastgate_loadtest::ca::roots_from_file;
use eastgate_loadtest::origin::Clients;

use super::*;
use crate::machine::{Directory, VM, httpbin, own_address};

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiods_ca_lets_a_vm_with_a_token_into_the_mesh() {
    let Some(mesh) = Mesh::start().await else { return };
    let issuer = std::fs::read_to_string(mesh.istiod.text("root")).unwrap();
    // A pod that believes only whom istiod's CA has signed.
    let mut options = origin::Options::new("strict", mesh.ca.issue(&[SPIFFE]).unwrap());
    options.clients = Clients::Verified(roots_from_file(Path::new(mesh.istiod.text("root"))).unwrap());
    let pod = Origin::start(options).await.unwrap();

    let (name, port) = (mesh.istiod.text("server_name"), mesh.istiod.address("secure").port());
    let directory = Directory::new(&format!(
        "CA_ADDR='{name}:{port}'\nCLUSTER_GW_ADDR='127.0.0.1'\nISTIO_NAMESPACE='vm'\nSERVICE_ACCOUNT='default'\n"
    ));
    directory.write("hosts", &format!("127.0.0.1 {name}\n"));
    directory.write("root-cert.pem", &(issuer + mesh.ca.certificate_pem()));
    let ask = "/token?namespace=vm&account=default";
    directory.write("istio-token", &mesh.istiod.send("GET", ask, None).await);
    let vip = own_address();
    directory.write("httpbin.yaml", &httpbin(vip, pod.address().port()));
    let vm = directory.run(|layers, _| layers).await;
    let (status, said) = http_get((vip, 8000).into(), "/hostname").await;
    assert!(status == 200 && said.contains(VM), "{status} {said}");
    assert!(vm.metric("tls_certificate_expiry_timestamp_seconds").await > 1e9);
}

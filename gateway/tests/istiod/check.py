#!/usr/bin/env python3
"""Proves that the istiod built here is the whole of istiod: plaintext, TLS, JWT, CSR, live YAML.

Usage: check.py PATH-TO-ISTIOD-BINARY   (Python with grpcio and xds-protos: ../scripted/setup.sh)
Prints one JSON line for each check; exits 1 if one fails.
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import grpc
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

HERE = Path(__file__).parent
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
HTTPBIN = "outbound_.8000_._.httpbin.bar.svc.cluster.local"
UNHEALTHY = 2  # istiod is not of one mind about these (README.md)
failures = 0


def report(name, passed, **detail):
    global failures
    failures += not passed
    print(json.dumps({"check": name, "verdict": "pass" if passed else "fail", **detail}), flush=True)


def http(method, url):
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=15) as response:
        return response.read()


def first_request(type_url, names=(), account="istio-eastwestgateway"):
    request = discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names)
    request.node.id = "router~127.0.0.9~istio-eastwestgateway-0.istio-system~istio-system.svc.cluster.local"
    # Without NETWORK the gateway would be given its own network's gateway, itself, as the only endpoint.
    request.node.metadata.update({"NAMESPACE": "istio-system", "SERVICE_ACCOUNT": account, "CLUSTER_ID": "Kubernetes",
                                  "NETWORK": "network1", "ISTIO_VERSION": "1.31.0"})
    return request


def ask(channel, metadata=(), **request):
    """The first answer to a first CDS request, or the status that refuses it."""
    stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(
        iter([first_request(CLUSTER, **request)]), metadata=metadata, timeout=10)
    try:
        return len(next(stream).resources)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def field(number, payload):
    """A length-delimited protobuf field: enough to speak IstioCertificateService without its .proto."""
    size, encoded = len(payload), b""
    while True:
        encoded += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + encoded + payload


def sign(channel, metadata, directory):
    """Sends a CSR and returns the certificates that come back."""
    subprocess.run(["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=eastgate", "-keyout",
                    directory / "key.pem", "-out", directory / "csr.pem"], check=True, capture_output=True)
    call = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate",
                               request_serializer=bytes, response_deserializer=bytes)
    answer = call(field(1, (directory / "csr.pem").read_bytes()), metadata=metadata, timeout=10)
    certificates = answer.split(b"-----BEGIN CERTIFICATE-----")[1:]
    leaf = b"-----BEGIN CERTIFICATE-----" + certificates[0].split(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
    (directory / "cert.pem").write_bytes(leaf)
    return certificates


def endpoints(response):
    """The ready endpoints of httpbin."""
    assignments = []
    for body in response.resources:
        assignment = endpoint_pb2.ClusterLoadAssignment()
        body.Unpack(assignment)
        if assignment.cluster_name == HTTPBIN:
            assignments += [e.endpoint.address.socket_address.address for l in assignment.endpoints for e in l.lb_endpoints if e.health_status != UNHEALTHY]
    return sorted(assignments)


def main():
    scratch = Path(tempfile.mkdtemp(prefix="eastgate-check-"))
    shutil.copytree(HERE / "mesh", scratch / "mesh")
    started = time.monotonic()
    istiod = subprocess.Popen([sys.argv[1], "--config", scratch / "mesh", "--mesh", HERE / "mesh.yaml", "--networks", HERE / "networks.yaml",
                               "--lifetime", "2m"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        at = json.loads(istiod.stdout.readline())
        report("starts", True, seconds=round(time.monotonic() - started, 2))
        plain = grpc.insecure_channel(at["xds"])
        clusters = ask(plain)
        report("15010 answers without credentials", clusters, clusters=clusters)

        override = [("grpc.ssl_target_name_override", at["server_name"])]
        root = Path(at["root"]).read_bytes()
        secure = grpc.secure_channel(at["secure"], grpc.ssl_channel_credentials(root), override)
        bearer = lambda query="": [("authorization", "Bearer " + http("GET", f"http://{at['admin']}/token?{query}").decode())]
        refused = ask(secure)
        report("15012 without credentials is UNAUTHENTICATED", str(refused).startswith("UNAUTHENTICATED"), answer=refused)
        answer = ask(secure, bearer())
        report("15012 with a JWT answers", answer == clusters, clusters=answer)
        answer = ask(secure, bearer("audience=other"))
        report("15012 with a JWT for another audience is UNAUTHENTICATED", str(answer).startswith("UNAUTHENTICATED"), answer=answer)
        answer = ask(secure, bearer("ttl=-1m"))
        report("15012 with an expired JWT is UNAUTHENTICATED", str(answer).startswith("UNAUTHENTICATED"), answer=answer)
        answer = ask(secure, bearer(), account="another")
        report("15012 with a JWT of another account is PERMISSION_DENIED", str(answer).startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")), answer=answer)

        chain = sign(secure, bearer(), scratch)
        names = subprocess.run(["openssl", "x509", "-in", scratch / "cert.pem", "-noout", "-ext", "subjectAltName", "-enddate"],
                               check=True, capture_output=True, text=True).stdout.split("\n")
        report("CSR is signed", "spiffe://cluster.local/ns/istio-system/sa/istio-eastwestgateway" in names[1], certificates=len(chain), san=names[1].strip(), end=names[2])
        (scratch / "chain.pem").write_bytes((scratch / "cert.pem").read_bytes() + b"".join(b"-----BEGIN CERTIFICATE-----" + c.split(b"-----END")[0] + b"-----END CERTIFICATE-----\n" for c in chain[1:]))
        mutual = grpc.secure_channel(at["secure"], grpc.ssl_channel_credentials(root, (scratch / "key.pem").read_bytes(), (scratch / "chain.pem").read_bytes()), override)
        answer = ask(mutual)
        report("15012 with the signed certificate answers", answer == clusters, clusters=answer)

        live(plain, scratch, at)
    finally:
        istiod.stdin.close()
        report("ends when stdin closes", istiod.wait(10) == 0)
        shutil.rmtree(scratch)
    sys.exit(failures > 0)


def live(channel, scratch, at):
    """Edits YAML under an open EDS stream and waits for the answers."""
    outbox = queue.Queue()
    outbox.put(first_request(ENDPOINTS, [HTTPBIN]))
    stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(iter(outbox.get, None), timeout=30)

    def receive():
        response = next(stream)
        outbox.put(discovery_pb2.DiscoveryRequest(type_url=ENDPOINTS, resource_names=[HTTPBIN], response_nonce=response.nonce, version_info=response.version_info))
        return endpoints(response)

    def until(wanted, edit):
        started = time.monotonic()
        edit()
        while True:
            got = receive()
            if wanted(got):
                return round(time.monotonic() - started, 3), got

    before = receive()
    httpbin = scratch / "mesh" / "httpbin.yaml"
    original = httpbin.read_text()
    seconds, got = until(lambda e: "127.0.0.99" in e, lambda: httpbin.write_text(original.replace("127.0.0.23", "127.0.0.99")))
    report("an edited EndpointSlice arrives", True, seconds=seconds, before=before, after=got)
    rule = "spec:\n  host: httpbin.bar.svc.cluster.local\n  trafficPolicy:\n"
    seconds, got = until(lambda e: e == [], lambda: httpbin.write_text(original.replace(rule, rule + "    tls: {mode: DISABLE}\n")))
    report("an edited DestinationRule (mTLS off) empties the SNI cluster", True, seconds=seconds)

    def restore():
        httpbin.write_text(original)
        http("POST", f"http://{at['admin']}/reload")
    seconds, got = until(lambda e: e == before, restore)
    report("put back", True, seconds=seconds)
    outbox.put(None)
    stream.cancel()


main()

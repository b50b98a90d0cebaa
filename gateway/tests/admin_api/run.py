"""The admin port against its own description (schemathesis), and the status page in a real browser (Chromium).

    python run.py EASTGATE [--screenshots DIR]

Needs schemathesis (`setup.sh` of `scripted` installs it) and, for the page, chromium; says what it did not run.
"""

import argparse
import contextlib
import json
import os
import re
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

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[2] / "config" / "examples" / "httpbin"
# What ends the process, makes it not ready, or has it log each of thousands of requests.
EXCLUDED = ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/logging"]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
NAME = "outbound_.8000_._.httpbin.bar.global"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(binary, mesh, *more):
    admin = f"127.0.0.1:{free_port()}"
    command = [binary, "run", "--mesh-dir", str(mesh), "--admin", admin, "--readiness", "", "--access-log", ""]
    command += ["--log-level", "warn", *more]
    gateway = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{admin}/ready", timeout=2):
                return gateway, f"http://{admin}"
        except OSError:
            time.sleep(0.05)
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


def browse(url, scratch, *flags):
    """Loads a page, and gives what it holds after a few looks at the gateway, what it said, and whom it asked."""
    log = scratch / "net.json"
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    # What the browser itself would ask its makers is not the page's.
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command += ["--disable-default-apps", "--disable-extensions", "--disable-domain-reliability", "--no-pings"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={scratch / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--virtual-time-budget=6000"]
    done = subprocess.run([*command, *flags, url], capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # What the browser asks on its own account has no initiator; what the page asks has the page's origin.
    jobs = re.findall(r'"initiator":"(https?://[^"]+)"[^\n]*?"url":"([^"]+)"', log.read_text(errors="replace"))
    return done.stdout, said, {asked for _, asked in jobs}


def page(url, screenshots, many):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        dom, said, asked = browse(f"{url}/", scratch, "--dump-dom")
        wrong = []
        if said:
            wrong.append(f"the console says: {said[:3]}")
        foreign = sorted(one for one in asked if not one.startswith(f"{url}/"))
        if foreign:
            wrong.append(f"it asks others: {foreign[:3]}")
        if len(asked) < 5:
            wrong.append("the log of requests shows none of the page's own")
        for part in ['data-looked="', ">ready<", *many]:
            if part not in dom:
                wrong.append(f"it has no {part!r}")
        rows = dom.count('class="row"')
        if rows > 100:
            wrong.append(f"{rows} rows of clusters are in it, though only some are seen")
        print(f"page: {len(dom)} bytes, {rows} rows of clusters, {len(asked)} addresses asked, {len(said)} lines on the console")
        for problem in wrong:
            print(f"page: FAILED: {problem}")
        if screenshots:
            for mode, flags in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
                shot = screenshots / f"status-page-{mode}.png"
                browse(f"{url}/", scratch, f"--screenshot={shot}", "--window-size=1280,2000", *flags)
        return not wrong


def pod_address(number):
    return f"127.{1 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}"


def name_of(number):
    return f"outbound_.8000_._.service-{number:05}.bar.global"


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
        return 0 if good else 1
    with tempfile.TemporaryDirectory() as directory:
        large_mesh(Path(directory), 10_000)
        gateway, url = start(binary, directory, "--listen", f"15443=127.0.0.1:{port}")
        shown = ["10000 of 10000", "42 open", name_of(0), "DPE", "nearest: outbound_.8000_._.service-00003"]
        with traffic(port):
            good = page(url, options.screenshots, shown) and good
        end(gateway)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

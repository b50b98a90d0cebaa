#!/usr/bin/env python3
"""Captures the ClientHellos of this directory from real clients, over loopback.

    python3 capture.py [--only PATTERN]

Needs: openssl, curl, gnutls-cli (gnutls-bin), go, cargo, and the Python packages curl_cffi and tlslite-ng. A client that is not there
is skipped and named at the end. Each client connects to a socket that reads until the ClientHello is whole, writes it
down and closes; the client's complaint about that is expected.
"""

import argparse
import fnmatch
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
MESH = "outbound_.8000_._.httpbin.bar.global"
PLAIN = "httpbin.bar.global"

GO_CLIENT = """
package main

import (
	"crypto/tls"
	"net"
	"os"
)

func main() {
	config := &tls.Config{ServerName: os.Args[2], InsecureSkipVerify: true, NextProtos: os.Args[4:]}
	switch os.Args[3] {
	case "1.2":
		config.MaxVersion = tls.VersionTLS12
	case "classic":
		config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	_ = tls.Client(conn, config).Handshake()
}
"""


def whole(data):
    """Do the records hold a whole handshake message?"""
    message, at = b"", 0
    while at + 5 <= len(data):
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big")


def capture(client):
    """Runs `client(port)` and gives the first flight that it sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]
        thread = threading.Thread(target=client, args=(port,), daemon=True)
        thread.start()
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            data = b""
            while not whole(data):
                piece = connection.recv(65536)
                if not piece:
                    raise RuntimeError(f"closed after {len(data)} bytes")
                data += piece
        thread.join(10)
        return data


def command(*args):
    """A client that is a command; PORT stands for the port."""

    def run(port):
        args_now = [str(arg).replace("PORT", str(port)) for arg in args]
        subprocess.run(args_now, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)

    return run


def openssl(*args):
    return command("openssl", "s_client", "-connect", "127.0.0.1:PORT", *args)


def curl(*args):
    return command("curl", "-sk", "--max-time", "5", "--resolve", f"{PLAIN}:PORT:127.0.0.1", *args, f"https://{PLAIN}:PORT/")


def gnutls(*args):
    return command("gnutls-cli", "--insecure", "--port", "PORT", "--sni-hostname", MESH, *args, "127.0.0.1")


def python_ssl(name, *protocols, maximum=None):
    def run(port):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if maximum:
            context.maximum_version = maximum
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                context.wrap_socket(connection, server_hostname=name)
        except OSError:
            pass

    return run


def browser(profile):
    """A browser's hello as curl-impersonate makes it: with BoringSSL, set to what that browser sends."""

    def run(port):
        from curl_cffi import CurlOpt, requests

        name = f"{profile.replace('_', '-')}.browsers.bar.global"
        options = {CurlOpt.RESOLVE: [f"{name}:{port}:127.0.0.1"]}
        try:
            requests.get(f"https://{name}:{port}/", impersonate=profile, verify=False, timeout=5, curl_options=options)
        except requests.exceptions.RequestException:
            pass

    return run


def tlslite(name, *protocols, record=None, **settings):
    """tlslite-ng's hello, in records of at most `record` bytes."""

    def run(port):
        from tlslite.api import TLSConnection
        from tlslite.errors import BaseTLSException
        from tlslite.handshakesettings import HandshakeSettings

        chosen = HandshakeSettings()
        for key, value in settings.items():
            setattr(chosen, key, value)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            tls = TLSConnection(connection)
            if record:
                tls.recordSize = record
            try:
                tls.handshakeClientCert(serverName=name, alpn=list(protocols) or None, settings=chosen)
            except (BaseTLSException, OSError):
                pass

    return run


def rustls(target, *args):
    example = ["cargo", "run", "-q", "-p", "eastgate", "--example", "rustls_hello", "--", target, *args]

    def run(port):
        done = subprocess.run(example, cwd=HERE, capture_output=True, check=True)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(done.stdout)
            connection.recv(1)

    return run


def clients(go):
    yield "openssl_default", openssl("-servername", MESH)
    yield "openssl_tls12_only", openssl("-servername", MESH, "-tls1_2")
    yield "openssl_tls13_only", openssl("-servername", MESH, "-tls1_3")
    yield "openssl_tls10", openssl("-servername", MESH, "-tls1", "-cipher", "ALL:@SECLEVEL=0")
    yield "openssl_alpn_istio", openssl("-servername", MESH, "-alpn", "istio-peer-exchange,istio")
    yield "openssl_no_ticket_one_cipher", openssl(
        "-servername", PLAIN, "-tls1_2", "-no_ticket", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"
    )
    yield "openssl_p521_status", openssl("-servername", MESH, "-status", "-groups", "P-521:X25519:X448")
    yield "curl_default", curl()
    yield "curl_http11", curl("--http1.1")
    yield "curl_tls12", curl("--tls-max", "1.2")
    yield "gnutls_default", gnutls()
    yield "gnutls_alpn_istio", gnutls("--alpn", "istio")
    yield "gnutls_tls12", gnutls("--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2")
    yield "python_default", python_ssl(MESH)
    yield "python_alpn_h2", python_ssl(PLAIN, "h2", "http/1.1")
    yield "python_tls12", python_ssl(MESH, maximum=ssl.TLSVersion.TLSv1_2)
    if go:
        yield "go_default_pq", command(go, "PORT", MESH, "default")
        yield "go_alpn_istio_pq", command(go, "PORT", MESH, "default", "istio-peer-exchange", "istio", "h2")
        yield "go_classic_curves", command(go, "PORT", MESH, "classic", "h2")
        yield "go_tls12", command(go, "PORT", MESH, "1.2")
    yield "tlslite_default", tlslite(PLAIN)
    yield "tlslite_alpn_istio_records_of_20", tlslite(PLAIN, b"istio-peer-exchange", b"istio", record=20)
    yield "tlslite_tls12", tlslite(PLAIN, maxVersion=(3, 3))
    yield "tlslite_tls10", tlslite(PLAIN, maxVersion=(3, 1), minVersion=(3, 1))
    yield "tlslite_no_key_share", tlslite(PLAIN, keyShares=[])
    yield "rustls_pq", rustls(MESH)
    yield "rustls_alpn_istio_pq", rustls(PLAIN, "istio")
    for profile in [
        "chrome99", "chrome110", "chrome120", "chrome131", "chrome133a", "chrome146", "chrome150", "chrome131_android",
        "edge101", "firefox133", "firefox147", "safari153", "safari180", "safari184_ios", "safari2601", "tor145",
    ]:
        yield f"browser_{profile}", browser(profile)


def build_go():
    if not shutil.which("go"):
        return None
    directory = pathlib.Path(tempfile.mkdtemp())
    (directory / "main.go").write_text(GO_CLIENT)
    binary = directory / "go_hello"
    subprocess.run(["go", "build", "-o", binary, directory / "main.go"], check=True)
    return binary


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="*", help="capture only the names that match")
    only = arguments.parse_args().only
    failed = []
    for name, client in clients(build_go()):
        if not fnmatch.fnmatch(name, only):
            continue
        try:
            data = capture(client)
        except (OSError, RuntimeError) as error:
            failed.append(f"{name}: {error}")
            continue
        (HERE / f"{name}.bin").write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    print("\n".join(failed), file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Servers to be health-checked: gRPC's own C core with grpc.health.v1 for the service "shop", and Python's HTTP server.

Prints their addresses as a line of JSON. POST /set/http/STATUS or /set/grpc/SERVING-STATUS changes what they say; GET /asked tells how often
each was asked. Ends with its starter.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

says = {"http": 200, "grpc": 1}
asked = {"http": 0, "grpc": 0}


def check(request, context):
    """HealthCheckRequest{service=1} to HealthCheckResponse{status=1}, as bytes."""
    asked["grpc"] += 1
    if request != b"\x0a\x04shop":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return b"\x08" + bytes([says["grpc"]])


class Http(BaseHTTPRequestHandler):
    def answer(self, status, text=""):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        if self.path == "/asked":
            return self.answer(200, json.dumps(asked))
        asked["http"] += 1
        good = self.path == "/healthz" and self.headers["host"] == "shop.bar"
        self.answer(says["http"] if good else 404)

    def do_POST(self):
        _, _, kind, value = self.path.split("/")
        says[kind] = int(value)
        self.answer(200, "{}")

    def log_message(self, *_):
        pass


def main():
    service = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", service),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{http.server_port}"}), flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()

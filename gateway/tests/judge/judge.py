#!/usr/bin/env python3
"""Compares what two proxies hold that are fed by the same control plane: Envoy as the judge of Eastgate.

  judge.py --left HOST:PORT --right HOST:PORT [--wait 10] [--only REGEX] [--ignore FIELD ...]

Reads /config_dump?include_eds of both (admin.v3.ConfigDump as JSON) and, with --live, /clusters?format=json.
Prints one JSON line per difference and one verdict; exits 1 if they differ. Only the standard library.
"""

import argparse
import json
import re
import sys
import time
import urllib.request

# What is compared of each cluster, besides its endpoints: path, and what an absent field means.
CLUSTER_FIELDS = {
    "type": "STATIC",
    "eds_cluster_config.service_name": None,
    "connect_timeout": "5s",
    "lb_policy": "ROUND_ROBIN",
    "least_request_lb_config": None,
    "ring_hash_lb_config": None,
    "maglev_lb_config": None,
    "load_balancing_policy": None,
    "circuit_breakers": None,
    "outlier_detection": None,
    "health_checks": [],
    "common_lb_config": None,
    "upstream_connection_options": None,
    "dns_refresh_rate": "5s",
    "respect_dns_ttl": False,
    "dns_lookup_family": "AUTO",
    "metadata": None,
}
# What is compared of each filter, by the type of its configuration; others are compared by type alone.
FILTER_FIELDS = {
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": {
        "cluster": None, "weighted_clusters": None, "idle_timeout": "3600s", "max_connect_attempts": 1,
        "hash_policy": [], "max_downstream_connection_duration": None, "stat_prefix": None},
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit": {"max_connections": None, "delay": None},
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit": {"token_bucket": None},
    "envoy.extensions.filters.network.rbac.v3.RBAC": {"rules": None, "shadow_rules": None},
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol": {"allow_requests_without_proxy_protocol": False},
}


def get(address, path, patience):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=patience) as response:
        return json.loads(response.read())


def pick(body, fields):
    picked = {}
    for path, otherwise in fields.items():
        value = body
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        picked[path] = plain(otherwise if value is None else value)
    return picked


def plain(value):
    """Brings spellings of one value together: "1.0s" and "1s", 64-bit numbers as text, {} and absence."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in sorted(value.items()) if one not in ({}, [], None)} or None
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, str):
        if re.fullmatch(r"\d+(\.\d+)?s", value):
            return f"{float(value[:-1]):g}s"
        if re.fullmatch(r"\d{1,19}", value):
            return int(value)
    return value


def filters(chain):
    listed = []
    for one in chain.get("filters", []) + chain.get("listener_filters", []):
        config = one.get("typed_config", {})
        kind = config.get("@type", one.get("name", "")).rsplit("/", 1)[-1]
        if kind.endswith("TypedStruct"):
            kind = config.get("type_url", kind).rsplit("/", 1)[-1]
        listed.append({"filter": kind, **pick(config, FILTER_FIELDS.get(kind, {}))})
    return listed


def match_key(match):
    """A filter chain's match as text: what a connection must be for the chain to take it."""
    return json.dumps({key: sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
                       for key, value in sorted((match or {}).items())})


def address(endpoint):
    spot = endpoint.get("endpoint", {}).get("address", {})
    if "socket_address" in spot:
        return "%s:%s" % (spot["socket_address"]["address"], spot["socket_address"].get("port_value", 0))
    return spot.get("pipe", {}).get("path") or json.dumps(spot, sort_keys=True)


def endpoints_of(assignment):
    found = {}
    for group in assignment.get("endpoints", []):
        locality = "/".join(group.get("locality", {}).get(key, "") for key in ("region", "zone", "sub_zone"))
        for one in group.get("lb_endpoints", []):
            found[address(one)] = {
                "locality": locality, "priority": group.get("priority", 0), "locality_weight": group.get("load_balancing_weight") or None,
                "weight": one.get("load_balancing_weight", 1),
                "health": {"UNKNOWN": "HEALTHY"}.get(one.get("health_status", "HEALTHY"), one.get("health_status", "HEALTHY")),
                "more_addresses": sorted(address({"endpoint": more}) for more in one.get("endpoint", {}).get("additional_addresses", []))}
    return found


def holdings(proxy, options):
    """{"listener": {name: fields}, "chain": {listener match: fields}, "cluster": ..., "endpoint": {cluster address: fields}}"""
    held = {"listener": {}, "chain": {}, "cluster": {}, "endpoint": {}}
    for config in get(proxy, "/config_dump?include_eds", options.patience)["configs"]:
        kind = config["@type"].rsplit(".", 1)[-1]
        if kind == "ListenersConfigDump":
            for one in config.get("dynamic_listeners", []):
                listener = one.get("active_state", {}).get("listener")
                if not listener:
                    continue
                name = listener["name"]
                spot = listener.get("address", {}).get("socket_address", {})
                held["listener"][name] = {"address": "%s:%s" % (spot.get("address"), spot.get("port_value", 0)), "rejected": "error_state" in one,
                                          "listener_filters": filters({"listener_filters": listener.get("listener_filters", [])})}
                for chain in listener.get("filter_chains", []):
                    held["chain"][name + " " + match_key(chain.get("filter_chain_match"))] = {"filters": filters(chain), "tls": "transport_socket" in chain}
                if "default_filter_chain" in listener:
                    held["chain"][name + " default"] = {"filters": filters(listener["default_filter_chain"]), "tls": "transport_socket" in listener["default_filter_chain"]}
        elif kind == "ClustersConfigDump":
            for one in config.get("dynamic_active_clusters", []):
                cluster = one.get("cluster")
                if cluster and re.search(options.only, cluster["name"]):
                    held["cluster"][cluster["name"]] = pick(cluster, CLUSTER_FIELDS)
        elif kind == "EndpointsConfigDump":
            for one in config.get("dynamic_endpoint_configs", []):
                assignment = one["endpoint_config"]
                name = assignment.get("cluster_name", "")
                if re.search(options.only, name):
                    for spot, fields in endpoints_of(assignment).items():
                        held["endpoint"][f"{name} {spot}"] = fields
    if options.live:
        held["live"] = {}
        for cluster in get(proxy, "/clusters?format=json", options.patience).get("cluster_statuses", []):
            if cluster.get("added_via_api") and re.search(options.only, cluster["name"]):
                for host in cluster.get("host_statuses", []):
                    spot = host["address"].get("socket_address", {})
                    held["live"]["%s %s:%s" % (cluster["name"], spot.get("address"), spot.get("port_value"))] = {
                        "weight": host.get("weight", 1), "priority": host.get("priority", 0),
                        "zone": host.get("locality", {}).get("zone", ""), "eds_health": host.get("health_status", {}).get("eds_health_status", "HEALTHY")}
    return held


def differences(left, right, ignore):
    found = []
    for kind in left:
        for where in sorted(set(left[kind]) | set(right[kind])):
            a, b = left[kind].get(where), right[kind].get(where)
            if a is None or b is None:
                found.append({"kind": kind, "where": where, "only": "left" if b is None else "right"})
                continue
            for field in sorted(set(a) | set(b)):
                if a.get(field) != b.get(field) and field not in ignore and f"{kind}.{field}" not in ignore:
                    found.append({"kind": kind, "where": where, "field": field, "left": a.get(field), "right": b.get(field)})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--left", required=True, help="admin address of the judge (Envoy)")
    parser.add_argument("--right", required=True, help="admin address of the judged (Eastgate)")
    parser.add_argument("--wait", type=float, default=0, help="wait so long at most for the two to agree")
    parser.add_argument("--at-least", type=int, default=1, help="chains and clusters that both must hold for an agreement to count")
    parser.add_argument("--only", default="", help="regular expression of cluster names to compare (e.g. '^outbound_')")
    parser.add_argument("--ignore", action="append", default=[], help="field, or KIND.FIELD, that may differ")
    parser.add_argument("--live", action="store_true", help="compare /clusters?format=json as well")
    parser.add_argument("--patience", type=float, default=10, help="seconds for one admin request")
    options = parser.parse_args()
    deadline = time.monotonic() + options.wait
    while True:
        left, right = holdings(options.left, options), holdings(options.right, options)
        found = differences(left, right, set(options.ignore))
        enough = min(len(side[kind]) for side in (left, right) for kind in ("chain", "cluster")) >= options.at_least
        if (enough and not found) or time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    for one in found:
        print(json.dumps(one))
    print(json.dumps({"verdict": "equal" if enough and not found else "different" if enough else "too little to compare", "differences": len(found),
                      **{kind + "s": [len(left[kind]), len(right[kind])] for kind in left}}))
    sys.exit(0 if enough and not found else 1)


if __name__ == "__main__":
    main()

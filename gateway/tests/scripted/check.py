#!/usr/bin/env python3
"""Proves that the scenarios notice a client that breaks a rule, and accept one that keeps them.

Usage: check.py   (in the environment of setup.sh)
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BASIC = ["ack_every_response", "nack_keeps_last_good", "duplicate_names", "close_after_thirty_minutes", "resource_exhausted", "huge_message", "stale_nonce"]
# fault -> (variant, the scenario that must fail, the obligation that must be named)
MUST_FAIL = [
    ("never_nacks", "both", "nack_keeps_last_good", "X2"),
    ("answers_with_the_nonce_before", "both", "ack_every_response", None),
    ("acks_with_an_old_version", "sotw", "ack_every_response", "X2"),
    ("nacks_with_the_new_version", "sotw", "nack_keeps_last_good", "X2"),
    ("keeps_the_nonce_over_streams", "both", "close_after_thirty_minutes", None),
    ("sends_no_node", "both", "ack_every_response", "X3"),
    ("forgets_versions_over_streams", "both", "close_after_thirty_minutes", "X4"),
    ("forgets_names_over_streams", "both", "close_after_thirty_minutes", None),
    ("does_not_back_off", "both", "resource_exhausted", "X19"),
    ("acks_every_other", "both", "ack_every_response", None),
    ("takes_duplicates", "both", "duplicate_names", "X10"),
    ("nonce_on_subscriptions", "delta", "delta_removes_by_name", "X5"),
    ("small_messages_only", "both", "huge_message", None),
]


def play(variant, fault, scenarios):
    command = [sys.executable, HERE / "run.py", "--variant", variant, "--patience", "4", "--client",
               f"{sys.executable} {HERE}/faulty_client.py --xds {{xds}} --variant {{variant}} --fault {fault}"]
    for scenario in scenarios:
        command += ["--scenario", scenario]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    if not lines or result.returncode not in (0, 1):
        sys.exit(result.stderr)
    return [line for line in lines if "check" in line and line["verdict"] == "fail"]


def main():
    failures = 0

    def report(name, passed, **detail):
        nonlocal failures
        failures += not passed
        print(json.dumps({"check": name, "verdict": "pass" if passed else "fail", **detail}), flush=True)

    for variant in ("sotw", "delta"):
        failed = play(variant, "none", BASIC)
        report(f"{variant}: a client that keeps the rules passes", not failed, failed=failed)
        for fault, only, scenario, obligation in MUST_FAIL:
            if only in ("both", variant):
                failed = play(variant, fault, [scenario])
                noticed = [f["obligation"] + ": " + f["check"] for f in failed]
                report(f"{variant}: {fault} is noticed by {scenario}", bool(noticed) and (not obligation or any(n.startswith(obligation + ":") for n in noticed)), noticed=noticed[:2])
    sys.exit(failures > 0)


main()

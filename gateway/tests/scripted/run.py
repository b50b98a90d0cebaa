#!/usr/bin/env python3
"""Plays scenarios of the scripted control plane against an xDS client and judges its answers.

  run.py --variant delta --client 'CLIENT --xds {xds} --variant {variant} --admin-file {admin_file}'
  run.py --variant sotw --scenario stale_nonce                # prints {"xds": ...} and waits for a client

One JSON line per check, one per scenario; exit 1 if any failed. README.md has the format.
"""

import argparse
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import failures  # noqa: F401 (registers its scenarios)
import obligations  # noqa: F401
import plane as planes
from client import Client, Unknown
from registry import ALL


class Judge:
    """Collects the verdicts of one scenario."""

    def __init__(self, scenario, variant, known, out):
        self.scenario, self.variant, self.known, self.out = scenario, variant, known, out
        self.counts = {"pass": 0, "fail": 0, "skip": 0, "deviates": 0}

    def check(self, obligation, claim, passed, **detail):
        verdict = "pass" if passed else "fail"
        key = f"{self.scenario}: {claim}"
        if not passed and self.known.get(key) in (self.variant, "both"):
            verdict = "deviates"
        self.say(obligation, claim, verdict, detail)
        return passed

    def holds(self, obligation, claim, client, wanted, **detail):
        """A check of what the client holds; skipped when its admin page is not known."""
        try:
            came, state = client.until(wanted, planes.PATIENCE)
        except Unknown as why:
            return self.say(obligation, claim, "skip", {"why": str(why)})
        return self.check(obligation, claim, came, **detail, **({} if came else {"state": state}))

    def skip(self, obligation, claim, why):
        self.say(obligation, claim, "skip", {"why": why})

    def say(self, obligation, claim, verdict, detail):
        self.counts[verdict] += 1
        print(json.dumps({"scenario": self.scenario, "variant": self.variant, "obligation": obligation, "check": claim, "verdict": verdict, **detail}, default=str), file=self.out, flush=True)


def play(name, options, known):
    scenario = ALL[name]
    judge = Judge(name, options.variant, known, sys.stdout)
    if scenario.variants != "both" and scenario.variants != options.variant:
        print(json.dumps({"scenario": name, "variant": options.variant, "verdict": "skip", "why": f"only for {scenario.variants}"}), flush=True)
        return True
    started = time.monotonic()
    plane = planes.Plane(options.variant, options.listen)
    scratch = tempfile.mkdtemp(prefix="eastgate-scripted-")
    admin_file = options.admin_file or (os.path.join(scratch, "admin") if options.client else None)
    client, process = Client(options.admin, admin_file), None
    if scenario.prepare:
        scenario.prepare(plane)
    if options.client:
        command = [word.format(xds=plane.address, host=plane.address.rsplit(":", 1)[0], port=plane.address.rsplit(":", 1)[1], variant=options.variant,
                               admin_file=admin_file, dir=scratch) for word in shlex.split(options.client)]
        log = open(os.path.join(scratch, "log"), "w+")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    else:
        print(json.dumps({"scenario": name, "variant": options.variant, "xds": plane.address}), flush=True)
    try:
        scenario.play(plane, judge, client, options)
        if process:
            judge.check("P9", "the client is still running", process.poll() is None, code=process.poll())
    except planes.Timeout:
        frame = sys.exc_info()[2]
        while frame.tb_next and not frame.tb_frame.f_code.co_filename.endswith(("obligations.py", "failures.py")):
            frame = frame.tb_next
        where = f"line {frame.tb_lineno} of {Path(frame.tb_frame.f_code.co_filename).name}"
        judge.check("-", "the scenario goes on", False, stuck_at=where, why="the client did not do what the scenario waits for", last_requests=plane.last_requests())
    except planes.Closed:
        try:
            code = process.wait(1) if process else None
        except subprocess.TimeoutExpired:
            code = None
        judge.check("X18", "the client keeps the stream open", False, client_exit_code=code)
    finally:
        if process:
            process.kill()
            process.wait()
            log.seek(0)
            if judge.counts["fail"] and options.show_log:
                print(log.read()[-4000:], file=sys.stderr)
        plane.stop()
        subprocess.run(["rm", "-r", scratch], check=True)
    verdict = "fail" if judge.counts["fail"] else "pass"
    print(json.dumps({"scenario": name, "variant": options.variant, "verdict": verdict, **judge.counts, "seconds": round(time.monotonic() - started, 2)}), flush=True)
    return verdict == "pass"


def end_with_stdin():
    """Ends the process when the pipe that is its stdin closes; a terminal or /dev/null is no such pipe."""
    if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
        while os.read(0, 4096):
            pass
        os._exit(3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=["sotw", "delta"], default="delta")
    parser.add_argument("--scenario", action="append", help="name; may be given again; default: all")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--client", help="command with {xds} {host} {port} {variant} {admin_file} {dir}; without it the runner waits for a client")
    parser.add_argument("--admin", help="admin address of a client that runs already")
    parser.add_argument("--admin-file", help="file into which the client writes its admin address")
    parser.add_argument("--known", help="JSON file of deviations that are known: {\"SCENARIO: CHECK\": \"sotw|delta|both\"}")
    parser.add_argument("--patience", type=float, default=10, help="seconds to wait for each step")
    parser.add_argument("--keepalive", type=float, help="seconds after which the client's own keepalive must give up a silent connection")
    parser.add_argument("--lifetime", type=float, default=900)
    parser.add_argument("--show-log", action="store_true", help="show the end of the client's log when a scenario fails")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    planes.PATIENCE = options.patience
    if options.list:
        for name, scenario in ALL.items():
            print(f"{name:28} {scenario.variants:6} {scenario.play.__doc__.splitlines()[0]}")
        return
    threading.Thread(target=end_with_stdin, daemon=True).start()
    end = threading.Timer(options.lifetime, lambda: os._exit(3))
    end.daemon = True
    end.start()
    known = json.loads(Path(options.known).read_text()) if options.known else {}
    passed = [play(name, options, known) for name in options.scenario or ALL]
    sys.stdout.flush()
    os._exit(0 if all(passed) else 1)  # threads that still wait for the client do not matter


main()

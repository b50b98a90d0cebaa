"""Failures that real control planes and networks have had (F12 to F14, X19), as scenarios like those of obligations.py."""

import time

import grpc
from google.protobuf import any_pb2

import resources
from plane import TYPES, Closed, Timeout
from registry import has_endpoints, nonce_of, scenario, start

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@scenario()
def unknown_extension(plane, judge, client, options):
    """A filter of a type that the client does not have: NACK that names resource and type."""
    session = start(plane)
    bad = session.push("lds", [*plane.world["lds"].values(), resources.unknown_filter("bad")], "2")
    answer = session.expect("lds", "ack", "nack", nonce=bad)
    judge.check("F13", "an unknown filter type is NACKed", answer.kind == "nack")
    judge.check("F13", "the NACK names the resource", "bad" in answer.error, error=answer.error)
    judge.check("F13", "the NACK names the type", "nobody.has" in answer.error, error=answer.error)
    judge.holds("F13", "the listener that was there stays", client, lambda s: s["listeners"].get("in") == ["a", "b"])


@scenario(prepare=lambda plane: plane.refusals.extend([grpc.StatusCode.RESOURCE_EXHAUSTED] * 5))
def resource_exhausted(plane, judge, client, options):
    """The server refuses five streams: the client backs off, does not spin, and does not give up."""
    plane.has()
    session = plane.session(timeout=60)
    times = plane.refused + [session.opened]
    gaps = [round(b - a, 2) for a, b in zip(times, times[1:])]
    judge.check("X19", "five refusals take at least half a second in all", sum(gaps) >= 0.5, gaps=gaps)
    judge.check("X19", "no wait is over 35 s", max(gaps) <= 35, gaps=gaps)
    session.settle(plane)
    judge.check("X19", "it comes through in the end", True, gaps=gaps)
    plane.refusals.extend([grpc.StatusCode.RESOURCE_EXHAUSTED] * 3)
    session.close(UNAVAILABLE)
    plane.session(timeout=60).settle(plane)
    judge.holds("X19", "what it had stays throughout", client, lambda s: "in" in s["listeners"] and has_endpoints(a=["127.0.0.10:80"])(s))


@scenario(prepare=lambda plane: plane.relay.stalled.set())
def accept_then_silence(plane, judge, client, options):
    """The server accepts TCP and never says a word; later it is well."""
    plane.has()
    deadline = time.monotonic() + options.patience
    while not plane.relay.accepted:
        if time.monotonic() > deadline:
            raise Timeout
        time.sleep(0.01)
    if options.keepalive:
        while not plane.relay.closed_by_client and time.monotonic() < plane.relay.accepted[0] + options.keepalive:
            time.sleep(0.01)
        judge.check("F12", "the client gives the silent connection up by itself", bool(plane.relay.closed_by_client), within=options.keepalive)
    else:
        judge.skip("F12", "the client gives the silent connection up by itself", "--keepalive not given")
    judge.check("F12", "it does not spin", len(plane.relay.accepted) <= 5, connections=len(plane.relay.accepted))
    plane.relay.stalled.clear()
    plane.relay.reset()
    plane.session(timeout=60).settle(plane)
    judge.holds("F12", "it comes through in the end", client, lambda s: "in" in s["listeners"])


@scenario()
def silence_on_the_stream(plane, judge, client, options):
    """The stream is taken and nothing is ever said on it; what was known before stays in force."""
    session = start(plane)
    session.close(UNAVAILABLE)
    session = plane.session()
    session.take(10)
    judge.holds("P7", "what it had stays", client, lambda s: "in" in s["listeners"] and has_endpoints(a=["127.0.0.10:80"], b=["127.0.0.11:80"])(s))
    session.close(UNAVAILABLE)
    plane.session(timeout=60).settle(plane)
    judge.check("X18", "it begins anew when that stream ends", True)


@scenario()
def one_byte_a_second(plane, judge, client, options):
    """The answer trickles in at a byte a second for a while: no spinning, and it counts once it is whole."""
    session = start(plane)
    before = len(plane.relay.accepted)
    plane.relay.slow.set()
    nonce = session.push("eds", [resources.endpoints("a", ["127.0.0.82:80"])], "2")
    try:
        session.expect("eds", "ack", nonce=nonce, timeout=3)
        judge.check("F12", "the scenario is slow enough to mean something", False)
    except (Timeout, Closed):
        pass
    connections = len(plane.relay.accepted) - before
    judge.check("F12", "it does not spin", connections <= 5, connections=connections)
    judge.holds("F12", "what it had stays", client, lambda s: "in" in s["listeners"] and s["endpoints"].get("a") in (["127.0.0.10:80"], ["127.0.0.82:80"]))
    plane.world["eds"]["a"] = resources.endpoints("a", ["127.0.0.82:80"])
    plane.version = "2"
    plane.relay.slow.clear()
    plane.relay.opened_tap.set()
    while nonce not in session.answered:
        try:
            session.expect("eds", "ack", nonce=nonce, timeout=60)
        except Closed:  # its keepalive gave the slow connection up: also right
            session = plane.session(timeout=60)
            try:
                session.settle(plane, timeout=60)
                break
            except Closed:
                pass
    judge.holds("F12", "the answer is used once it is whole", client, has_endpoints(a=["127.0.0.82:80"]))


@scenario()
def huge_message(plane, judge, client, options):
    """A response of 8 MiB, over the 4 MiB that gRPC libraries allow by default."""
    plane.has(("a",))
    for n in range(32):
        plane.world["cds"][f"big-{n}"] = resources.cluster(f"big-{n}", padding=256 * 1024)
        plane.world["eds"][f"big-{n}"] = resources.endpoints(f"big-{n}", ["127.0.0.83:80"])
    session = plane.session().settle(plane, timeout=30)
    answers = [r.kind for r in session.requests if r.type == "cds" and r.nonce]
    judge.check("F13", "it is ACKed", answers[:1] == ["ack"], answers=answers)
    judge.holds("F13", "it is in force", client, lambda s: len(s["clusters"]) == 33)


@scenario()
def removed_then_added_again(plane, judge, client, options):
    """A cluster goes and comes back under its name, in three pushes without a pause."""
    session = start(plane)
    a, b = plane.world["cds"]["a"], plane.world["cds"]["b"]
    if plane.variant == "delta":
        nonces = [session.push("cds", [], "2", removed=["b"]), session.push("cds", [b], "3")]
    else:
        nonces = [session.push("cds", [a], "2"), session.push("cds", [a, b], "3")]
    plane.world["eds"]["b"] = resources.endpoints("b", ["127.0.0.86:80"])
    session.given["eds"].discard("b")
    last = session.push("eds", [plane.world["eds"]["b"]], "3")
    for n, nonce in enumerate(nonces):
        judge.check("F13", f"push {n + 1} of clusters is ACKed", session.expect("cds", "ack", "nack", nonce=nonce, plane=plane).kind == "ack")
    if last not in session.answered:
        session.expect("eds", "ack", nonce=last, plane=plane)
    judge.holds("F13", "it is back with its endpoints", client, lambda s: set(s["clusters"]) == {"a", "b"} and s["endpoints"].get("b") == ["127.0.0.86:80"])
    judge.check("F13", "its assignment is subscribed", "b" in session.names["eds"])


@scenario()
def hostile_values(plane, judge, client, options):
    """Names that are not UTF-8, weights that overflow, ports out of range: answered, never a crash."""
    session = start(plane)
    good = list(plane.world["cds"].values())
    name = b"\xff\xfe\xfd"
    cluster = any_pb2.Any(type_url=TYPES["cds"], value=b"\x0a" + bytes([len(name)]) + name)
    for claim, kind, bodies in (
        ("a name that is not UTF-8", "cds", [*good, ("odd", cluster)]),
        ("a body of another type", "cds", [*good, ("odd", any_pb2.Any(type_url=TYPES["lds"], value=b""))]),
        ("a port out of range", "eds", [resources.endpoints("a", ["127.0.0.87:70000"])]),
        ("an address that is none", "eds", [resources.endpoints("a", ["no-address:80"])]),
        ("a cluster without a name", "cds", [*good, resources.cluster("")]),
    ):
        answer = session.expect(kind, "ack", "nack", nonce=session.push(kind, bodies, "2"))
        judge.check("F13", f"{claim} is NACKed", answer.kind == "nack", error=answer.error)
    overflow = resources.endpoints("a", ["127.0.0.87:80"], weight=2**32 - 1, localities=3)
    answer = session.expect("eds", "ack", "nack", nonce=session.push("eds", [overflow], "2"))
    judge.check("F13", "weights that sum to over 2^32 are answered", True, answer=answer.kind, error=answer.error)
    nonce = session.push("eds", [resources.endpoints("a", ["127.0.0.88:80"])], "3")
    judge.check("F13", "a good push after them is ACKed", session.expect("eds", "ack", "nack", nonce=nonce).kind == "ack")
    judge.holds("F13", "and is in force", client, has_endpoints(a=["127.0.0.88:80"], b=["127.0.0.11:80"]))


@scenario()
def push_storm(plane, judge, client, options):
    """Two hundred pushes without waiting: each is answered, the last state wins."""
    session = start(plane)
    nonces = [session.push("eds", [resources.endpoints("a", ["127.0.0.89:%d" % (1000 + n)])], str(n)) for n in range(200)]
    session.expect("eds", "ack", "nack", nonce=nonces[-1], timeout=30)
    answered = [n for n in nonce_of(session.requests, "eds") if n in set(nonces)]
    judge.check("F14", "each push is answered, in order", answered == nonces, sent=len(nonces), answered=len(answered))
    judge.holds("F14", "the last state wins", client, has_endpoints(a=["127.0.0.89:1199"]))

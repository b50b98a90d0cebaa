"""The obligations X1 to X18 of an xDS client, as scenarios.

Each is a function of the plane (what the server does), the judge (what is claimed), the client (what
it holds, if its admin page is known) and the options. `settle` is a correct server up to the point
where the client has all of the plane's world.
"""

import time

import grpc

import resources
from plane import TYPES, Timeout
from registry import has_endpoints, nonce_of, scenario, start, wait_names

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@scenario()
def ack_every_response(plane, judge, client, options):
    """Every response is ACKed once, with its nonce and version; only the first request needs the node."""
    session = start(plane)
    first = session.requests[0]
    judge.check("X3", "the first request carries the node", first.node != "", node=first.node)
    judge.check("X14", "the first request is for clusters", first.type == "cds")
    sent = [session.push("cds", plane.world["cds"].values(), str(n)) for n in (2, 3, 4)]
    acks = [session.expect("cds", "ack", "nack", plane=plane) for _ in sent]
    judge.check("X1", "each response is answered in order with its own nonce", [a.nonce for a in acks] == sent, sent=sent, got=[a.nonce for a in acks])
    judge.check("X1", "each is an ACK", all(a.kind == "ack" for a in acks))
    if plane.variant == "sotw":
        judge.check("X2", "each ACK carries the new version", [a.version for a in acks] == ["2", "3", "4"], got=[a.version for a in acks])
    answered = [r.nonce for r in session.requests if r.nonce and r.kind in ("ack", "nack")]
    judge.check("X1", "no response is answered twice", len(answered) == len(set(answered)))
    judge.check("X1", "no unknown nonce is sent", not [r for r in session.requests if r.kind == "stale"])
    wildcard = [r for r in session.requests if r.type in ("cds", "lds") and [n for n in r.names if n != "*"]]
    judge.check("X6", "clusters and listeners are asked for by wildcard only", not wildcard)


@scenario()
def nack_keeps_last_good(plane, judge, client, options):
    """A response that does not decode is NACKed with the last good version, and nothing is lost."""
    session = start(plane)
    bad = session.push("cds", [*plane.world["cds"].values(), resources.broken("bad", TYPES["cds"])], "2")
    answer = session.expect("cds", "ack", "nack", nonce=bad)
    judge.check("X2", "the response is NACKed", answer.kind == "nack")
    judge.check("X2", "the NACK says why", answer.error != "", error=answer.error)
    if plane.variant == "sotw":
        judge.check("X2", "the NACK carries the last good version", answer.version == "1", got=answer.version)
    else:
        judge.check("X2", "the NACK names the resource", "bad" in answer.error, error=answer.error)
    judge.holds("X2", "the last good clusters stay", client, lambda s: {"a", "b"} <= set(s["clusters"]))
    good = session.push("cds", plane.world["cds"].values(), "3")
    answer = session.expect("cds", "ack", "nack", nonce=good)
    judge.check("X2", "the next good response is ACKed", answer.kind == "ack")
    judge.holds("X2", "endpoints are still there", client, has_endpoints(a=["127.0.0.10:80"], b=["127.0.0.11:80"]))


@scenario()
def good_ones_of_a_bad_push(plane, judge, client, options):
    """One resource is bad: it is named in the NACK, the others of the same push are used."""
    session = start(plane)
    bad = session.push("lds", [resources.listener("in", ["a"]), resources.listener("bad", [""]), resources.listener("new", ["b"])], "2")
    answer = session.expect("lds", "ack", "nack", nonce=bad)
    judge.check("X2", "a listener that routes nowhere is NACKed", answer.kind == "nack")
    judge.check("X2", "the NACK names the resource", "bad" in answer.error, error=answer.error)
    judge.check("X2", "the NACK names no good one", '"new"' not in answer.error, error=answer.error)
    judge.holds("X2", "the good ones are in force", client, lambda s: s["listeners"].get("in") == ["a"] and "new" in s["listeners"] and "bad" not in s["listeners"])


@scenario()
def duplicate_names(plane, judge, client, options):
    """Two resources of one name in a response: NACK, and what was there stays."""
    session = start(plane)
    twice = [resources.cluster("c", 5), resources.cluster("c", 6)]
    plane.world["eds"]["c"] = resources.endpoints("c", ["127.0.0.49:80"])
    nonce = session.push("cds", [*plane.world["cds"].values(), *twice], "2")
    answer = session.expect("cds", "ack", "nack", nonce=nonce, plane=plane)
    judge.check("X10", "duplicate clusters are NACKed", answer.kind == "nack", error=answer.error)
    nonce = session.push("eds", [resources.endpoints("a", ["127.0.0.50:80"]), resources.endpoints("a", ["127.0.0.51:80"])], "2")
    answer = session.expect("eds", "ack", "nack", nonce=nonce)
    judge.check("X10", "duplicate assignments are NACKed", answer.kind == "nack", error=answer.error)
    judge.holds("X10", "the last good clusters stay", client, lambda s: {"a", "b"} <= set(s["clusters"]))


@scenario()
def unrequested_resources(plane, judge, client, options):
    """Assignments nobody asked for, and a type nobody asked for, are ignored."""
    session = start(plane)
    nonce = session.push("eds", [resources.endpoints("a", ["127.0.0.50:80"]), resources.endpoints("stranger", ["127.0.0.51:80"])], "2")
    answer = session.expect("eds", "ack", "nack", nonce=nonce)
    judge.check("X11", "an unrequested assignment is no error", answer.kind == "ack", error=answer.error)
    judge.holds("X11", "the requested one is used", client, has_endpoints(a=["127.0.0.50:80"]))
    session.push("rds", [], "1")
    nonce = session.push("cds", plane.world["cds"].values(), "3")
    answer = session.expect("cds", "ack", "nack", nonce=nonce)
    judge.check("X11", "an unrequested type does not end the stream", answer.kind == "ack")


@scenario("sotw")
def sotw_absence_deletes(plane, judge, client, options):
    """SotW: clusters and listeners that are absent are gone; assignments are not."""
    session = start(plane)
    session.push("eds", [resources.endpoints("a", ["127.0.0.50:80"])], "2")
    session.expect("eds", "ack")
    judge.holds("X8", "a partial EDS response changes what it has and keeps the rest", client, has_endpoints(a=["127.0.0.50:80"], b=["127.0.0.11:80"]))
    empty = session.push("eds", [], "3")
    answer = session.expect("eds", "ack", "nack", nonce=empty)
    judge.check("X8", "an empty EDS response is ACKed", answer.kind == "ack")
    judge.holds("X8", "an empty EDS response changes nothing", client, has_endpoints(a=["127.0.0.50:80"], b=["127.0.0.11:80"]))
    session.push("cds", [plane.world["cds"]["a"]], "4")
    session.expect("cds", "ack")
    judge.holds("X7", "an absent cluster is deleted", client, lambda s: set(s["clusters"]) == {"a"})
    judge.check("X8", "its assignment is unsubscribed", session.names["eds"] == {"a"} or wait_names(session, {"a"}), names=sorted(session.names["eds"]))
    session.push("lds", [], "5")
    judge.check("X7", "an empty LDS response is ACKed", session.expect("lds", "ack", "nack").kind == "ack")
    judge.holds("X7", "an empty LDS response deletes all listeners", client, lambda s: not s["listeners"])
    session.push("cds", [], "6")
    judge.check("X7", "an empty CDS response is ACKed", session.expect("cds", "ack", "nack").kind == "ack")
    judge.holds("X7", "an empty CDS response deletes all clusters", client, lambda s: not s["clusters"])


@scenario("delta")
def delta_removes_by_name(plane, judge, client, options):
    """Delta: only removed_resources deletes; subscription changes carry no nonce."""
    session = start(plane)
    session.push("cds", [resources.cluster("a", connect_timeout=7)], "2")
    session.push("eds", [plane.world["eds"]["a"]], "2")
    session.expect("cds", "ack")
    judge.holds("X9", "a cluster absent from a delta response stays", client, lambda s: set(s["clusters"]) == {"a", "b"} and s["clusters"]["a"] == "7s")
    plane.world["eds"]["c"] = resources.endpoints("c", ["127.0.0.60:80"])
    session.push("cds", [resources.cluster("c")], "3")
    change = session.expect("eds", "change", where=lambda r: "c" in r.names, plane=plane)
    judge.check("X5", "a spontaneous subscription carries no nonce", change.nonce == "", nonce=change.nonce)
    judge.check("X5", "it names only what is new", change.names == ["c"], names=change.names)
    judge.holds("X9", "the new cluster has its endpoints", client, has_endpoints(c=["127.0.0.60:80"]))
    session.push("cds", [], "4", removed=["c"])
    judge.holds("X9", "a removed cluster is gone", client, lambda s: set(s["clusters"]) == {"a", "b"})
    judge.check("X9", "its assignment is unsubscribed by name", wait_names(session, {"a", "b"}))
    last = session.requests[-1]
    judge.check("X5", "a spontaneous unsubscription carries no nonce", not [r for r in session.requests if r.unsubscribe and r.nonce], got=last.nonce)
    nonce = session.push("cds", [], "5", removed=["never-there"])
    judge.check("X9", "removing what was never there is no error", session.expect("cds", "ack", "nack", nonce=nonce).kind == "ack")


@scenario()
def cds_without_eds(plane, judge, client, options):
    """A cluster whose endpoints do not come: others work, it times out, and late endpoints are taken."""
    plane.has(("a",))
    plane.world["cds"]["late"] = resources.cluster("late", fetch_timeout=1)
    plane.world["lds"]["in"] = resources.listener("in", ["a", "late"])
    session = plane.session()
    started = time.monotonic()
    session.expect("lds", "first", plane=plane)
    judge.check("X12", "listeners are asked for after the fetch timeout (1 s here, 15 s by default)", time.monotonic() - started < 5, seconds=round(time.monotonic() - started, 2))
    session.expect("lds", "ack", plane=plane)
    judge.holds("X13", "the listener and the good cluster are in force", client, lambda s: "in" in s["listeners"] and s["endpoints"].get("a") == ["127.0.0.10:80"])
    judge.check("X12", "the missing assignment stays subscribed", "late" in session.names["eds"])
    nonce = session.push("eds", [resources.endpoints("late", ["127.0.0.70:80"])], "2")
    judge.check("X12", "the late assignment is ACKed", session.expect("eds", "ack", "nack", nonce=nonce).kind == "ack")
    judge.holds("X12", "the late assignment is used", client, has_endpoints(late=["127.0.0.70:80"]))


@scenario()
def old_cluster_serves_while_new_warms(plane, judge, client, options):
    """A changed cluster without fresh endpoints: the old one stays in service until they come (istio#28402)."""
    session = start(plane)
    changed = [resources.cluster("a", connect_timeout=9), plane.world["cds"]["b"]]
    session.push("cds", changed, "2")
    judge.holds("X13", "the cluster is not lost while no endpoints came", client, lambda s: s["clusters"].get("a") in ("5s", "9s") and s["endpoints"].get("a") == ["127.0.0.10:80"])
    again = session.push("cds", changed, "3")
    early = [r.nonce for r in session.drain(0.2) if r.type == "cds" and r.kind == "ack"]
    nonce = session.push("eds", [resources.endpoints("a", ["127.0.0.71:80"])], "3")
    judge.check("X13", "the endpoints are ACKed", session.expect("eds", "ack", "nack", nonce=nonce).kind == "ack")
    if again not in session.answered:  # Envoy holds its ACK back while a cluster warms
        session.expect("cds", "ack", nonce=again)
    judge.check("X1", "both pushes of clusters are ACKed in the end", set(session.sent["cds"]) <= session.answered, before_the_endpoints=early)
    judge.holds("X13", "the new cluster takes over with them", client, lambda s: s["clusters"].get("a") == "9s" and s["endpoints"].get("a") == ["127.0.0.71:80"])


@scenario()
def empty_eds(plane, judge, client, options):
    """An assignment without endpoints is valid, and so is one with endpoints after it."""
    session = start(plane)
    for version, addresses in (("2", []), ("3", ["127.0.0.72:80"]), ("4", [])):
        nonce = session.push("eds", [resources.endpoints("a", addresses)], version)
        judge.check("X8", f"{len(addresses)} endpoints are ACKed", session.expect("eds", "ack", "nack", nonce=nonce).kind == "ack")
        judge.holds("X8", f"{len(addresses)} endpoints are in force (version {version})", client, lambda s: s["endpoints"].get("a", []) == addresses)


@scenario()
def version_goes_back(plane, judge, client, options):
    """Versions are opaque: an older or an equal one is taken like any other."""
    session = start(plane)
    for version, address in (("9", "127.0.0.73:80"), ("3", "127.0.0.74:80"), ("3", "127.0.0.75:80")):
        nonce = session.push("eds", [resources.endpoints("a", [address])], version)
        answer = session.expect("eds", "ack", "nack", nonce=nonce)
        judge.check("X2", f"version {version} is ACKed", answer.kind == "ack" and answer.version in ("", version), got=answer.version)
        judge.holds("X2", f"version {version} with {address} is in force", client, has_endpoints(a=[address]))


@scenario()
def stale_nonce(plane, judge, client, options):
    """Requests and responses cross: each response is answered, and the newest nonce carries all names."""
    session = start(plane)
    plane.world["eds"]["c"] = resources.endpoints("c", ["127.0.0.76:80"])
    first = session.push("eds", [resources.endpoints("a", ["127.0.0.77:80"])], "2")
    session.push("cds", [*plane.world["cds"].values(), resources.cluster("c")], "2")
    second = session.push("eds", [resources.endpoints("b", ["127.0.0.78:80"])], "3")
    third = session.push("eds", [resources.endpoints("a", ["127.0.0.79:80"])], "4")
    session.expect("eds", "ack", nonce=third)
    judge.check("X16", "crossing responses are answered in order", nonce_of(session.requests, "eds")[-3:] == [first, second, third], got=nonce_of(session.requests, "eds")[-3:])
    named = "c" in session.names["eds"] or wait_names(session, {"a", "b", "c"})
    judge.check("X16", "the new name is subscribed", named)
    if plane.variant == "sotw":
        last = [r for r in session.requests if r.type == "eds"][-1]
        judge.check("X16", "the last request has the newest nonce and all names, or a server that drops stale nonces misses them",
                    last.nonce == third and set(last.names) == {"a", "b", "c"}, nonce=last.nonce, newest=third, names=last.names)
    nonce = session.push("eds", [plane.world["eds"]["c"]], "5")
    session.expect("eds", "ack", nonce=nonce)
    judge.holds("X16", "the last state wins", client, has_endpoints(a=["127.0.0.79:80"], b=["127.0.0.78:80"], c=["127.0.0.76:80"]))


def reconnected(plane, judge, claim, accepted):
    """The next stream must begin as X1, X3 and X4 say. `accepted` are the types the client has accepted before."""
    session = plane.session()
    first = session.take(10)
    session.answer(first, plane)
    judge.check("X3", f"{claim}: the first request carries the node", first.node != "")
    session.settle(plane) if plane.world["lds"] else None
    for kind in ("cds", "eds", "lds"):
        mine = [r for r in session.requests if r.type == kind]
        judge.check("X1", f"{claim}: the first {kind} request has no nonce", mine[0].nonce == "", nonce=mine[0].nonce)
        if plane.variant == "sotw":
            if kind in accepted:
                judge.check("X4", f"{claim}: the {kind} request has the last version seen", mine[0].version == plane.version, got=mine[0].version)
        elif kind in accepted:
            judge.check("X4", f"{claim}: the {kind} request has the initial versions", set(mine[0].initial) == set(plane.world[kind]), got=mine[0].initial)
    judge.check("X4", f"{claim}: all assignments are subscribed again", session.names["eds"] == set(plane.world["eds"]), names=sorted(session.names["eds"]))
    return session


@scenario()
def reset_at_each_step(plane, judge, client, options):
    """The stream breaks at each step of the start, and after it; the client begins anew each time."""
    plane.has()
    session = plane.session()
    session.take(10)
    session.close(UNAVAILABLE)  # before anything was said
    session = plane.session()
    session.answer(session.take(10), plane)
    session.close(UNAVAILABLE)  # with the clusters on their way
    session = plane.session()
    session.expect("cds", "ack", plane=plane)
    session.close(UNAVAILABLE)  # after the clusters
    session = plane.session()
    session.expect("eds", "ack", plane=plane)
    session.close(UNAVAILABLE)  # after the assignments
    session = plane.session()
    session.expect("lds", "first", plane=plane)
    session.close(UNAVAILABLE)  # with the listeners on their way
    session = reconnected(plane, judge, "after a reset in each step", ("cds", "eds"))
    judge.holds("X4", "all is in force in the end", client, lambda s: set(s["clusters"]) == {"a", "b"} and "in" in s["listeners"] and has_endpoints(a=["127.0.0.10:80"], b=["127.0.0.11:80"])(s))
    plane.relay.reset()
    session = reconnected(plane, judge, "after an RST", ("cds", "eds", "lds"))
    judge.check("X6", "a subscription by name is never sent empty at the start of a stream", not [r for r in session.requests if r.type == "eds" and r.kind == "first" and not r.names])


@scenario()
def close_after_thirty_minutes(plane, judge, client, options):
    """The server closes orderly, as istiod does every 30 minutes: nothing is lost, nothing moves."""
    session = start(plane)
    for n in range(3):
        session.close()
        session = reconnected(plane, judge, f"close {n + 1}", ("cds", "eds", "lds"))
        judge.holds("X18", f"close {n + 1}: all is still in force", client, lambda s: "in" in s["listeners"] and has_endpoints(a=["127.0.0.10:80"], b=["127.0.0.11:80"])(s))


@scenario()
def changed_while_away(plane, judge, client, options):
    """What changed between two streams is noticed: a cluster gone, a cluster new, endpoints changed."""
    session = start(plane)
    plane.world["cds"].pop("b"), plane.world["eds"].pop("b")
    plane.world["cds"]["c"], plane.world["eds"]["c"] = resources.cluster("c"), resources.endpoints("c", ["127.0.0.80:80"])
    plane.world["eds"]["a"] = resources.endpoints("a", ["127.0.0.81:80"])
    plane.version = "2"
    session.close(UNAVAILABLE)
    session = plane.session()
    first = session.take(10)
    if plane.variant == "delta":
        session.push("cds", [plane.world["cds"]["c"]], "2", removed=["b"])
    else:
        session.answer(first, plane)
    session.expect("eds", plane=plane, where=lambda r: session.names["eds"] == {"a", "c"} or session.names["eds"] == {"a", "b", "c"})
    nonce = session.push("eds", plane.world["eds"].values(), "2")
    session.expect("eds", "ack", nonce=nonce, plane=plane)
    judge.holds("X4", "the difference is in force", client, lambda s: set(s["clusters"]) == {"a", "c"} and has_endpoints(a=["127.0.0.81:80"], c=["127.0.0.80:80"])(s))


@scenario()
def ttl_and_heartbeat(plane, judge, client, options):
    """A resource with a TTL lives on heartbeats without a body, and is gone when they stop."""
    session = start(plane)
    lasting = resources.endpoints("a", ["127.0.0.84:80"])
    session.push("eds", [lasting], "2", ttl=2)
    judge.check("X15", "a resource with a TTL is ACKed", session.expect("eds", "ack", "nack").kind == "ack")
    judge.holds("X15", "it is in force", client, has_endpoints(a=["127.0.0.84:80"]))
    beats = []
    for _ in range(6):
        nonce = session.push("eds", [("a", None)], "2", ttl=2)
        try:
            beats.append(session.expect("eds", "ack", "nack", nonce=nonce, timeout=0.5).kind)
            session.drain(0.5)
        except Timeout:
            beats.append("nothing")
    judge.check("X15", "heartbeats are ACKed", set(beats) == {"ack"}, beats=beats)
    judge.check("X15", "heartbeats are not NACKed", "nack" not in beats, beats=beats)
    judge.holds("X15", "it lives past its TTL by heartbeats", client, has_endpoints(a=["127.0.0.84:80"]))
    judge.holds("X15", "it is gone once they stop", client, lambda s: not s["endpoints"].get("a"))


@scenario()
def wrong_order(plane, judge, client, options):
    """Endpoints before clusters, a listener before its cluster: no NACK, and all is well in the end."""
    session = start(plane, ("a",))
    nonce = session.push("eds", [resources.endpoints("c", ["127.0.0.85:80"])], "2")
    judge.check("X14", "endpoints before their cluster are no error", session.expect("eds", "ack", "nack", nonce=nonce).kind == "ack")
    nonce = session.push("lds", [resources.listener("in", ["a", "c"])], "2")
    answer = session.expect("lds", "ack", "nack", nonce=nonce)
    judge.check("X14", "a listener before its cluster is no error", answer.kind == "ack", error=answer.error)
    judge.holds("X14", "that listener is in force", client, lambda s: s["listeners"].get("in") == ["a", "c"])
    plane.world["eds"]["c"] = resources.endpoints("c", ["127.0.0.85:80"])
    session.given["eds"].discard("c")
    session.push("cds", [plane.world["cds"]["a"], resources.cluster("c")], "2")
    session.expect("eds", plane=plane, where=lambda r: "c" in session.names["eds"])
    judge.holds("X14", "the cluster works once it is there", client, has_endpoints(c=["127.0.0.85:80"]))

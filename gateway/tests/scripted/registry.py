"""What scenarios share: their list, a good start, and a few questions."""

from types import SimpleNamespace

from plane import Timeout

ALL = {}


def scenario(variants="both", prepare=None):
    def add(play):
        ALL[play.__name__] = SimpleNamespace(play=play, variants=variants, prepare=prepare)
        return play
    return add


def start(plane, clusters=("a", "b"), **more):
    """A client that has the whole of a small world."""
    plane.has(clusters, **more)
    return plane.session().settle(plane)


def has_endpoints(**wanted):
    return lambda state: all(state["endpoints"].get(name) == addresses for name, addresses in wanted.items())


def nonce_of(requests, kind):
    return [r.nonce for r in requests if r.type == kind and r.kind in ("ack", "nack")]


def wait_names(session, wanted):
    try:
        session.expect("eds", where=lambda _: session.names["eds"] == wanted)
        return True
    except Timeout:
        return False

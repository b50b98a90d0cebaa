"""A control plane that does exactly what a scenario says, in state-of-the-world and in delta.

A client meets, in this order: a Relay (TCP, where connections are stalled, slowed and reset), a gRPC
server, and a Session for each stream. A scenario drives the Session: `settle` plays a correct server
until the client has all it asked for, `push` sends anything, `expect` waits for an answer.
"""

import itertools
import queue
import socket
import struct
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

import resources

TYPES = {
    "cds": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "eds": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "lds": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "rds": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
WORDS = {url: word for word, url in TYPES.items()}
WILDCARD = ("cds", "lds")


class Timeout(Exception):
    """The client did not do in time what the scenario waits for."""


class Closed(Exception):
    """The client ended the stream."""


@dataclass
class Request:
    """One request, in the words of both variants."""
    type: str
    kind: str  # first, change, ack, nack, stale
    nonce: str
    version: str  # SotW
    names: list  # SotW: all; delta: subscribed by this request
    unsubscribe: list
    initial: dict
    error: str
    node: str
    at: float = field(default_factory=time.monotonic)


class Session:
    """One stream: what was sent and asked on it, by type."""

    def __init__(self, variant, context):
        self.variant, self.context = variant, context
        self.inbox, self.outbox = queue.Queue(), queue.Queue()
        self.requests = []
        self.nonces = itertools.count(1)
        self.sent = defaultdict(list)  # type -> nonces
        self.answered = set()  # nonces that were ACKed or NACKed
        self.names = defaultdict(set)  # type -> subscribed names
        self.given = defaultdict(set)  # type -> names sent since they were asked for
        self.opened = time.monotonic()

    # what the client says

    def take(self, timeout):
        """The next request."""
        try:
            message = self.inbox.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            raise Timeout from None
        if message is None:
            self.inbox.put(None)  # for whoever asks next
            raise Closed
        kind = WORDS.get(message.type_url, message.type_url)
        delta = self.variant == "delta"
        names = list(message.resource_names_subscribe if delta else message.resource_names)
        unsubscribe = list(message.resource_names_unsubscribe) if delta else []
        if delta:
            self.names[kind] = (self.names[kind] | set(names)) - set(unsubscribe)
            self.given[kind] -= set(unsubscribe)
            fresh = set(names) - self.given[kind]
        else:
            fresh = set(names) - self.names[kind]
            self.given[kind] &= set(names)
            self.names[kind] = set(names)
        nonce = message.response_nonce
        if not nonce:
            what = "change" if delta and any(r.type == kind for r in self.requests) else "first"
        elif message.HasField("error_detail"):
            what = "nack"
        elif nonce in self.sent[kind] and nonce not in self.answered:
            what = "ack"
        elif nonce in self.sent[kind][-1:]:
            what = "change"
        else:
            what = "stale"
        if what in ("ack", "nack"):
            self.answered.add(nonce)
        request = Request(kind, what, nonce, "" if delta else message.version_info, names, unsubscribe,
                          dict(message.initial_resource_versions) if delta else {}, message.error_detail.message, message.node.id)
        request.fresh = fresh
        self.requests.append(request)
        return request

    def expect(self, kind, *whats, nonce=None, timeout=None, plane=None, where=lambda _: True):
        """Takes requests until one is of this type and kind. With a plane, answers the others as a correct server."""
        deadline = time.monotonic() + (timeout or PATIENCE)
        while True:
            request = self.take(deadline - time.monotonic())
            if plane:
                self.answer(request, plane)
            if request.type == kind and (not whats or request.kind in whats) and (nonce is None or request.nonce == nonce) and where(request):
                return request

    # what the server says

    def push(self, kind, bodies=(), version="1", removed=(), nonce=None, ttl=None):
        """Sends a response of named bodies: messages of ../resources.py, or (name, Any). Returns its nonce."""
        nonce = nonce or f"{kind}-{next(self.nonces)}"
        items = [resources.pack(kind, body) for body in bodies]
        if self.variant == "delta":
            response = discovery_pb2.DeltaDiscoveryResponse(type_url=TYPES[kind], nonce=nonce, system_version_info=version, removed_resources=removed)
            for name, body in items:
                one = response.resources.add(name=name, version=version)
                if body is not None:
                    one.resource.CopyFrom(body)
                if ttl:
                    one.ttl.FromMilliseconds(int(ttl * 1000))
        else:
            response = discovery_pb2.DiscoveryResponse(type_url=TYPES[kind], nonce=nonce, version_info=version)
            for name, body in items:
                if not ttl:
                    response.resources.append(body)
                    continue
                wrapped = discovery_pb2.Resource(name=name, version=version)
                wrapped.ttl.FromMilliseconds(int(ttl * 1000))
                if body is not None:
                    wrapped.resource.CopyFrom(body)
                packed = any_pb2.Any()
                packed.Pack(wrapped)
                response.resources.append(packed)
        self.sent[kind].append(nonce)
        self.given[kind] |= {name for name, _ in items}
        self.outbox.put(response)
        return nonce

    def answer(self, request, plane):
        """What a correct server sends to a request."""
        world = plane.world[request.type]
        if request.type in WILDCARD:
            if request.kind == "first":
                self.push(request.type, world.values(), plane.version)
        elif request.fresh and request.kind in ("first", "change", "ack"):
            wanted = [world[name] for name in sorted(request.fresh) if name in world]
            if wanted:
                self.push(request.type, wanted, plane.version)

    def settle(self, plane, timeout=None):
        """Plays a correct server until the client has ACKed all of its world."""
        deadline = time.monotonic() + (timeout or PATIENCE)

        def settled():
            if not all(self.sent[kind] and set(self.sent[kind]) <= self.answered for kind in plane.order if plane.world[kind]):
                return False
            return set(plane.world["eds"]) <= self.given["eds"]

        while not settled():
            self.answer(self.take(deadline - time.monotonic()), plane)
        return self

    def drain(self, seconds=0.0):
        """Takes what has come already."""
        taken = []
        try:
            while True:
                taken.append(self.take(seconds))
        except (Timeout, Closed):
            return taken

    def close(self, code=None):
        """Ends the stream: with a gRPC status code, or orderly (OK)."""
        self.outbox.put(code or grpc.StatusCode.OK)

    # gRPC

    def run(self, requests):
        def read():
            try:
                for request in requests:
                    self.inbox.put(request)
            except Exception:  # the stream broke: said by the None below
                pass
            self.inbox.put(None)
            self.outbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            message = self.outbox.get()
            if message is None or message is grpc.StatusCode.OK:
                return
            if isinstance(message, grpc.StatusCode):
                self.context.abort(message, "closed by the scenario")
            yield message


class Relay(threading.Thread):
    """TCP in front of the gRPC server: passes bytes, unless told to stall, slow down or reset."""

    def __init__(self, listen, target):
        super().__init__(daemon=True)
        host, port = listen.rsplit(":", 1)
        self.listener = socket.create_server((host, int(port)))
        self.address = "%s:%d" % self.listener.getsockname()[:2]
        self.target = target
        self.stalled = threading.Event()  # when set, new connections are accepted and left alone
        self.slow = threading.Event()  # when set, bytes to the client come one a second
        self.opened_tap = threading.Event()  # set to end the slowness at once
        self.accepted = []  # times
        self.closed_by_client = []  # times
        self.open = []
        self.copying = []  # threads
        self.resetting = threading.Event()
        self.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            self.accepted.append(time.monotonic())
            self.open.append(client)
            if self.stalled.is_set():
                self.begin(self.watch, client)
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            self.open.append(server)
            for source, sink, to_client in ((client, server, False), (server, client, True)):
                self.begin(self.copy, source, sink, to_client)

    def begin(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.copying.append(thread)
        thread.start()

    def watch(self, client):
        try:
            while client.recv(65536):
                pass
        except OSError:
            pass
        self.closed_by_client.append(time.monotonic())

    def copy(self, source, sink, to_client):
        try:
            while data := source.recv(65536):
                while to_client and self.slow.is_set() and data:
                    sink.sendall(data[:1])
                    data = data[1:]
                    self.opened_tap.wait(1)
                sink.sendall(data)
        except OSError:
            pass
        if self.resetting.is_set():
            return  # a FIN now would come before the RST
        if not to_client:
            self.closed_by_client.append(time.monotonic())
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def reset(self):
        """Drops every connection with an RST."""
        ends, threads = self.open, self.copying
        self.open, self.copying = [], []
        # While a thread waits in recv, close() sends nothing: the kernel keeps the socket for it. So wake them first.
        self.resetting.set()
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RD)
            except OSError:
                pass
        for thread in threads:
            thread.join(5)
        self.resetting.clear()
        for end in ends:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
            except OSError:
                pass


class Plane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """The control plane of one scenario."""

    order = ("cds", "eds", "lds")

    def __init__(self, variant, listen="127.0.0.1:0"):
        self.variant = variant
        self.sessions = queue.Queue()
        self.streams = []  # all there have been
        self.refusals = []  # status codes for the next streams
        self.refused = []  # times
        self.version = "1"
        self.world = {"cds": {}, "eds": {}, "lds": {}, "rds": {}}
        self.server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_ping_strikes", 0), ("grpc.http2.min_ping_interval_without_data_ms", 100)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.relay = Relay(listen, port)
        self.address = self.relay.address

    def StreamAggregatedResources(self, requests, context):
        yield from self.serve("sotw", requests, context)

    def DeltaAggregatedResources(self, requests, context):
        yield from self.serve("delta", requests, context)

    def serve(self, variant, requests, context):
        if self.refusals:
            self.refused.append(time.monotonic())
            context.abort(self.refusals.pop(0), "refused by the scenario")
        session = Session(variant, context)
        self.streams.append(session)
        self.sessions.put(session)
        yield from session.run(requests)

    def session(self, timeout=None):
        """The next stream that a client opens."""
        try:
            session = self.sessions.get(timeout=timeout or PATIENCE)
        except queue.Empty:
            raise Timeout from None
        if session.variant != self.variant:
            raise AssertionError(f"the client speaks {session.variant}, not {self.variant}")
        return session

    def has(self, clusters=("a", "b"), listeners=True):
        """Sets the world to EDS clusters of these names with an endpoint each, and a listener with a chain for each."""
        self.world["cds"] = {name: resources.cluster(name) for name in clusters}
        self.world["eds"] = {name: resources.endpoints(name, ["127.0.0.%d:80" % (10 + i)]) for i, name in enumerate(clusters)}
        self.world["lds"] = {"in": resources.listener("in", clusters)} if listeners else {}
        return self

    def last_requests(self):
        """What the client said last, for whoever wonders why a scenario does not go on."""
        return [f"{r.type} {r.kind} nonce={r.nonce!r} names={r.names}" for stream in self.streams[-1:] for r in stream.requests[-3:]]

    def stop(self):
        self.relay.reset()
        self.server.stop(0)


PATIENCE = 10.0

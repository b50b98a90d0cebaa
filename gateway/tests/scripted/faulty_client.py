#!/usr/bin/env python3
"""A small xDS client that keeps the rules, but for one: proves that the scenarios notice.

Usage: faulty_client.py --xds HOST:PORT --variant sotw|delta [--fault NAME]
"""

import argparse
import queue
import random
import time

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf.message import DecodeError

from plane import TYPES

MESSAGES = {TYPES["cds"]: cluster_pb2.Cluster, TYPES["eds"]: endpoint_pb2.ClusterLoadAssignment, TYPES["lds"]: listener_pb2.Listener}
FAULTS = ("none", "never_nacks", "answers_with_the_nonce_before", "acks_with_an_old_version", "keeps_the_nonce_over_streams", "sends_no_node",
          "forgets_versions_over_streams", "forgets_names_over_streams", "does_not_back_off", "acks_every_other", "takes_duplicates",
          "nacks_with_the_new_version", "small_messages_only", "nonce_on_subscriptions")


class Client:
    def __init__(self, variant, fault):
        self.variant, self.fault = variant, fault
        self.versions = {}  # type -> accepted version (SotW)
        self.held = {url: {} for url in TYPES.values()}  # type -> name -> version
        self.nonces = {}

    def request(self, url, nonce="", names=(), error=None, first=False, version=None, initial=False):
        if self.variant == "delta":
            message = discovery_pb2.DeltaDiscoveryRequest(type_url=url, response_nonce=nonce, resource_names_subscribe=names)
            if initial and self.fault != "forgets_versions_over_streams":
                message.initial_resource_versions.update(self.held[url])
        else:
            message = discovery_pb2.DiscoveryRequest(type_url=url, response_nonce=nonce, resource_names=names)
            message.version_info = version if version is not None else self.versions.get(url, "")
        if first and self.fault != "sends_no_node":
            message.node.id = "faulty"
        if error:
            message.error_detail.code, message.error_detail.message = 3, error
        self.outbox.put(message)

    def names(self):
        return sorted(self.held[TYPES["cds"]])

    def stream(self, stub):
        self.outbox = queue.Queue()
        if self.fault == "forgets_versions_over_streams":
            self.versions.clear()
        if self.fault != "keeps_the_nonce_over_streams":
            self.nonces.clear()
        self.asked = set()
        method = stub.DeltaAggregatedResources if self.variant == "delta" else stub.StreamAggregatedResources
        self.request(TYPES["cds"], self.nonces.get(TYPES["cds"], ""), first=True, initial=True)
        if self.names() and self.fault != "forgets_names_over_streams":
            self.ask_endpoints(initial=True)
        elif self.names():
            self.asked |= set(self.names())
        self.request(TYPES["lds"], self.nonces.get(TYPES["lds"], ""), initial=True)
        count = 0
        for response in method(iter(self.outbox.get, None)):
            count += 1
            self.answer(response, count)
        raise EOFError

    def ask_endpoints(self, initial=False):
        url = TYPES["eds"]
        new = set(self.names()) - self.asked
        self.asked |= new
        if self.variant == "delta":
            nonce = self.nonces.get(url, "") if self.fault == "nonce_on_subscriptions" else ""
            self.request(url, nonce, sorted(new), initial=initial)
        else:
            self.request(url, self.nonces.get(url, ""), self.names(), initial=initial)

    def answer(self, response, count):
        url = response.type_url
        delta = self.variant == "delta"
        names, error = [], ""
        for body in response.resources:
            any_ = body.resource if delta else body
            try:
                message = MESSAGES[url]()
                message.ParseFromString(any_.value)
                names.append(message.cluster_name if url == TYPES["eds"] else message.name)
            except (DecodeError, KeyError) as cause:
                error = f"bad resource {body.name if delta else ''}: {cause}"
        if len(names) != len(set(names)) and self.fault != "takes_duplicates":
            error = "duplicate names"
        if self.fault == "never_nacks":
            error = ""
        before = self.nonces.get(url, "")
        self.nonces[url] = response.nonce
        if not error:
            if delta:
                self.held[url].update({body.name: body.version for body in response.resources})
                for name in response.removed_resources:
                    self.held[url].pop(name, None)
            else:
                accepted = {name: response.version_info for name in names}
                self.held[url] = {**self.held[url], **accepted} if url == TYPES["eds"] else accepted
                if self.fault != "acks_with_an_old_version":
                    self.versions[url] = response.version_info
        if self.fault == "acks_every_other" and count % 2 == 0:
            return
        nonce = before if self.fault == "answers_with_the_nonce_before" and before else response.nonce
        version = response.version_info if not delta and error and self.fault == "nacks_with_the_new_version" else None
        self.request(url, nonce, [] if delta or url != TYPES["eds"] else self.names(), error, version=version)
        if url == TYPES["cds"] and set(self.names()) - self.asked:
            self.ask_endpoints()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--xds", required=True)
    parser.add_argument("--variant", choices=["sotw", "delta"], required=True)
    parser.add_argument("--fault", choices=FAULTS, default="none")
    options = parser.parse_args()
    client = Client(options.variant, options.fault)
    size = 4 << 20 if options.fault == "small_messages_only" else -1
    channel_options = [("grpc.max_receive_message_length", size), ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000), ("grpc.min_reconnect_backoff_ms", 100)]
    failures = 0
    while True:
        with grpc.insecure_channel(options.xds, channel_options) as channel:
            try:
                client.stream(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel))
            except (grpc.RpcError, EOFError):
                failures += 1
        if options.fault != "does_not_back_off":
            time.sleep(0.2 + random.random() * min(0.3 * 2**min(failures, 5), 10) / 4)


main()

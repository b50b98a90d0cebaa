"""The few resources that scenarios are made of."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2


def cluster(name, connect_timeout=5, padding=0, fetch_timeout=None):
    """An EDS cluster. `padding` makes it as big as wanted."""
    one = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    one.connect_timeout.seconds = connect_timeout
    source = one.eds_cluster_config.eds_config
    source.ads.SetInParent()
    source.resource_api_version = config_source_pb2.V3 if hasattr(config_source_pb2, "V3") else 2
    if fetch_timeout:
        source.initial_fetch_timeout.FromMilliseconds(int(fetch_timeout * 1000))
    if padding:
        one.metadata.filter_metadata["padding"].update({"text": "x" * padding})
    return one


def endpoints(name, addresses, weight=1, localities=1):
    """An assignment of HOST:PORT addresses, the same in each locality."""
    one = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for i in range(localities if addresses else 0):
        group = one.endpoints.add()
        group.locality.zone = f"zone-{i}"
        group.load_balancing_weight.value = weight
        for address in addresses:
            host, port = address.rsplit(":", 1)
            socket = group.lb_endpoints.add().endpoint.address.socket_address
            socket.address, socket.port_value = host, int(port)
    return one


def listener(name, clusters):
    """A listener on a free port that passes TLS for each cluster's name to that cluster."""
    one = listener_pb2.Listener(name=name)
    one.address.socket_address.address = "127.0.0.1"
    one.address.socket_address.port_value = 0
    one.listener_filters.add(name="tls_inspector").typed_config.Pack(tls_inspector_pb2.TlsInspector())
    for target in clusters:
        chain = one.filter_chains.add()
        chain.filter_chain_match.server_names.append(f"{target}.example.com")
        chain.filters.add(name="envoy.filters.network.tcp_proxy").typed_config.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix=target, cluster=target))
    return one


def broken(name, type_url):
    """A body that does not decode: field 1 claims more bytes than there are."""
    return name, any_pb2.Any(type_url=type_url, value=b"\x0a\x7fshort")


def unknown_filter(name):
    """A listener with a filter of a type that nobody has."""
    one = listener(name, [])
    chain = one.filter_chains.add()
    chain.filters.add(name="nobody.has.this").typed_config.CopyFrom(any_pb2.Any(type_url="type.googleapis.com/nobody.has.This", value=b""))
    return one


def pack(kind, body):
    """(name, Any) of a message; a pair is taken as it is."""
    if isinstance(body, tuple):
        return body
    packed = any_pb2.Any()
    packed.Pack(body)
    return body.cluster_name if kind == "eds" else body.name, packed

"""What a client holds, as its admin page says: Envoy's /config_dump?include_eds, which Eastgate has too."""

import json
import time
import urllib.request
from pathlib import Path


class Unknown(Exception):
    """What the client holds cannot be seen."""


class Client:
    def __init__(self, admin=None, admin_file=None):
        self.admin, self.admin_file = admin, admin_file

    def address(self, patience):
        if self.admin:
            return self.admin
        if not self.admin_file:
            raise Unknown("no admin address")
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            path = Path(self.admin_file)
            if path.exists() and (text := path.read_text().strip()):
                return text
            time.sleep(0.01)
        raise Unknown(f"no admin address in {self.admin_file}")

    def state(self, patience=10):
        """{"clusters": {name: timeout}, "warming": {...}, "endpoints": {cluster: [addresses]}, "listeners": {name: [clusters of chains]}}"""
        with urllib.request.urlopen(f"http://{self.address(patience)}/config_dump?include_eds", timeout=patience) as response:
            body = response.read()
        try:
            dump = json.loads(body)
        except ValueError:  # Envoy, when it holds a rejected resource that it cannot print
            raise Unknown(f"the admin page is no JSON: {body[:200]!r}") from None
        if "configs" not in dump:
            raise Unknown("the admin page has not the shape of Envoy's config_dump")
        state = {"clusters": {}, "warming": {}, "endpoints": {}, "listeners": {}}
        for config in dump["configs"]:
            kind = config["@type"].rsplit(".", 1)[-1]
            if kind == "ClustersConfigDump":
                for key, into in (("dynamic_active_clusters", "clusters"), ("dynamic_warming_clusters", "warming")):
                    for one in config.get(key, []):
                        if "cluster" in one:
                            state[into][one["cluster"]["name"]] = one["cluster"].get("connect_timeout")
            elif kind == "EndpointsConfigDump":
                for one in config.get("dynamic_endpoint_configs", []):
                    assignment = one["endpoint_config"]
                    state["endpoints"][assignment.get("cluster_name", "")] = sorted(
                        "%s:%s" % (a["address"], a["port_value"])
                        for group in assignment.get("endpoints", []) for e in group.get("lb_endpoints", [])
                        for a in [e["endpoint"]["address"]["socket_address"]])
            elif kind == "ListenersConfigDump":
                for one in config.get("dynamic_listeners", []):
                    active = one.get("active_state", {}).get("listener")
                    if active:
                        state["listeners"][active["name"]] = [
                            f["typed_config"]["cluster"] for chain in active.get("filter_chains", [])
                            for f in chain["filters"] if "cluster" in f.get("typed_config", {})]
        return state

    def until(self, wanted, patience):
        """Waits until the state is as wanted; returns whether it came, and the last state seen."""
        deadline = time.monotonic() + patience
        while True:
            state = self.state(patience)
            if wanted(state) or time.monotonic() > deadline:
                return wanted(state), state
            time.sleep(0.02)

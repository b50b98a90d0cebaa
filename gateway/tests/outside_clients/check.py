"""Clients and headers by others, through a gateway.

    check.py tlslite GATEWAY CA      handshakes of tlslite-ng, whole and in pieces, and hellos that are to be refused
    check.py browsers GATEWAY CA     every browser that curl_cffi knows (BoringSSL), one request each
    check.py scan SERVER GATEWAY     what sslyze finds out about a server has to be the same through the gateway
    check.py headers                 a PROXY protocol header a line, by the package proxy-protocol: hex, client, unique id
    check.py read HEX                what that package reads in a header

GATEWAY and SERVER are ADDRESS:PORT. Prints one line, or fails.
"""

import ipaddress
import json
import socket
import sys

MESH = "outbound_.8000_._.httpbin.bar.global"
PLAIN = "httpbin.example.com"


def tlslite(address, port, _ca):
    from tlslite import tlsconnection
    from tlslite.api import TLSConnection
    from tlslite.errors import TLSRemoteAlert
    from tlslite.handshakesettings import HandshakeSettings

    # It takes no name with an underscore, as the mesh's have.
    tlsconnection.is_valid_hostname = lambda name: True

    def connect(name=MESH, alpn=(b"istio",), record=None, **settings):
        """Shakes hands with the pod, asks it for its name, and gives the protocol and TLS version."""
        chosen = HandshakeSettings()
        for key, value in settings.items():
            setattr(chosen, key, value)
        with socket.create_connection((address, port), timeout=20) as stream:
            tls = TLSConnection(stream)
            if record:
                tls.recordSize = record
            # A server that does not get its bytes hangs here, and the time-out fails the test.
            tls.handshakeClientCert(serverName=name, alpn=list(alpn) or None, settings=chosen)
            tls.sendall(b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
                piece = tls.recv(4096)
                if not piece:
                    break
                answer += piece
            told = json.loads(answer.split(b"\r\n\r\n", 1)[1])
            assert told["server_name"] == name, told
            return tls.session.appProto, tls.version

    good = [
        ({}, (3, 4)),
        ({"maxVersion": (3, 3)}, (3, 3)),
        ({"minVersion": (3, 4)}, (3, 4)),
        # The hello in many records, the last of them of a byte or two.
        ({"record": 64}, (3, 4)),
        ({"record": 17}, (3, 4)),
        ({"record": 1}, (3, 4)),
        ({"record": 33, "maxVersion": (3, 3)}, (3, 3)),
        ({"record_size_limit": 64}, (3, 4)),
        # No share that the server takes: it asks for another hello.
        ({"keyShares": []}, (3, 4)),
        ({"keyShares": ["secp521r1"], "eccCurves": ["secp521r1", "secp384r1", "secp256r1", "x25519"]}, (3, 4)),
        ({"cipherNames": ["chacha20-poly1305"]}, (3, 4)),
        ({"use_heartbeat_extension": False, "usePaddingExtension": False}, (3, 4)),
        ({"useEncryptThenMAC": False, "useExtendedMasterSecret": False}, (3, 4)),
        ({"alpn": [b"x" * 200, b"istio-peer-exchange", b"istio"]}, (3, 4)),
        ({"name": PLAIN, "alpn": [b"http/1.1"]}, (3, 4)),
        ({"name": PLAIN, "alpn": []}, (3, 4)),
    ]
    for arguments, version in good:
        alpn, spoken = connect(**arguments)
        assert spoken == version, (arguments, spoken)
        offered = arguments.get("alpn", [b"istio"])
        assert (bytes(alpn) in offered) if offered else not alpn, (arguments, alpn)

    refused = [
        # An extension without a name in it, and none.
        ({"name": ""}, "decode_error"),
        ({"name": None}, "missing_extension"),
        ({"name": "outbound_.8000_._.nobody.bar.global"}, "unrecognized_name"),
        ({"alpn": []}, "no_application_protocol"),
        ({"alpn": [b"h2"]}, "no_application_protocol"),
        ({"alpn": [b"h2"], "record": 5}, "no_application_protocol"),
    ]
    from tlslite.constants import AlertDescription

    for arguments, alert in refused:
        try:
            connect(**arguments)
        except TLSRemoteAlert as error:
            assert error.description == getattr(AlertDescription, alert), (arguments, error)
        else:
            raise AssertionError(f"{arguments} was let through")
    print(f"{len(good)} handshakes of tlslite-ng got through, and {len(refused)} were refused with the alert that fits")


def browsers(address, port, ca):
    from curl_cffi import CurlOpt, requests

    profiles = sorted({profile.value for profile in requests.BrowserType})
    for profile in profiles:
        resolve = {CurlOpt.RESOLVE: [f"{PLAIN}:{port}:{address}"]}
        response = requests.get(
            f"https://{PLAIN}:{port}/hostname", impersonate=profile, verify=ca, timeout=20, curl_options=resolve
        )
        assert response.status_code == 200, (profile, response.status_code)
        assert response.json()["server_name"] == PLAIN, (profile, response.text)
    assert len(profiles) >= 40, profiles
    print(f"{len(profiles)} browsers got through")


def headers():
    from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnknown
    from proxyprotocol.tlv import ProxyProtocolTLV
    from proxyprotocol.v1 import ProxyProtocolV1
    from proxyprotocol.v2 import ProxyProtocolV2

    four = (ipaddress.IPv4Address("198.51.100.7"), 4001), (ipaddress.IPv4Address("192.0.2.1"), 15443)
    six = (ipaddress.IPv6Address("2001:db8::7"), 4002), (ipaddress.IPv6Address("2001:db8::1"), 15443)
    stream = socket.SOCK_STREAM
    tlv = ProxyProtocolTLV(unique_id=b"id-7", authority="www.example.com", alpn=b"h2", netns="blue")
    cases = [
        (ProxyProtocolV1(), ProxyResultIPv4(*four, protocol=stream), "198.51.100.7:4001", ""),
        (ProxyProtocolV1(), ProxyResultIPv6(*six, protocol=stream), "[2001:db8::7]:4002", ""),
        (ProxyProtocolV1(), ProxyResultUnknown(), "", ""),
        (ProxyProtocolV2(), ProxyResultIPv4(*four, protocol=stream), "198.51.100.7:4001", ""),
        (ProxyProtocolV2(), ProxyResultIPv6(*six, protocol=stream), "[2001:db8::7]:4002", ""),
        (ProxyProtocolV2(), ProxyResultIPv4(*four, protocol=stream, tlv=tlv), "198.51.100.7:4001", "id-7"),
        (ProxyProtocolV2(), ProxyResultIPv6(*six, protocol=stream, tlv=tlv), "[2001:db8::7]:4002", "id-7"),
        (ProxyProtocolV2(), ProxyResultLocal(), "", ""),
    ]
    for protocol, result, client, unique_id in cases:
        print(protocol.pack(result).hex(), client or "-", unique_id or "-")


def read(header):
    from proxyprotocol.v1 import ProxyProtocolV1
    from proxyprotocol.v2 import ProxyProtocolV2

    data = bytes.fromhex(header)
    protocol = next(protocol for protocol in (ProxyProtocolV1(), ProxyProtocolV2()) if protocol.is_valid(data[:8]))
    # It verifies the checksum, if there is one.
    result = protocol.unpack(data)
    address, port = result.source
    print(f"{address}:{port} {result.tlv.authority or '-'}")


# All that it can look for, but for the certificate of a server that is sent no name: the gateway leads no such client
# anywhere, and tells it so.
SCANS = """sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 elliptic_curves ems fallback resum reneg early_data compression heartbleed
    openssl_ccs robot http_headers""".split()
# Keys for one handshake, and names that the scanner takes out of a set.
CHANGING = {"public_bytes", "x", "y", "openssl_name"}


def scan(server, gateway):
    import subprocess
    import tempfile

    def found(at):
        with tempfile.NamedTemporaryFile() as file:
            flags = [f"--{scan}" for scan in SCANS]
            command = [sys.executable, "-m", "sslyze", "--mozilla_config", "disable", "--sni", PLAIN, "--quiet", *flags]
            subprocess.run([*command, "--json_out", file.name, at], stdout=subprocess.DEVNULL, check=True, timeout=300)
            result = json.load(file)["server_scan_results"][0]["scan_result"]
        result = {scan: one["result"] for scan, one in result.items() if one["status"] != "NOT_SCHEDULED"}
        assert all(result.values()), f"not all was found out: {result}"
        for old in ("ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites"):
            # A hello of these has no name in it. Whoever it is that refuses it, it is refused.
            for suite in result[old]["rejected_cipher_suites"]:
                suite["error_message"] = "refused"
        # A server need not know every session again; how many of five it does is chance. That it knows some is not.
        resumed = result["session_resumption"]
        for way in ("session_id", "tls_ticket"):
            resumed[f"{way}_resumption_result"] = resumed.pop(f"{way}_successful_resumptions_count", 0) > 0
        return result

    def differences(one, other, where=""):
        if isinstance(one, dict) and isinstance(other, dict):
            for key in sorted((one.keys() | other.keys()) - CHANGING):
                yield from differences(one.get(key), other.get(key), f"{where}/{key}")
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            for index, pair in enumerate(zip(one, other)):
                yield from differences(*pair, f"{where}/{index}")
        elif one != other:
            yield f"{where}: {one}, and through the gateway {other}"

    directly, through = found(server), found(gateway)
    different = list(differences(directly, through))
    assert not different, "\n".join(different)
    suites = [suites for result in through.values() for suites in result.get("accepted_cipher_suites", [])]
    assert len(through) == len(SCANS) and len(suites) > 30, (len(through), len(suites))
    print(f"{len(through)} scans, {len(suites)} suites of all versions, the same through the gateway")


command, arguments = sys.argv[1], sys.argv[2:]
if command in ("tlslite", "browsers"):
    host, _, at = arguments[0].rpartition(":")
    {"tlslite": tlslite, "browsers": browsers}[command](host, int(at), arguments[1])
else:
    {"headers": headers, "read": read, "scan": scan}[command](*arguments)

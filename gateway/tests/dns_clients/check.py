"""Asks a gateway's DNS with dnspython. Usage: check.py ADDRESS PORT; prints one line, or fails."""

import random
import sys

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.reversename

address, port = sys.argv[1], int(sys.argv[2])


def ask(name, kind="A", transport=dns.query.udp, **options):
    query = dns.message.make_query(name, kind, **options)
    return transport(query, address, port=port, timeout=10)


def addresses(response):
    return sorted(item.to_text() for rrset in response.answer for item in rrset)


checks = 0


def expect(what, actual, expected):
    global checks
    checks += 1
    assert actual == expected, f"{what}: {actual!r}, not {expected!r}"


# dnspython itself checks that id, question and section counts are those of the query.
response = ask("httpbin.bar.global")
expect("an address", addresses(response), ["127.255.0.3"])
expect("time to live", response.answer[0].ttl, 30)
expect("authority", bool(response.flags & dns.flags.AA), True)
expect("IPv6", addresses(ask("httpbin.bar.global", "AAAA")), ["2001:db8::3"])
expect("both ways", addresses(ask("httpbin.bar.global", transport=dns.query.tcp)), ["127.255.0.3"])

name = "".join(random.choice([c.upper(), c]) for c in "httpbin.bar.global.")
expect("case", ask(name).answer[0].name.to_text(), name)

for name, kind, code in [
    ("a.wild.global", "AAAA", dns.rcode.NOERROR),
    ("httpbin.bar.global", "TXT", dns.rcode.NOERROR),
    ("bar.global", "A", dns.rcode.NOERROR),
    ("nothing.bar.global", "A", dns.rcode.NXDOMAIN),
]:
    response = ask(name, kind)
    expect(f"{name} {kind}", response.rcode(), code)
    expect(f"{name} {kind}", [rrset.rdtype for rrset in response.authority], [dns.rdatatype.SOA])
expect("not ours", ask("example.com").rcode(), dns.rcode.REFUSED)

query = dns.message.make_query("version.bind", "TXT", rdclass=dns.rdataclass.CH)
expect("chaos", dns.query.udp(query, address, port=port, timeout=10).rcode(), dns.rcode.REFUSED)
expect("EDNS", ask("httpbin.bar.global", use_edns=0, payload=4096).payload, 1232)
expect("a version to come", ask("httpbin.bar.global", use_edns=1).rcode(), dns.rcode.BADVERS)
expect("DO", bool(ask("httpbin.bar.global", want_dnssec=True).ednsflags & dns.flags.DO), True)

response = ask("many.bar.global")
expect("cut", bool(response.flags & dns.flags.TC), True)
query = dns.message.make_query("many.bar.global", "A")
response, used_tcp = dns.query.udp_with_fallback(query, address, port=port, timeout=10)
expect("whole", (used_tcp, len(addresses(response))), (True, 200))

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = [address], port
expect("resolver", [item.to_text() for item in resolver.resolve("x.y.wild.global", "A")], ["240.0.0.4"])
try:
    resolver.resolve("httpbin.bar.global", "MX")
    raise AssertionError("an MX record")
except dns.resolver.NoAnswer:
    checks += 1
back = resolver.resolve(dns.reversename.from_address("127.255.0.3"), "PTR")
expect("back", [item.to_text() for item in back], ["httpbin.bar.global."])
print(f"dnspython: {checks} checks held")

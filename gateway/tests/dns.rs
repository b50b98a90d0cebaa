//! DNS of a running gateway, asked by hickory's resolver, by hand over TCP, and as CoreDNS asks over gRPC.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::{IpAddr, SocketAddr};

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_proto::coredns::DnsPacket;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

fn texts(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

fn documents() -> Vec<(&'static str, Value)> {
    let many: Vec<String> = (1..=200).map(|number| format!("240.1.{number}.1")).collect();
    vec![
        ("gateway.json", gateway(&["*.global"])),
        (
            "httpbin.json",
            addressed_entry("httpbin", "httpbin.bar.global", &texts(&["127.255.0.3", "2001:db8::3"])),
        ),
        ("wild.json", addressed_entry("wild", "*.wild.global", &texts(&["240.0.0.4"]))),
        ("automatic.json", addressed_entry("automatic", "automatic.bar.global", &[])),
        ("many.json", addressed_entry("many", "many.bar.global", &many)),
    ]
}

async fn start(more: impl FnOnce(Layers) -> Layers) -> Gateway {
    let with_dns = |layers: Layers| {
        layers
            .flag("dns.addresses", Some(json!(["127.0.0.1:0"])))
            .flag("dns.grpc_address", Some("127.0.0.1:0"))
    };
    Gateway::start_with(&documents(), |layers| more(with_dns(layers))).await
}

fn resolver(at: SocketAddr) -> TokioResolver {
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = at.port());
    let server = NameServerConfig::new(at.ip(), true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    // Upper and lower case at random, to be found again in the answer.
    options.case_randomization = true;
    options.cache_size = 0;
    options.timeout = PATIENCE;
    builder.build().unwrap()
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn over_udp(at: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, at).await.unwrap();
    let mut answer = [0; 65_535];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, query: &[u8]) -> Message {
    stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
    stream.write_all(query).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

async fn over_grpc(at: SocketAddr, msg: Vec<u8>) -> Result<Message, tonic::Status> {
    let channel = Endpoint::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let method = PathAndQuery::from_static(DnsPacket::METHOD);
    let codec: ProstCodec<DnsPacket, DnsPacket> = ProstCodec::default();
    let answer = client.unary(tonic::Request::new(DnsPacket { msg }), method, codec).await?;
    Ok(Message::from_vec(&answer.into_inner().msg).unwrap())
}

fn addresses_in(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[tokio::test]
async fn a_resolver_finds_the_meshs_names() {
    let gateway = start(|layers| layers).await;
    let at = gateway.app.dns().addresses[0];
    let resolver = resolver(at);
    let of = async |name: &str| -> Vec<IpAddr> {
        let mut found: Vec<_> = resolver.lookup_ip(name).await.unwrap().iter().collect();
        found.sort();
        found
    };
    let expected = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let v4 = resolver.ipv4_lookup("httpbin.bar.global.").await.unwrap();
    assert_eq!(v4.answers()[0].ttl, 30);
    let v6 = resolver.ipv6_lookup("httpbin.bar.global.").await.unwrap();
    assert_eq!(v6.answers()[0].data.ip_addr(), Some("2001:db8::3".parse().unwrap()));
    assert_eq!(of("a.b.wild.global.").await, expected(&["240.0.0.4"]));
    let automatic = of("automatic.bar.global.").await;
    assert!(automatic[0].to_string().starts_with("240.240."), "{automatic:?}");
    // They do not fit a packet, so the resolver has come again over TCP.
    assert_eq!(of("many.bar.global.").await.len(), 200);
    let back = resolver.reverse_lookup("2001:db8::3".parse::<IpAddr>().unwrap()).await.unwrap();
    assert_eq!(back.answers()[0].data.to_string(), "httpbin.bar.global.");
    let unknown = resolver.lookup_ip("nothing.bar.global.").await.unwrap_err();
    assert!(unknown.is_nx_domain(), "{unknown}");
    let missing = resolver.ipv6_lookup("a.wild.global.").await.unwrap_err();
    assert!(missing.is_no_records_found() && !missing.is_nx_domain(), "{missing}");

    let metrics = gateway.admin("/stats/prometheus").await.1;
    for series in [
        "eastgate_dns_responses_total{code=\"NOERROR\",transport=\"tcp\",type=\"A\"}",
        "eastgate_dns_responses_total{code=\"NXDOMAIN\",transport=\"udp\",type=\"A\"}",
        "eastgate_dns_names 4",
        "eastgate_dns_seconds_count",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
    let names = gateway.admin("/names").await.1;
    assert!(names.contains("httpbin.bar.global 127.255.0.3 2001:db8::3\n"), "{names}");
}

#[tokio::test]
async fn an_edit_changes_the_answer() {
    let gateway = start(|layers| layers).await;
    let at = gateway.app.dns().addresses[0];
    let question = query("new.bar.global.", RecordType::A);
    assert_eq!(over_udp(at, &question).await.metadata.response_code, ResponseCode::NXDomain);
    gateway
        .edit("new.json", &addressed_entry("new", "NEW.bar.global", &texts(&["240.0.0.9/32"])).to_string());
    let changed =
        async { while addresses_in(&over_udp(at, &question).await) != [IpAddr::from([240, 0, 0, 9])] {} };
    tokio::time::timeout(PATIENCE, changed).await.expect("the new name");
    std::fs::remove_file(gateway.mesh().join("new.json")).unwrap();
    let gone =
        async { while over_udp(at, &question).await.metadata.response_code != ResponseCode::NXDomain {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the old answer");
}

#[tokio::test]
async fn coredns_is_answered_over_grpc() {
    let gateway = start(|layers| layers).await;
    let at = gateway.app.dns().grpc.unwrap();
    let question = query("HTTPBIN.bar.global.", RecordType::A);
    let answer = over_grpc(at, question.clone()).await.unwrap();
    assert_eq!(answer.metadata.id.to_be_bytes(), question[..2]);
    assert_eq!(addresses_in(&answer), [IpAddr::from([127, 255, 0, 3])]);
    let many = over_grpc(at, query("many.bar.global.", RecordType::A)).await.unwrap();
    assert_eq!(addresses_in(&many).len(), 200);
    let missing = over_grpc(at, query("x.bar.global.", RecordType::A)).await.unwrap();
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(over_grpc(at, vec![1, 2, 3]).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(over_grpc(at, vec![0; 10_000]).await.unwrap_err().code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn one_tcp_connection_takes_many_queries_and_no_more_connections_than_are_allowed() {
    let gateway = start(|layers| layers.flag("dns.max_connections", Some(1))).await;
    let at = gateway.app.dns().addresses[0];
    let mut first = TcpStream::connect(at).await.unwrap();
    for _ in 0..3 {
        let answer = over_tcp(&mut first, &query("httpbin.bar.global.", RecordType::A)).await;
        assert_eq!(addresses_in(&answer).len(), 1);
    }
    let mut second = TcpStream::connect(at).await.unwrap();
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)), "one too many is closed");
    drop(first);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let question = query("httpbin.bar.global.", RecordType::A);
            let mut framed = u16::try_from(question.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(question);
            // Refused ones are reset while they write, or closed before they read.
            if stream.write_all(&framed).await.is_ok() && stream.read_u16().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("room for another");
    assert!(
        gateway
            .admin("/stats/prometheus")
            .await
            .1
            .contains("eastgate_dns_dropped_total{reason=\"connections\",transport=\"tcp\"}")
    );
}

#[tokio::test]
async fn silent_and_oversized_connections_are_closed() {
    let gateway =
        start(|layers| layers.flag("dns.idle_timeout", Some("50ms")).flag("dns.max_query_bytes", Some(512)))
            .await;
    let at = gateway.app.dns().addresses[0];
    let closed = async {
        let mut silent = TcpStream::connect(at).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        let mut slow = TcpStream::connect(at).await.unwrap();
        slow.write_all(&[0, 50, 1]).await.unwrap();
        assert_eq!(slow.read(&mut [0]).await.unwrap(), 0);
        let mut large = TcpStream::connect(at).await.unwrap();
        large.write_u16(513).await.unwrap();
        large.write_all(&[0; 513]).await.unwrap();
        assert!(matches!(large.read(&mut [0]).await, Ok(0) | Err(_)));
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("all closed");
    // A packet that is too long is dropped, and the next one answered.
    UdpSocket::bind("127.0.0.1:0").await.unwrap().send_to(&[0; 600], at).await.unwrap();
    let answer = over_udp(at, &query("httpbin.bar.global.", RecordType::A)).await;
    assert_eq!(addresses_in(&answer).len(), 1);
    gateway
        .admin_until("/stats/prometheus", |text| {
            text.contains("eastgate_dns_dropped_total{reason=\"too_long\",transport=\"udp\"} 1")
                && text.contains("eastgate_dns_dropped_total{reason=\"too_long\",transport=\"tcp\"} 1")
        })
        .await;
}

#[tokio::test]
async fn other_names_are_another_resolvers_to_answer() {
    // A gateway for another zone is as good a resolver as any.
    let other = start(|layers| layers.flag("dns.zones", Some(json!(["example.net"])))).await;
    other
        .edit("other.json", &addressed_entry("other", "web.example.net", &texts(&["192.0.2.7"])).to_string());
    other.admin_until("/names", |text| text.contains("web.example.net")).await;
    let other_at = other.app.dns().addresses[0];
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolvers = json!([deaf.local_addr().unwrap().to_string(), other_at.to_string()]);
    let gateway = start(|layers| {
        layers.flag("dns.forward", Some(resolvers)).flag("dns.forward_timeout", Some("300ms"))
    })
    .await;
    let at = gateway.app.dns().addresses[0];
    let question = query("Web.example.net.", RecordType::A);
    let answer = over_udp(at, &question).await;
    assert_eq!(answer.metadata.id.to_be_bytes(), question[..2]);
    assert_eq!(addresses_in(&answer), [IpAddr::from([192, 0, 2, 7])]);
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(addresses_in(&over_tcp(&mut stream, &question).await), [IpAddr::from([192, 0, 2, 7])]);
    let missing = over_udp(at, &query("x.example.net.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    // The mesh's own are not asked of anybody.
    let own = over_udp(at, &query("httpbin.bar.global.", RecordType::A)).await;
    assert_eq!(addresses_in(&own).len(), 1);
    let refused = over_udp(other_at, &query("example.com.", RecordType::A)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);

    let full = start(|layers| {
        layers.flag("dns.forward", Some(json!([other_at.to_string()]))).flag("dns.max_forwards", Some(0))
    })
    .await;
    let failed = over_udp(full.app.dns().addresses[0], &question).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(
        full.admin("/stats/prometheus").await.1.contains("eastgate_dns_forwards_total{result=\"limit\"} 1")
    );
}

#[tokio::test]
async fn before_the_first_table_there_is_no_answer_yet_and_afterwards_none_any_more() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = format!("http://{}", nobody.local_addr().unwrap());
    let settings = Layers::new()
        .flag("xds.addresses", Some(json!([plane])))
        .flag("dns.addresses", Some(json!(["127.0.0.1:0", "127.0.0.1:0"])))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some("127.0.0.1:0"))
        .flag("access_log.path", Some(""))
        .flag("threads", Some(1));
    let app = App::start(settings.settings().unwrap()).await.unwrap();
    let bound = app.dns().addresses.clone();
    for at in &bound {
        let answer = over_udp(*at, &query("httpbin.bar.global.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(http_get(app.admin_address(), "/names").await.0, 503);
    tokio::time::timeout(PATIENCE, app.stop()).await.expect("it stops");
    for at in &bound {
        UdpSocket::bind(at).await.expect("the address is free again");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_by_its_setting() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap().to_string();
    for key in ["dns.addresses", "dns.grpc_address"] {
        let value = if key == "dns.addresses" { json!([at]) } else { json!(at) };
        let settings = Layers::new()
            .flag("xds.addresses", Some(json!(["http://127.0.0.1:1"])))
            .flag(key, Some(value))
            .flag("admin.address", Some("127.0.0.1:0"))
            .flag("admin.readiness_address", Some("127.0.0.1:0"))
            .flag("access_log.path", Some(""));
        let error = App::start(settings.settings().unwrap()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(key) && text.contains(&at), "{text}");
    }
}

#[tokio::test]
async fn the_answers_of_a_name_take_turns() {
    let gateway = start(|layers| layers).await;
    let at = gateway.app.dns().addresses[0];
    let mut firsts = Vec::new();
    for _ in 0..20 {
        let answer = over_udp(at, &query("many.bar.global.", RecordType::A)).await;
        assert!(answer.metadata.truncation);
        firsts.push(addresses_in(&answer)[0]);
    }
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts.len(), 20, "each query begins with another");
}

//! Envoy and Eastgate on the same resources, with the same connections, tell the same of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

#[path = "support/envoy.rs"]
mod envoy;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::origin::RawOrigin;
use envoy::Envoy;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ECHO: &str = "outbound_.8000_._.echo.bar.svc.cluster.local";
const NARROW: &str = "outbound_.8000_._.narrow.bar.svc.cluster.local";
const DEAD: &str = "outbound_.8000_._.dead.bar.svc.cluster.local";
const EMPTY: &str = "outbound_.8000_._.empty.bar.svc.cluster.local";

/// A series is a name with its labels.
type Series = BTreeMap<String, f64>;

/// Everything that is exposed under Envoy's and Istio's names. The listeners' addresses differ.
fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| line.starts_with("envoy_") || line.starts_with("istio_"));
    let parsed = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.trim_end_matches("{}");
        let name = match name.split_once("envoy_listener_address=\"") {
            Some((before, after)) => format!("{before}address{}", after.split_once('"').unwrap().1),
            None => name.to_owned(),
        };
        (name, value.parse().unwrap())
    });
    parsed.collect()
}

async fn scrape(admin: SocketAddr) -> Series {
    series(&http_get(admin, "/stats/prometheus").await.1)
}

async fn connect(to: SocketAddr, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&client_hello(name, &["istio"])).await.unwrap();
    stream
}

/// A connection to the echoing endpoint that is open, its hello echoed.
async fn echoing(to: SocketAddr, name: &str) -> TcpStream {
    let mut stream = connect(to, name).await;
    let length = client_hello(name, &["istio"]).len();
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    stream
}

/// Waits until the gateway has ended the connection.
async fn ended(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Has each kind of connection made, and gives those that stay open.
async fn drive(to: SocketAddr) -> [TcpStream; 2] {
    for _ in 0..5 {
        let mut stream = echoing(to, ECHO).await;
        stream.write_all(&[7; 1000]).await.unwrap();
        stream.read_exact(&mut [0; 1000]).await.unwrap();
        stream.shutdown().await.unwrap();
        ended(stream).await;
    }
    ended(connect(to, DEAD).await).await;
    ended(connect(to, DEAD).await).await;
    ended(connect(to, EMPTY).await).await;
    ended(connect(to, "unknown.example").await).await;
    let open = [echoing(to, ECHO).await, echoing(to, NARROW).await];
    ended(connect(to, NARROW).await).await;
    open
}

/// Waits until this series has this value, and gives all.
async fn settled(admin: SocketAddr, name: &str, value: f64) -> Series {
    let waiting = async {
        loop {
            let series = scrape(admin).await;
            if series.get(name) == Some(&value) {
                return series;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(series) => series,
        Err(_) => panic!("{name} never was {value}, but {:?}", scrape(admin).await.get(name)),
    }
}

async fn eastgate(
    resources: &serde_json::Value,
    directory: &std::path::Path,
    more: impl FnOnce(Layers) -> Layers,
) -> (App, SocketAddr) {
    let file = directory.join("resources.json");
    std::fs::write(&file, resources.to_string()).unwrap();
    let settings = more(Layers::new())
        .flag("source.xds_file", Some(file.display().to_string()))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some(""))
        .flag("access_log.path", Some(directory.join("eastgate.log").display().to_string()))
        .flag("upstream.hold_empty", Some("0s"))
        .flag("node.labels", Some(json!({ "app": "istio-eastwestgateway" })))
        .flag("threads", Some(1))
        .settings()
        .unwrap();
    let mut app = App::start(settings).await.unwrap();
    let bound = tokio::time::timeout(PATIENCE, app.ready()).await.expect("ready in time").unwrap();
    let address = *bound.values().next().unwrap();
    (app, address)
}

async fn clusters(echo: SocketAddr) -> [serde_json::Value; 4] {
    let one_connection = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1 }] } });
    [
        envoy::cluster(ECHO, &[echo], &json!({})),
        envoy::cluster(NARROW, &[echo], &one_connection),
        envoy::cluster(DEAD, &[nobody()], &json!({})),
        envoy::cluster(EMPTY, &[], &json!({})),
    ]
}

#[tokio::test]
async fn series_with_envoys_names_have_envoys_values() {
    let Some(program) = envoy::program() else { return };
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let clusters = clusters(echo.address()).await;
    let listeners = [envoy::listener(&[ECHO, NARROW, DEAD, EMPTY], &json!([]))];
    let other = Envoy::start(&program, &listeners, &clusters).await;
    let directory = tempfile::tempdir().unwrap();
    let (app, address) =
        eastgate(&envoy::resources(&listeners, &clusters), directory.path(), |layers| layers).await;

    let open = (drive(other.listener).await, drive(address).await);
    let over = "envoy_listener_downstream_cx_destroy{address}";
    let lengths = "envoy_listener_downstream_cx_length_ms_count{address}";
    settled(other.admin, over, 9.0).await;
    // What Envoy says of the server, and of how long something took, it finds out from time to time.
    settled(other.admin, lengths, 9.0).await;
    let open_now = "envoy_server_total_connections";
    let theirs = settled(other.admin, open_now, 2.0).await;
    let ours = settled(app.admin_address(), over, 9.0).await;
    // Of connections that are open, Eastgate counts bytes from time to time only.
    alike(&ours, &theirs, |name| name.contains("_bytes_"));

    drop(open);
    settled(other.admin, over, 11.0).await;
    settled(other.admin, lengths, 11.0).await;
    let theirs = settled(other.admin, open_now, 0.0).await;
    let ours = settled(app.admin_address(), over, 11.0).await;
    alike(&ours, &theirs, |_| false);
    assert!(ours.keys().filter(|name| name.contains("_bytes_")).count() >= 8, "{ours:#?}");

    // Istio's own Envoy, which counts these, is not to be had; they follow from what the two agree on.
    let istio = |name: &str, service: &str, flag: &str| {
        let labels = [
            format!("destination_service=\"{service}.bar.svc.cluster.local\""),
            format!("destination_service_name=\"{service}\",destination_service_namespace=\"bar\""),
            format!("response_flags=\"{flag}\",source_app=\"istio-eastwestgateway\""),
            "reporter=\"source\",request_protocol=\"tcp\"".to_owned(),
        ];
        let found = ours.iter().filter(|(series, _)| {
            series.starts_with(&format!("istio_tcp_{name}{{"))
                && labels.iter().all(|label| series.contains(label))
        });
        found.map(|(_, value)| *value).sum::<f64>()
    };
    assert_eq!(
        ["echo", "dead", "empty"].map(|service| istio("connections_opened_total", service, "-")),
        [6.0, 2.0, 1.0]
    );
    let ends = [
        ("echo", "-", 6.0),
        ("dead", "UF", 2.0),
        ("empty", "UH", 1.0),
        ("narrow", "UO", 1.0),
        ("narrow", "-", 1.0),
    ];
    for (service, flag, count) in ends {
        assert_eq!(istio("connections_closed_total", service, flag), count, "{service} {flag}");
    }
    let of_envoy = |name: &str| {
        theirs[&format!("envoy_tcp_downstream_cx_{name}_bytes_total{{envoy_tcp_prefix=\"{ECHO}\"}}")]
    };
    let bytes = ["sent_bytes_total", "received_bytes_total"].map(|name| istio(name, "echo", "-"));
    assert_eq!(bytes, [of_envoy("tx"), of_envoy("rx")]);
}

/// All that Eastgate shows under Envoy's names is as Envoy has it, except for these.
fn alike(ours: &Series, theirs: &Series, except: impl Fn(&str) -> bool) {
    // Envoy knows these only where a control plane feeds it.
    let fed =
        |name: &str| name.contains("_cds_") || name.contains("_lds_") || name.contains("_control_plane_");
    let of_envoy = |name: &&String| name.starts_with("envoy_") && !fed(name);
    let ours_alone: Vec<_> =
        ours.keys().filter(of_envoy).filter(|name| !theirs.contains_key(*name)).collect();
    assert!(ours_alone.is_empty(), "Envoy has no such series: {ours_alone:#?}");
    let common: Vec<_> = ours.iter().filter(|(name, _)| theirs.contains_key(*name)).collect();
    assert!(common.len() > 80, "{} series: {common:#?}", common.len());
    // How long something takes is not the same in both; how often it was measured is, and in which buckets it falls.
    let families = [
        "cluster_upstream_cx_connect_ms",
        "cluster_upstream_cx_length_ms",
        "listener_downstream_cx_length_ms",
    ];
    let of_one = |name: &str, label: &str| {
        let is_of = |series: &&String| {
            series.starts_with(&format!("envoy_{name}_bucket{{")) && series.contains(label)
        };
        (ours.keys().filter(is_of).count(), theirs.keys().filter(is_of).count())
    };
    for name in families {
        let label = if name.starts_with("cluster") { ECHO } else { "address" };
        assert_eq!(of_one(name, label), (20, 20), "{name}: Eastgate's buckets, and Envoy's");
    }
    let lasts = |name: &str| {
        name.contains("_ms_sum") || (name.contains("_ms_bucket") && !name.contains("le=\"+Inf\""))
    };
    let differ: Vec<_> = common
        .into_iter()
        .filter(|(name, _)| !lasts(name))
        .filter(|(name, _)| !name.contains("uptime") && !except(name))
        .map(|(name, value)| (name, *value, theirs[name]))
        .filter(|(_, ours, theirs)| ours != theirs)
        .collect();
    assert!(differ.is_empty(), "(series, Eastgate, Envoy): {differ:#?}");
}

/// Istio's default, and what of TCP it leaves out.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%\" \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME% \
    %UPSTREAM_CLUSTER% %START_TIME(%Y-%m-%d|%s|%3f)% %FILTER_CHAIN_NAME% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
    %UPSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% %CONNECTION_ID% \
    %RESPONSE_FLAGS_LONG% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %ACCESS_LOG_TYPE% 100%%";

/// A value of the line without what is another one each time: times, ports that the kernel chooses, the wording of reasons.
fn lasting(operator: &str, value: &str) -> String {
    let digits_as = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    match operator {
        // Eastgate tells here why a connection found no endpoint, and Envoy says nothing.
        "%CONNECTION_TERMINATION_DETAILS%" => String::new(),
        _ if value.trim_matches('"') == "-" => value.into(),
        _ if operator.contains("START_TIME") => digits_as(value),
        _ if operator.contains("DURATION") || operator.contains("CONNECTION_ID") => {
            value.parse::<u64>().expect("a number");
            "a number".into()
        }
        _ if operator.contains("_ADDRESS%") || operator.contains("LOCAL_PORT") => {
            value.rsplit_once(':').map_or("a port", |(ip, _)| ip).into()
        }
        _ if operator.contains("FAILURE_REASON") => "a reason".into(),
        // Envoy says as well that it may not try again.
        _ if operator.contains("RESPONSE_FLAGS") => value.split(',').next().unwrap().into(),
        _ => value.into(),
    }
}

fn lasting_line(line: &str) -> Vec<String> {
    let (operators, values): (Vec<_>, Vec<_>) =
        (FORMAT.split(' ').filter(|part| !part.is_empty()).collect(), line.split(' ').collect());
    assert_eq!(operators.len(), values.len(), "{line}");
    operators
        .iter()
        .zip(values)
        .map(|(operator, value)| format!("{operator} {}", lasting(operator, value)))
        .collect()
}

/// The lines of the log, once there are so many.
async fn lines(path: &std::path::Path, count: usize) -> Vec<Vec<String>> {
    let read = || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
    };
    let mut lines: Vec<_> = envoy::until(read).await.lines().map(lasting_line).collect();
    // Lines of connections that end at the same time have no order.
    lines.sort();
    lines
}

#[tokio::test]
async fn a_connections_line_is_the_one_that_envoy_writes() {
    let Some(program) = envoy::program() else { return };
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let clusters = clusters(echo.address()).await;
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("eastgate.log"), directory.path().join("envoy.log"));
    let log = envoy::access_log(&theirs, &format!("{FORMAT}\n"));
    let listeners = [envoy::listener(&[ECHO, NARROW, DEAD, EMPTY], &log)];
    let other = Envoy::start(&program, &listeners, &clusters).await;
    let resources = envoy::resources(&listeners, &clusters);
    let (_app, address) = eastgate(&resources, directory.path(), |layers| {
        layers.flag("access_log.format_string", Some(FORMAT))
    })
    .await;

    let open = (drive(other.listener).await, drive(address).await);
    drop(open);
    let (ours, theirs) = (lines(&ours, 12).await, lines(&theirs, 12).await);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let differ: Vec<_> = ours.iter().zip(theirs).filter(|(ours, theirs)| ours != theirs).collect();
        assert!(differ.is_empty(), "(Eastgate, Envoy): {differ:#?} in\n{}", ours.join("\n"));
    }
    assert_eq!(ours.len(), theirs.len());
}

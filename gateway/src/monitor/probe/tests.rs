use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Options, Origin};
use tokio::net::TcpListener;

use super::*;

fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        unhealthy_threshold: 1,
        healthy_threshold: 1,
        jitter: Duration::ZERO,
        no_traffic_interval: None,
        port: None,
        probe,
    }
}

/// A server that takes one connection, reads what it is sent first, says this and closes.
async fn says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        if answer != b"+PONG\r\n" || stream.read_buf(&mut asked).await.unwrap() > 0 {
            stream.write_all(answer).await.unwrap();
        }
        // Until the other end has closed, so that nothing is lost to a reset.
        let _ = stream.shutdown().await;
        while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {}
    });
    address
}

async fn failure(address: SocketAddr, probe: Probe) -> String {
    ask(address, &check(probe)).await.map_or_else(|failure| failure.to_string(), |()| "none".to_owned())
}

fn tcp(send: &str, receive: &[&str]) -> Probe {
    Probe::Tcp { send: send.into(), receive: receive.iter().map(|text| text.as_bytes().to_vec()).collect() }
}

fn tls() -> Probe {
    Probe::Tls {
        server_name: "outbound_.80_._.httpbin.bar.svc.cluster.local".into(),
        protocols: vec!["istio".into()],
    }
}

#[tokio::test]
async fn tcp_is_content_with_a_connection_or_wants_its_answer() {
    assert_eq!(failure(says(b"").await, tcp("", &[])).await, "none");
    assert_eq!(failure(says(b"+PONG\r\n").await, tcp("PING\r\n", &["PONG"])).await, "none");
    assert!(failure(says(b"-ERR\r\n").await, tcp("PING\r\n", &["PONG"])).await.starts_with("it closed"));
    let nobody = says(b"").await;
    assert_eq!(failure(nobody, tcp("", &[])).await, "none");
    assert!(failure("127.0.0.1:1".parse().unwrap(), tcp("", &[])).await.starts_with("no connection"));
}

#[tokio::test]
async fn http_looks_at_the_status() {
    let http = |expected: &[(u16, u16)]| Probe::Http {
        host: "h".into(),
        path: "/ready".into(),
        expected: expected.into(),
    };
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(failure(says(ok).await, http(&[])).await, "none");
    assert_eq!(failure(says(busy).await, http(&[])).await, "it answers with status 503");
    assert_eq!(failure(says(busy).await, http(&[(200, 201), (500, 504)])).await, "none");
    assert!(failure(says(b"SSH-2.0-x\r\n").await, http(&[])).await.starts_with("it does not speak HTTP"));
}

#[tokio::test]
async fn tls_wants_a_server_hello_and_shows_no_certificate() {
    let ca = Ca::new().unwrap();
    let pod = Origin::start(Options::new("pod", ca.issue(&["spiffe://cluster.local/ns/a/sa/b"]).unwrap()))
        .await
        .unwrap();
    assert_eq!(failure(pod.address(), tls()).await, "none");
    assert!(
        failure(says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, tls())
            .await
            .contains("not answer the ClientHello in TLS")
    );
    let internal_error = b"\x15\x03\x03\x00\x02\x02\x50";
    assert!(failure(says(internal_error).await, tls()).await.ends_with("alert 80"));
    assert!(failure(says(b"").await, tls()).await.starts_with("it closed"));
}

#[tokio::test]
async fn who_says_nothing_has_failed_when_the_timeout_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut check = check(tls());
    check.timeout = Duration::from_millis(50);
    let result = ask(listener.local_addr().unwrap(), &check).await;
    assert!(matches!(result, Err(Failure::TimedOut(_))), "{result:?}");
}

/// gRPC's health service as Go and C++ servers have it, on tonic's server.
mod grpc {
    use std::pin::Pin;

    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tonic::{Request, Response, Status};

    use super::*;

    struct Health;

    impl tonic::server::UnaryService<HealthCheckRequest> for Health {
        type Response = HealthCheckResponse;
        type Future = Pin<Box<dyn Future<Output = Result<Response<HealthCheckResponse>, Status>> + Send>>;

        fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
            let answer = match request.into_inner().service.as_str() {
                "shop" => Ok(Response::new(HealthCheckResponse { status: HealthCheckResponse::SERVING })),
                "closed" => Ok(Response::new(HealthCheckResponse { status: 2 })),
                other => Err(Status::not_found(other)),
            };
            Box::pin(async move { answer })
        }
    }

    async fn respond(
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<tonic::body::Body>, std::convert::Infallible> {
        assert_eq!(request.uri().authority().map(|authority| authority.as_str()), Some("shop.bar"));
        Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(Health, request).await)
    }

    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(respond)));
            }
        });
        address
    }

    #[tokio::test]
    async fn grpc_asks_the_health_service_about_one_service() {
        let address = server().await;
        let ask = |service: &str| {
            failure(address, Probe::Grpc { service: service.into(), authority: "shop.bar".into() })
        };
        assert_eq!(ask("shop").await, "none");
        assert!(ask("closed").await.starts_with("it says that it does not serve"));
        assert!(ask("unknown").await.starts_with("it answers the gRPC check with an error"));
    }
}

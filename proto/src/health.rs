//! gRPC's health service
//! ([`health.proto`](https://github.com/grpc/grpc/blob/master/doc/health-checking.md)).

use prost::Message;

/// Asks whether a service is served (`grpc.health.v1.HealthCheckRequest`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthCheckRequest {
    /// Which; empty for the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

impl HealthCheckRequest {
    /// The method that takes it.
    pub const METHOD: &str = "/grpc.health.v1.Health/Check";
}

/// The answer (`grpc.health.v1.HealthCheckResponse`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthCheckResponse {
    /// 1 is serving.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl HealthCheckResponse {
    /// It is served.
    pub const SERVING: i32 = 1;
}

//! The gateway's parsers of foreign bytes, out of its source and without the rest of it: they are pure, and so a target
//! is built in seconds that would take minutes with gRPC and Kubernetes.

#![allow(dead_code, reason = "the targets use what they look at, and the gateway the rest")]

#[path = "../../gateway/src/client_hello.rs"]
pub mod client_hello;
#[path = "../../gateway/src/proxy_protocol.rs"]
pub mod proxy_protocol;

/// Of DNS what makes an answer of a query.
pub mod dns {
    #[path = "../../../gateway/src/dns/answer.rs"]
    pub mod answer;
    #[path = "../../../gateway/src/dns/name_table.rs"]
    pub mod name_table;
}

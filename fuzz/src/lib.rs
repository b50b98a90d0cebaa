//! The gateway's parsers of foreign bytes, out of its source (by symbolic links) and without the rest of it: they are
//! pure, and so a target is built without Kubernetes and the gateway's other libraries.

#![allow(dead_code, reason = "the targets use what they look at, and the gateway the rest")]

pub mod client_hello;
pub mod proxy_protocol;
pub mod server_hello;

/// Of DNS what makes an answer of a query.
pub mod dns {
    pub mod answer;
    pub mod name_table;
}

/// What a process says to the one that takes over from it.
pub mod restart {
    pub mod frame;
    pub mod state;
}

//! Eastgate: an SNI-routing multicluster ingress gateway.
//!
//! The modules stand in the order in which a connection meets them; ARCHITECTURE.md is the map.

pub mod accept;
pub mod client_hello;
pub mod connection;
pub mod in_flight;
pub mod inspect;
pub mod listener;
pub mod open;

pub mod table;
pub mod upstream;

pub mod proxy_protocol;
pub mod relay;
pub mod server_hello;
pub mod tls;

pub mod publish;
pub mod source;

pub mod access_log;
pub mod admin;
pub mod admin_client;
pub mod attempt;
pub mod closing;
pub mod control_plane;
pub mod dialects;
pub mod dns;
pub mod drain;
pub mod failures;
pub mod gate;
pub mod kubernetes;
pub mod metrics;
pub mod monitor;
pub mod otlp;
pub mod overload;
pub mod readiness;
pub mod restart;
pub mod sandbox;
pub mod shed;
pub mod signals;
pub mod telemetry;

pub mod app;
pub mod args;
pub mod check;
pub mod demo;
pub mod explain_command;
pub mod hello_command;
pub mod register;
pub mod terminal;
pub mod vm;
pub mod xds_command;

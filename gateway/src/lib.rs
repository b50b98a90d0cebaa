//! stub
pub mod client_hello;

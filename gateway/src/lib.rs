//! stub
pub mod client_hello;
pub mod hello_command;

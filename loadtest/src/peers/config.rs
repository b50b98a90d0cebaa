//! The configurations: all the same, one listener, one server name, one origin, one thread, nothing logged.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::{Kind, Setting};
use crate::mesh;

/// Where Debian puts nginx's stream module, which other builds hold already.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Pipes for HAProxy's splice: as many as tunnels move bytes at once, each two descriptors.
const HAPROXY_PIPES: u64 = 256;
/// Descriptors that a peer needs beside its connections.
const SPARE: u64 = 256;

/// Writes a gateway's configuration, and returns the arguments to start it with.
pub(super) fn write(kind: Kind, setting: &Setting<'_>) -> io::Result<Vec<OsString>> {
    let file = |name: &str, text: String| {
        let path = setting.directory.join(name);
        fs::write(&path, text).map(|()| path.into_os_string())
    };
    let mut arguments: Vec<OsString> = Vec::new();
    match kind {
        Kind::Eastgate => {
            let mesh = setting.directory.join("mesh");
            mesh::write(&mesh, 1, setting.origin)?;
            let listen = format!("15443={}", setting.listen);
            arguments.extend(["run", "--threads", "1", "--listen", &listen].map(OsString::from));
            arguments.extend(["--admin", "127.0.0.1:0", "--readiness", ""].map(OsString::from));
            arguments.extend(["--access-log", "", "--log-level", "warn", "--mesh-dir"].map(OsString::from));
            arguments.push(mesh.into_os_string());
        }
        Kind::Envoy => {
            arguments.extend(["--concurrency", "1", "--log-level", "error"].map(OsString::from));
            arguments.extend(["--disable-hot-restart", "-c"].map(OsString::from));
            arguments.push(file("envoy.yaml", envoy(setting))?);
        }
        Kind::Haproxy | Kind::HaproxySplice => {
            // -db: in the foreground and in one process.
            arguments.extend(["-q", "-db", "-f"].map(OsString::from));
            arguments.push(file("haproxy.cfg", haproxy(setting, kind == Kind::HaproxySplice))?);
        }
        Kind::Nginx => {
            arguments.extend(["-p".into(), setting.directory.into(), "-c".into()]);
            arguments.push(file("nginx.conf", nginx(setting, Path::new(NGINX_STREAM).exists()))?);
            // What is said before the configuration is read.
            arguments.extend(["-e", "stderr"].map(OsString::from));
        }
    }
    Ok(arguments)
}

fn envoy(setting: &Setting<'_>) -> String {
    let Setting { listen, origin, server_name, descriptors, .. } = setting;
    let (listen_ip, listen_port) = (listen.ip(), listen.port());
    let (origin_ip, origin_port) = (origin.ip(), origin.port());
    // Envoy's own breaker stops at 1,024 connections.
    format!(
        "static_resources:
  listeners:
  - name: tls
    address: {{socket_address: {{address: {listen_ip}, port_value: {listen_port}}}}}
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:
    - filter_chain_match: {{server_names: ['{server_name}']}}
      filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tls
          cluster: origin
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{max_connections: {descriptors}, max_pending_requests: {descriptors}}}
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {origin_ip}, port_value: {origin_port}}}}}}}
"
    )
}

fn haproxy(setting: &Setting<'_>, splice: bool) -> String {
    let Setting { listen, origin, server_name, descriptors, .. } = setting;
    // HAProxy counts every pipe it might need, and does not start if the limit has no room for all.
    let maxconn = descriptors.saturating_sub(2 * HAPROXY_PIPES + SPARE) / 2;
    // HAProxy 2.6 decides for itself (`splice-auto`) never to splice this load; a peer should show its best.
    let splice = if splice { "  option splice-request\n  option splice-response\n" } else { "" };
    format!(
        "global
  nbthread 1
  maxconn {maxconn}
  maxpipes {HAPROXY_PIPES}
defaults
  mode tcp
  maxconn {maxconn}
{splice}  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend tls
  bind {listen}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend origin if {{ req.ssl_sni -i {server_name} }}
backend origin
  server origin {origin}
"
    )
}

fn nginx(setting: &Setting<'_>, module: bool) -> String {
    let Setting { listen, origin, server_name, descriptors, .. } = setting;
    let module = if module { format!("load_module {NGINX_STREAM};\n") } else { String::new() };
    let connections = descriptors.saturating_sub(SPARE);
    format!(
        "{module}daemon off;
master_process off;
worker_processes 1;
error_log stderr crit;
pid nginx.pid;
events {{ worker_connections {connections}; }}
stream {{
  access_log off;
  upstream origin {{ server {origin}; }}
  map $ssl_preread_server_name $to {{ {server_name} origin; }}
  server {{
    listen {listen};
    ssl_preread on;
    proxy_pass $to;
    proxy_half_close on;
    proxy_timeout 1h;
  }}
}}
"
    )
}

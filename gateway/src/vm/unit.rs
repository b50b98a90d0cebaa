//! The systemd unit of a VM.

/// Its file.
pub(super) const FILE: &str = "eastgate-vm.service";

/// The unit. It stands for both of the early package's, `istio` and `istio-auth-node-agent`.
pub(super) fn unit(user: &str, redirect: bool) -> String {
    let (rules, flag) = match redirect {
        false => (String::new(), ""),
        true => (
            format!(
                "ExecStartPre=+/bin/sh -c '/usr/local/bin/eastgate vm rules --user {user} | nft -f -'\n\
                 ExecStopPost=+/bin/sh -c 'nft delete table inet eastgate'\n"
            ),
            " --redirect",
        ),
    };
    format!(
        "[Unit]\n\
         Description=Eastgate on a VM: the mesh's services for local programs, and local services for the mesh\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         User={user}\n\
         {rules}\
         ExecStart=/usr/local/bin/eastgate vm run --config-dir /var/lib/istio/envoy --certs-dir /etc/certs{flag}\n\
         AmbientCapabilities=CAP_NET_BIND_SERVICE\n\
         CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n\
         NoNewPrivileges=true\n\
         ProtectSystem=strict\n\
         ProtectHome=true\n\
         PrivateTmp=true\n\
         LimitNOFILE=1048576\n\
         LimitCORE=0\n\
         Restart=always\n\
         RestartSec=2\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

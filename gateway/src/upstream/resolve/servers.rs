//! The DNS servers that are asked: those of the settings, else those that the system names, which are looked for until
//! there are some and again when the file has changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use eastgate_config::bootstrap::UpstreamDns;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;

/// A way to ask them.
#[derive(Debug)]
pub(super) struct Servers {
    settings: UpstreamDns,
    system: PathBuf,
    made: Option<(Option<SystemTime>, TokioResolver)>,
}

impl Servers {
    /// Those of the settings, or of this `resolv.conf` where they name none.
    pub(super) fn new(settings: UpstreamDns, system: impl Into<PathBuf>) -> Self {
        Self { settings, system: system.into(), made: None }
    }

    /// A resolver that asks them.
    ///
    /// # Errors
    /// There is no server to ask; says what to do.
    pub(super) fn resolver(&mut self) -> Result<TokioResolver, String> {
        let version = match self.settings.servers.is_empty() {
            true => std::fs::metadata(&self.system).and_then(|file| file.modified()).ok(),
            false => None,
        };
        if let Some((made_of, made)) = &self.made
            && (*made_of == version || version.is_none())
        {
            return Ok(made.clone());
        }
        let made = self.make().or_else(|error| match &self.made {
            // A file that is being written, or has gone: those that it named still are.
            Some((_, made)) => Ok(made.clone()),
            None => Err(error),
        })?;
        self.made = Some((version, made.clone()));
        Ok(made)
    }

    fn make(&self) -> Result<TokioResolver, String> {
        let (config, mut options) = match self.settings.servers.as_slice() {
            [] => self.system()?,
            servers => {
                let servers = servers.iter().map(|server| name_server(*server)).collect();
                (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
            }
        };
        options.timeout = self.settings.timeout;
        // Answers are kept by the names' own rules, which a cache below them would only hide.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Always;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options).build().map_err(|error| self.without(&error))
    }

    fn system(&self) -> Result<(ResolverConfig, ResolverOpts), String> {
        let text = std::fs::read(&self.system).map_err(|error| self.without(&error))?;
        let (config, options) = parse_resolv_conf(text).map_err(|error| self.without(&error))?;
        match config.name_servers().is_empty() {
            true => Err(self.without(&"it names none")),
            false => Ok((config, options)),
        }
    }

    fn without(&self, error: &dyn std::fmt::Display) -> String {
        let path = self.system.display();
        format!(
            "there is no DNS server to ask: {path}: {error}; write \"nameserver ADDRESS\" there, or set upstream.dns.servers"
        )
    }

    /// The name as it is asked for. It is absolute, whatever `ndots` and the search domains of the system are: with
    /// them, `gw.example.com` could become `gw.example.com.bar.svc.cluster.local`, which is whoever's who can make that.
    ///
    /// # Errors
    /// It is no DNS name.
    pub(super) fn question(&self, host: &str) -> Result<Name, String> {
        let mut name = Name::from_utf8(host).map_err(|error| format!("it is no DNS name: {error}"))?;
        if !self.settings.search {
            name.set_fqdn(true);
        }
        Ok(name)
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_that_the_system_does_not_name_are_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut servers = Servers::new(UpstreamDns::default(), &path);
        let told = |error: String| {
            assert!(
                error.contains("resolv.conf") && error.contains("write \"nameserver ADDRESS\""),
                "{error}"
            );
        };
        told(servers.resolver().unwrap_err());
        std::fs::write(&path, "search example\n").unwrap();
        told(servers.resolver().unwrap_err());
        std::fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
        servers.resolver().unwrap();
        // What was found stays, whatever becomes of the file.
        std::fs::remove_file(&path).unwrap();
        servers.resolver().unwrap();
    }

    #[test]
    fn a_name_is_asked_for_as_it_is() {
        let mut settings = UpstreamDns::default();
        let asked = |settings: &UpstreamDns, host| {
            Servers::new(settings.clone(), "/none").question(host).map(|name| name.to_string())
        };
        assert_eq!(asked(&settings, "gw.example.com"), Ok("gw.example.com.".into()));
        assert_eq!(asked(&settings, "gw"), Ok("gw.".into()));
        assert!(asked(&settings, "a..b").is_err());
        settings.search = true;
        assert_eq!(asked(&settings, "gw"), Ok("gw".into()));
    }
}

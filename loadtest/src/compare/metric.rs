//! What is compared.

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Proxy CPU for a connection.
    Connection,
    /// Proxy CPU for a KiB, one tunnel down.
    Down1,
    /// Proxy CPU for a KiB, 16 tunnels down.
    Down16,
    /// Proxy CPU for a KiB, one tunnel up.
    Up1,
    /// Proxy CPU for a ping, 32 tunnels.
    Ping32,
    /// Latency of a ping, one tunnel.
    Ping1,
    /// Growth of memory with each idle tunnel.
    IdleMemory,
    /// Memory of a fresh process.
    RestMemory,
}

impl Metric {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Down1,
        Self::Down16,
        Self::Up1,
        Self::Ping32,
        Self::Ping1,
        Self::IdleMemory,
        Self::RestMemory,
    ];

    /// What it is called in the report, with its unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Connection => "CPU per connection (connect, hello, one echo, close), µs",
            Self::Down1 => "CPU per KiB, 1 tunnel down, ns",
            Self::Down16 => "CPU per KiB, 16 tunnels down, ns",
            Self::Up1 => "CPU per KiB, 1 tunnel up, ns",
            Self::Ping32 => "CPU per 64-byte ping, 32 tunnels, µs",
            Self::Ping1 => "p50 of a 64-byte ping, 1 tunnel, µs",
            Self::IdleMemory => "memory per idle tunnel (PSS growth), bytes",
            Self::RestMemory => "memory at rest, MiB",
        }
    }

    /// What it is called in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Connection => "cpu_us_per_connection",
            Self::Down1 => "cpu_ns_per_kib_1_down",
            Self::Down16 => "cpu_ns_per_kib_16_down",
            Self::Up1 => "cpu_ns_per_kib_1_up",
            Self::Ping32 => "cpu_us_per_ping_32",
            Self::Ping1 => "p50_us_ping_1",
            Self::IdleMemory => "bytes_per_idle_tunnel",
            Self::RestMemory => "mib_at_rest",
        }
    }

    /// What Eastgate is to reach: less is better for all.
    pub fn goal(self) -> f64 {
        match self {
            Self::Connection => 53.0,
            Self::Down1 => 345.0,
            Self::Down16 => 370.0,
            Self::Up1 => 350.0,
            Self::Ping32 => 11.5,
            Self::Ping1 => 180.0,
            Self::IdleMemory => 2000.0,
            Self::RestMemory => 12.0,
        }
    }

    /// A value with as many digits as are worth anything.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Connection | Self::Ping32 | Self::RestMemory => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        }
    }

    /// Whether its operations have latencies worth a curve.
    pub fn has_latencies(self) -> bool {
        matches!(self, Self::Connection | Self::Ping32 | Self::Ping1)
    }

    /// What its curve is called.
    pub fn curve(self) -> &'static str {
        match self {
            Self::Connection => "Connection: from connect to the first answer, 32 at a time",
            Self::Ping32 => "Ping, 32 tunnels",
            _ => "Ping, 1 tunnel",
        }
    }
}

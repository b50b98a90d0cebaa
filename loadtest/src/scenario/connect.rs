//! Connections as fast as they come: without cryptography, with real handshakes, and for thousands of names.

use std::sync::Arc;

use super::{Error, Options, reason, repeat};
use crate::client::Client;
use crate::load::{Order, Tunnel};
use crate::stats::Outcome;

/// Connect, hello, one 64-byte echo, reset; `concurrency` at a time.
///
/// # Errors
/// When not even the first tunnel opens, or the proxy cannot be measured.
pub async fn connect_rate(options: &Options, concurrency: usize) -> Result<Outcome, Error> {
    connections(options, concurrency, "connect-rate", Choice::Uniform).await
}

/// The same, for names of which few are asked for often and many seldom (Zipf).
///
/// # Errors
/// As of [`connect_rate`].
pub async fn mixed(options: &Options, concurrency: usize, exponent: f64) -> Result<Outcome, Error> {
    let mut outcome =
        connections(options, concurrency, "mixed", Choice::zipf(options.target.names(), exponent)).await?;
    outcome.figures.insert("server names", options.target.names() as f64);
    Ok(outcome)
}

async fn connections(
    options: &Options,
    concurrency: usize,
    name: &'static str,
    choice: Choice,
) -> Result<Outcome, Error> {
    options.check_descriptors(concurrency)?;
    Tunnel::open(&options.target, 0, Order::Echo).await.map_err(Error::NoTunnel)?;
    let choice = Arc::new(choice);
    let mut seed = 0_u64;
    let worker = |pace| {
        let (target, choice, tally) =
            (options.target.clone(), Arc::clone(&choice), Arc::clone(&options.tally));
        seed += 1;
        let mut random = Random(seed);
        repeat(pace, tally, move || {
            let (target, name) = (target.clone(), choice.pick(&mut random));
            async move {
                let opened = Tunnel::open(&target, name, Order::Echo).await;
                opened.map(drop).map_err(|error| reason(&error))
            }
        })
    };
    options.measure((name, "connections"), worker, concurrency).await
}

/// Connect and shake hands, with all the cryptography at both ends.
///
/// # Errors
/// When the proxy cannot be measured, or descriptors do not suffice.
pub async fn tls_connect_rate(
    options: &Options,
    concurrency: usize,
    client: &Client,
    server_name: &str,
) -> Result<Outcome, Error> {
    options.check_descriptors(concurrency)?;
    let address = options.target.address;
    let worker = |pace| {
        let (client, name) = (client.clone(), server_name.to_owned());
        repeat(pace, Arc::clone(&options.tally), move || {
            let (client, name) = (client.clone(), name.clone());
            async move {
                let stream = client.connect(address, &name).await.map_err(|error| error.to_string())?;
                stream.get_ref().0.set_zero_linger().map_err(|error| reason(&error))
            }
        })
    };
    options.measure(("connect-rate --tls", "handshakes"), worker, concurrency).await
}

/// Which name comes next.
#[derive(Debug)]
pub enum Choice {
    /// Always the first.
    Uniform,
    /// The cumulated shares of the names.
    Zipf(Vec<f64>),
}

impl Choice {
    /// The `n`th name has `1/n^exponent` of the first one's share.
    pub fn zipf(names: usize, exponent: f64) -> Self {
        let mut total = 0.0;
        let shares = (1..=names).map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        });
        Self::Zipf(shares.collect())
    }

    fn pick(&self, random: &mut Random) -> usize {
        match self {
            Self::Uniform => 0,
            Self::Zipf(shares) => {
                let at = random.fraction() * shares.last().copied().unwrap_or_default();
                shares.partition_point(|share| *share <= at)
            }
        }
    }
}

/// SplitMix64: the same names in every run, so that runs can be compared.
struct Random(u64);

impl Random {
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_name_of_zipf_comes_half_as_often_as_the_first() {
        let (choice, mut random) = (Choice::zipf(1000, 1.0), Random(1));
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            counts[choice.pick(&mut random)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
        assert!(counts.iter().filter(|count| **count > 0).count() > 900);
    }
}

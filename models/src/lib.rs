//! What the gateway's threads agree on without a lock, under loom: each test goes through every order of steps that the
//! memory model allows to its threads, also those that this machine's processor would never take.
//!
//! Counters that only add up are no protocol, and are not here.

#![allow(dead_code, unreachable_pub, reason = "the models use what they look at, and the gateway the rest")]

/// How many at once.
mod gate {
    include!(concat!(env!("OUT_DIR"), "/gate.rs"));
}

/// How many in a time.
mod bucket {
    include!(concat!(env!("OUT_DIR"), "/bucket.rs"));
}

/// Which ClientHellos are under way.
mod in_flight {
    include!(concat!(env!("OUT_DIR"), "/in_flight.rs"));
}

/// Who is woken when endpoints fail.
mod alarm {
    include!(concat!(env!("OUT_DIR"), "/alarm.rs"));
}

#[cfg(test)]
mod tests;

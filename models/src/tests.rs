use std::sync::Arc;
use std::time::Duration;

use eastgate_config::listener::RateLimit;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;
use tokio::sync::mpsc;

use crate::alarm::Alarm;
use crate::bucket::Bucket;
use crate::gate::Gate;
use crate::in_flight::{Again, InFlight};

#[test]
fn a_gate_never_holds_more_than_its_limit_and_forgets_nobody() {
    loom::model(|| {
        let (gate, inside) = (Gate::new(1), Arc::new(AtomicUsize::new(0)));
        let client = |gate: Gate, inside: Arc<AtomicUsize>| {
            let Some(pass) = gate.enter() else { return false };
            assert_eq!(inside.fetch_add(1, Relaxed), 0, "two are in");
            inside.fetch_sub(1, Relaxed);
            drop(pass);
            true
        };
        let other = {
            let (gate, inside) = (gate.clone(), Arc::clone(&inside));
            thread::spawn(move || client(gate, inside))
        };
        let mine = client(gate.clone(), inside);
        let others = other.join().unwrap();
        assert!(mine || others, "whoever comes first is let in");
        assert_eq!(gate.inside(), 0);
    });
}

#[test]
fn a_bucket_gives_no_token_twice_though_clocks_differ() {
    loom::model(|| {
        let limit = RateLimit {
            max_tokens: 1,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(1),
            share_key: String::new(),
        };
        let bucket = Arc::new(Bucket::new(limit));
        // One token at the beginning, and one that is filled in after a second, which one thread has not seen pass yet.
        let takers: Vec<_> = [0, 1]
            .map(|seconds| {
                let bucket = Arc::clone(&bucket);
                thread::spawn(move || usize::from(bucket.take(Duration::from_secs(seconds))))
            })
            .into();
        let mine = usize::from(bucket.take(Duration::from_secs(1)));
        let taken = mine + takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>();
        assert!((1..=2).contains(&taken), "{taken}");
        let left = usize::from(bucket.take(Duration::from_secs(1)));
        assert!(taken + left <= 2, "{taken} and {left}");
    });
}

#[test]
fn hellos_that_meet_have_each_their_own_place_and_give_it_back() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let all = Arc::new(InFlight::default());
        let known = [all.enter(&[7; 32], "a"), all.enter(&[7; 32], "a"), all.enter(&[7; 32], "a")];
        assert!(known.iter().all(|known| matches!(known, Ok(Some(_)))));
        let other = {
            let all = Arc::clone(&all);
            // Another hello, for which the same places are looked at, comes and goes.
            thread::spawn(move || drop(all.enter(&[7; 32], "a")))
        };
        // The fourth may still come round, once.
        let mine = all.enter(&[7; 32], "a");
        other.join().unwrap();
        // If not, it has lost its place to the other one, or was one too many beside it.
        if let Ok(Some(_)) = mine {
            assert_eq!(all.enter(&[7; 32], "a").err(), Some(Again));
        }
        drop((known, mine));
        // Every place is free: as many may be under way as before.
        assert!((0..4).all(|_| matches!(all.enter(&[7; 32], "a"), Ok(Some(_)))));
    });
}

#[test]
fn what_is_counted_is_seen_by_the_watcher_or_calls_it() {
    loom::model(|| {
        let (alarm, failures) = (Arc::new(Alarm::default()), Arc::new(AtomicUsize::new(0)));
        let (watcher, mut calls) = mpsc::unbounded_channel();
        alarm.set(&watcher);
        alarm.answer();
        let endpoint = {
            let (alarm, failures) = (Arc::clone(&alarm), Arc::clone(&failures));
            thread::spawn(move || {
                failures.fetch_add(1, Relaxed);
                alarm.raise("cluster", false);
            })
        };
        // The watcher's last look at a cluster that is well.
        let seen = failures.load(Relaxed);
        let resting = alarm.rest(|| failures.load(Relaxed) == seen);
        endpoint.join().unwrap();
        let called = calls.try_recv().is_ok();
        let missed = failures.load(Relaxed) != seen;
        assert!(!missed || called || !resting, "a failure that nobody looks at");
    });
}

#[test]
fn an_urgent_failure_is_seen_after_an_answer_or_calls_again() {
    loom::model(|| {
        let (alarm, failures) = (Arc::new(Alarm::default()), Arc::new(AtomicUsize::new(0)));
        let (watcher, mut calls) = mpsc::unbounded_channel();
        alarm.set(&watcher);
        let endpoints: Vec<_> = (0..2)
            .map(|_| {
                let (alarm, failures) = (Arc::clone(&alarm), Arc::clone(&failures));
                thread::spawn(move || {
                    failures.fetch_add(1, Relaxed);
                    alarm.raise("cluster", true);
                })
            })
            .collect();
        alarm.answer();
        let seen = failures.load(Relaxed);
        endpoints.into_iter().for_each(|endpoint| endpoint.join().unwrap());
        // A call is as good after the look as one that waited already: it is answered by another.
        let calls = std::iter::from_fn(|| calls.try_recv().ok()).count();
        assert!(calls <= 2, "{calls} calls for one answer");
        assert!(seen == 2 || calls > 0, "{seen} of 2 seen, and nobody calls");
    });
}

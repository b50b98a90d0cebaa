//! A control plane that sends again what was refused, as go-control-plane does in state of the world.

use super::*;

impl Rig {
    /// Pushes the last response of the type again under the next nonce, and gives what the client says to that.
    fn push_again(&mut self, response: &Response) -> Vec<Said> {
        self.pushes += 1;
        let mut again = response.clone();
        match &mut again {
            Response::Sotw(response) => response.nonce = format!("n{}", self.pushes),
            Response::Delta(response) => response.nonce = format!("n{}", self.pushes),
        }
        self.client.receive(again, self.now);
        self.said()
    }

    fn refuse(&mut self, type_url: &str, resources: Vec<Made>) -> Response {
        let response = self.response(type_url, resources, &[]);
        self.client.receive(response.clone(), self.now);
        let said = self.said();
        assert!(said[0].error.is_some(), "{said:?}");
        response
    }

    /// Lets time pass until the client has something to say.
    fn wait_to_speak(&mut self) -> (Duration, Vec<Said>) {
        let began = self.now;
        while let Some(at) = self.client.poll_timeout() {
            self.now = at;
            self.client.timeout(at);
            let said = self.said();
            if !said.is_empty() {
                return (self.now - began, said);
            }
        }
        panic!("nothing is owed");
    }
}

fn nonces(said: &[Said]) -> Vec<&str> {
    said.iter().map(|said| said.nonce.as_str()).collect()
}

#[test]
fn a_control_plane_that_answers_each_nack_with_the_same_again_hears_it_less_and_less_often() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let refused = rig.refuse(CLUSTER, vec![eds("a", 1), bad("b")]);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(rig.push_again(&refused).is_empty());
            let (wait, said) = rig.wait_to_speak();
            waits.push(wait.as_millis());
            assert_eq!(said.len(), 1);
            assert_eq!(said[0].nonce, format!("n{}", rig.pushes));
            assert!(said[0].error.as_ref().is_some_and(|error| error.contains("Cluster b")));
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}

#[test]
fn a_different_push_is_answered_at_once_and_after_what_was_held_back() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let refused = rig.refuse(CLUSTER, vec![eds("a", 1), bad("b")]);
        assert!(rig.push_again(&refused).is_empty());
        let said = rig.push(CLUSTER, vec![eds("a", 1), bad("c")], &[]);
        assert_eq!(nonces(&said), ["n5", "n6"]);
        assert!(said.iter().all(|said| said.error.is_some()));
        let mended = rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        assert_eq!((nonces(&mended), &mended[0].error), (vec!["n7"], &None));
        // What was refused before it was mended is another push now.
        let said = rig.push_again(&refused);
        assert!(said[0].error.is_some());
    }
}

#[test]
fn the_same_under_another_version_is_a_different_push() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        for _ in 0..3 {
            rig.refuse(CLUSTER, vec![bad("b")]);
        }
    }
}

#[test]
fn repetitions_that_do_not_wait_for_their_nack_put_it_off_no_further() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let refused = rig.refuse(CLUSTER, vec![bad("b")]);
        let held = rig.now;
        for _ in 0..3 {
            assert!(rig.push_again(&refused).is_empty());
            rig.now += Duration::from_millis(50);
        }
        let (_, said) = rig.wait_to_speak();
        assert_eq!((nonces(&said), rig.now - held), (vec!["n5", "n6", "n7"], Duration::from_millis(200)));
    }
}

#[test]
fn other_types_and_names_do_not_wait_for_a_nack_that_is_held_back() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let refused = rig.refuse(ENDPOINTS, vec![cla("a", &[1]), cla("a", &[2])]);
        assert!(rig.push_again(&refused).is_empty());
        let said = rig.push(LISTENER, vec![lds("l", &[("c.d", "a")])], &[]);
        assert_eq!((said.len(), said[0].kind, &said[0].error), (1, "LDS", &None));
        let said = rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        let names: Vec<_> = said.iter().filter(|said| said.kind == "EDS").collect();
        assert_eq!(names.len(), 1);
        match variant {
            // In delta names have a message of their own, and the NACK still waits.
            Variant::Delta => {
                assert_eq!((names[0].names.join(" "), names[0].nonce.as_str()), ("b".into(), ""));
                assert_eq!(nonces(&rig.wait_to_speak().1), ["n5"]);
            }
            // Here they are one message, and the first with a nonce is its answer.
            Variant::Sotw => {
                assert_eq!((names[0].names.join(" "), names[0].nonce.as_str()), ("a b".into(), "n5"));
                assert!(names[0].error.is_some());
            }
        }
    }
}

#[test]
fn names_that_crossed_a_repetition_are_said_again_at_once() {
    // istiod drops the change because its nonce is not the newest any more; the answer to the newest has it, too.
    let mut rig = Rig::new(Variant::Sotw);
    rig.settle();
    let refused = rig.refuse(ENDPOINTS, vec![cla("a", &[1]), cla("a", &[2])]);
    let said = rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    assert_eq!((said[1].nonce.as_str(), said[1].names.len()), ("n4", 2));
    let said = rig.push_again(&refused);
    assert_eq!((nonces(&said), said[0].names.len()), (vec!["n6"], 2));
    assert!(rig.push_again(&refused).is_empty());
}

#[test]
fn a_nack_that_is_held_back_ends_with_its_stream() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let refused = rig.refuse(CLUSTER, vec![bad("b")]);
        assert!(rig.push_again(&refused).is_empty());
        rig.client.disconnected(rig.now);
        assert!(rig.connect().iter().all(|said| said.nonce.is_empty() && said.error.is_none()));
        rig.wait(60);
        assert!(rig.said().is_empty());
        // The new stream begins anew.
        assert!(rig.push_again(&refused)[0].error.is_some());
    }
}

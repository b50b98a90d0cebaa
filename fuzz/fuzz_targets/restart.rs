//! What a process reads from the one that it takes over from, and that one from it: a frame's header, and behind it, or
//! alone, a payload as each of the kinds. Whatever is understood is written again as it was.

#![no_main]

use eastgate_fuzz::restart::frame::{HEADER, Header, Label, MAX_FDS, MAX_PAYLOAD, MAX_TUNNELS, Tunnel};
use eastgate_fuzz::restart::state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((first, payload)) = bytes.split_first_chunk::<HEADER>()
        && let Ok(header) = Header::decode(first)
    {
        assert!(header.fds <= MAX_FDS && header.length <= MAX_PAYLOAD);
        assert_eq!(header.encode(), *first);
        read(payload);
    }
    read(bytes);
});

fn read(payload: &[u8]) {
    if let Ok(labels) = Label::decode(payload) {
        let again = serde_json::to_vec(&labels).expect("labels are written");
        assert_eq!(Label::decode(&again), Ok(labels));
    }
    if let Ok(tunnels) = Tunnel::decode(payload) {
        assert!(tunnels.len() <= MAX_TUNNELS);
        let mut again = Vec::new();
        tunnels.iter().for_each(|tunnel| tunnel.encode(&mut again));
        assert_eq!(again, payload);
        tunnels.iter().for_each(|tunnel| state(&tunnel.state));
    }
    state(payload);
}

fn state(bytes: &[u8]) {
    let Ok(state) = serde_json::from_slice::<State>(bytes) else { return };
    let again = serde_json::to_vec(&state).expect("a state is written");
    assert_eq!(serde_json::from_slice::<State>(&again).expect("what was written is read"), state);
}

//! The ClientHellos of real clients (`hellos/`), in every cut, and mutated against rustls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's panic is its report")]

use std::path::Path;

use eastgate::client_hello::{ClientHello, DEFAULT_MAX_MESSAGE, Inspector, MAX_MAX_MESSAGE, Refusal, ja4};
use eastgate_config::server_name;
use rustls::server::Acceptor;

#[allow(dead_code, reason = "each test program uses another part")]
#[path = "support/client_hello.rs"]
mod support;

use support::{HelloBuilder, record, records, sni_list};

/// The files of the corpus: name and bytes.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hellos");
    let mut hellos: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    hellos.sort();
    assert!(hellos.len() >= 20, "the corpus has {} hellos", hellos.len());
    hellos
}

type Answer = Result<Option<ClientHello>, Refusal>;

fn inspect(bytes: &[u8]) -> Answer {
    inspect_limited(bytes, DEFAULT_MAX_MESSAGE)
}

fn inspect_limited(bytes: &[u8], limit: usize) -> Answer {
    let mut inspector = Inspector::new(limit);
    inspector.push(bytes);
    inspector.advance()
}

/// What is compared between cuts, which take different numbers of bytes.
fn facts(answer: Answer) -> String {
    let hello = answer.expect("the hello should be good").expect("the hello should be whole");
    let alpn: Vec<_> = hello.alpn().collect();
    let versions: Vec<_> = hello.versions().collect();
    let random = hello.client_random();
    let flags = (hello.early_data(), hello.has_ech());
    format!("{} {alpn:?} {versions:?} {random:?} {flags:?}", hello.server_name())
}

/// The handshake message of a hello, and what to expect of it in any cut.
fn message(bytes: &[u8]) -> (Vec<u8>, String) {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(bytes);
    let facts = facts(inspector.advance());
    (inspector.message().unwrap().to_vec(), facts)
}

#[test]
fn every_real_hello_is_routed_by_the_name_that_its_client_was_given() {
    for (file, bytes) in corpus() {
        let hello = inspect(&bytes).unwrap().unwrap();
        let browser = file.strip_prefix("browser_").map(|profile| profile.replace('_', "-"));
        let name = hello.server_name().as_str();
        match browser {
            Some(profile) => assert_eq!(name, format!("{profile}.browsers.bar.global")),
            None => assert!(name.ends_with("httpbin.bar.global"), "{file}: {name}"),
        }
        assert_eq!(hello.consumed(), bytes.len(), "{file}");
        if file.contains("alpn_istio") {
            assert!(hello.alpn().any(|protocol| protocol == b"istio"), "{file}");
        }
    }
}

#[test]
fn the_corpus_holds_post_quantum_grease_and_ech_hellos() {
    let hellos: Vec<_> = corpus().into_iter().map(|(_, bytes)| bytes).collect();
    let is_post_quantum = |bytes: &[u8]| bytes.windows(4).any(|key| key == [0x11, 0xec, 0x04, 0xc0]);
    assert!(hellos.iter().filter(|bytes| is_post_quantum(bytes)).count() >= 8);
    let read: Vec<_> = hellos.iter().map(|bytes| inspect(bytes).unwrap().unwrap()).collect();
    assert!(read.iter().filter(|hello| hello.has_ech()).count() >= 4);
    assert!(
        read.iter().filter(|hello| hello.versions().any(|version| version & 0x0f0f == 0x0a0a)).count() >= 4
    );
    assert!(read.iter().any(|hello| hello.versions().eq([0x0303])));
}

#[test]
fn every_prefix_of_a_real_hello_asks_for_more() {
    for (file, bytes) in corpus() {
        let mut byte_by_byte = Inspector::new(DEFAULT_MAX_MESSAGE);
        for end in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..end]), Ok(None), "{file}: {end} bytes");
            assert_eq!(byte_by_byte.advance(), Ok(None), "{file}: {end} bytes, one by one");
            byte_by_byte.push(&bytes[end..=end]);
        }
        assert_eq!(byte_by_byte.advance(), inspect(&bytes), "{file}");
    }
}

#[test]
fn every_cut_into_two_records_gives_the_same_answer() {
    for (file, bytes) in corpus() {
        let (message, expected) = message(&bytes);
        for cut in 1..message.len() {
            let (head, tail) = message.split_at(cut);
            let answer = inspect(&[record(head), record(tail)].concat());
            assert_eq!(facts(answer), expected, "{file}: cut at {cut}");
        }
    }
}

#[test]
fn tiny_and_empty_records_give_the_same_answer() {
    for (file, bytes) in corpus() {
        let (message, expected) = message(&bytes);
        for size in [1, 2, 3, 4, 5, 100] {
            assert_eq!(facts(inspect(&records(&message, size))), expected, "{file}: records of {size}");
        }
        let with_empty: Vec<u8> =
            message.chunks(1).flat_map(|byte| [record(&[]), record(byte), record(&[])].concat()).collect();
        let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
        for byte in &with_empty[..with_empty.len() - 6] {
            inspector.push(&[*byte]);
            assert_eq!(inspector.advance(), Ok(None), "{file}");
        }
        inspector.push(&with_empty[with_empty.len() - 6..]);
        assert_eq!(facts(inspector.advance()), expected, "{file}");
        assert_eq!(inspector.into_raw(), with_empty);
    }
}

#[test]
fn the_hello_of_every_version_of_the_record_is_read() {
    for (file, mut bytes) in corpus() {
        let (_, expected) = message(&bytes);
        for minor in 0..=255 {
            bytes[2] = minor;
            assert_eq!(facts(inspect(&bytes)), expected, "{file}: 3.{minor}");
        }
    }
}

#[test]
fn the_fingerprints_of_chrome_are_the_published_ones() {
    let fingerprint = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hellos").join(file);
        ja4::fingerprint(&message(&std::fs::read(path).unwrap()).0).unwrap()
    };
    assert_eq!(fingerprint("browser_chrome131.bin"), "t13d1516h2_8daaf6152771_02713d6af862");
    assert_eq!(fingerprint("browser_chrome133a.bin"), "t13d1516h2_8daaf6152771_d8a2da3f94cd");
}

#[test]
fn a_long_hello_in_single_bytes_costs_no_more_than_its_bytes() {
    let message = HelloBuilder::new("good.example").sized(120_000, false).message();
    // One call for each byte: work that starts over at each would take minutes.
    for size in [1 << 14, 50] {
        let hello = records(&message, size);
        let mut inspector = Inspector::new(MAX_MAX_MESSAGE);
        for byte in &hello[..hello.len() - 1] {
            inspector.push(&[*byte]);
            assert_eq!(inspector.advance(), Ok(None));
        }
        inspector.push(&hello[hello.len() - 1..]);
        assert!(facts(inspector.advance()).starts_with("good.example "));
        assert_eq!(inspector.into_raw(), hello);
    }
}

/// Small and repeatable: what is drawn must be the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Changes some bytes, or cuts some out, or puts some in, without mending a length.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, random.below(256) as u8),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = bytes[random.below(bytes.len())],
            _ => bytes[at] = random.below(256) as u8,
        }
    }
}

/// Changes the hello's parts and makes all outer lengths fit again, so that the change itself is judged.
fn mutate_parts(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut hello = HelloBuilder::from_message(message);
    for _ in 0..=random.below(2) {
        let extensions = hello.extensions.as_mut().unwrap();
        let (one, other) = (random.below(extensions.len()), random.below(extensions.len()));
        match random.below(12) {
            0 => extensions.swap(one, other),
            1 => extensions.push(extensions[one].clone()),
            2 if extensions.len() > 1 => drop(extensions.remove(one)),
            3 => extensions[one].0 = [0, 16, 43, 42, 0xfe0d, 21, 0x1234][random.below(7)],
            4 => extensions.push((0, sni_list(&[(0, b"other.example")]))),
            5 => set_name(extensions, sni_list(&[(0, b"a.example"), (random.below(2) as u8, b"b.example")])),
            6 => set_name(extensions, sni_list(&[(0, ODD_NAMES[random.below(ODD_NAMES.len())])])),
            7 => hello.session_id = vec![0; random.below(40)],
            8 => hello.ciphers.truncate(random.below(8)),
            9 => hello.compression = vec![0; random.below(3)],
            10 => hello.junk = vec![0; random.below(3)],
            _ if !extensions[one].1.is_empty() => mutate_bytes(&mut extensions[one].1, random),
            _ => extensions[one].1.push(0),
        }
        if hello.extensions.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
    }
    hello.message()
}

const ODD_NAMES: [&[u8]; 14] = [
    b"",
    b".",
    b"A.Example.",
    b"a..example",
    b".a.example",
    b"127.0.0.1",
    b"::1",
    b"[::1]",
    b"a b.example",
    b"a.example\0.evil",
    b"*.example",
    b"outbound|80||a.example",
    b"-a-.example",
    b"_.example",
];

fn set_name(extensions: &mut [(u16, Vec<u8>)], body: Vec<u8>) {
    if let Some((_, old)) = extensions.iter_mut().find(|(kind, _)| *kind == 0) {
        *old = body;
    }
}

/// The name that rustls would serve, `None` inside where it accepts the hello without one.
fn by_rustls(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

/// What we refuse although rustls accepts it, and why that is right.
fn may_be_stricter(refusal: &Refusal, by_rustls: Option<&str>) -> bool {
    match refusal {
        // rustls passes these on as hellos without a name, for a default certificate; we have no default route.
        Refusal::BadName(server_name::Error::IpLiteral) | Refusal::NoServerName => by_rustls.is_none(),
        // rustls skips what stands behind a host_name, another parser might not.
        Refusal::NameType(_) => true,
        _ => false,
    }
}

fn compare(what: &str, bytes: &[u8], counts: &mut [usize; 3]) {
    let ours = inspect(bytes);
    let theirs = by_rustls(bytes);
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (&ours, &theirs) {
        (Ok(Some(hello)), Some(name)) => {
            counts[0] += 1;
            let name = name.as_deref().map(|name| name.trim_end_matches('.'));
            let ours = Some(hello.server_name().as_str());
            assert_eq!(ours, name, "{what}: ours and that of rustls: {}", hex());
        }
        (Err(refusal), Some(name)) => {
            counts[1] += 1;
            let stricter = may_be_stricter(refusal, name.as_deref());
            assert!(stricter, "{what}: {refusal}, by rustls {name:?}: {}", hex());
        }
        (Ok(None), Some(name)) => panic!("{what}: need more, by rustls {name:?}: {}", hex()),
        (_, None) => counts[2] += 1,
    }
}

#[test]
fn rustls_never_accepts_a_mutated_hello_with_another_name() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut counts = [0; 3];
    for (file, bytes) in corpus() {
        let (message, _) = message(&bytes);
        compare(&file, &bytes, &mut counts);
        for round in 0..300 {
            let mut mutated = bytes.clone();
            mutate_bytes(&mut mutated, &mut random);
            compare(&format!("{file}, bytes {round}"), &mutated, &mut counts);
            let mutated = mutate_parts(&message, &mut random);
            let size = [1 << 14, 1 << 14, 700, 64][random.below(4)];
            compare(&format!("{file}, parts {round}"), &records(&mutated, size), &mut counts);
        }
    }
    // Should the mutations become too wild or too tame, they would test nothing.
    let [both, stricter, neither] = counts;
    assert!(both > 500 && stricter > 100 && neither > 500, "{counts:?}");
}

#[test]
fn a_long_hello_is_routed_up_to_the_limit_that_is_set() {
    for size in [4096, 8000, 12_000, 16_000, 16_383, 16_384, 17_000, 32_000, 60_000, DEFAULT_MAX_MESSAGE] {
        for name_first in [true, false] {
            let hello = HelloBuilder::new("good.example").sized(size, name_first).bytes();
            assert!(facts(inspect(&hello)).starts_with("good.example "), "{size}");
        }
    }
    for size in [DEFAULT_MAX_MESSAGE + 1, 70_000, 120_000] {
        let hello = HelloBuilder::new("good.example").sized(size, false).bytes();
        let large = Refusal::TooLarge { length: size, limit: DEFAULT_MAX_MESSAGE };
        assert_eq!(inspect(&hello), Err(large));
        assert!(facts(inspect_limited(&hello, MAX_MAX_MESSAGE)).starts_with("good.example "), "{size}");
    }
}

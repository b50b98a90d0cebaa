//! Every command that the documentation shows: its program takes it, and it is run, or the page says why not.
//!
//! What stands in `docs/mesh-expansion.md` is run by `seed_walk`, everything else here: each page on a machine of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/page.rs"]
mod page;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use eastgate::args::{Command, Eastgate};
use lab::Machine;
use page::Block;

/// How long something that is under way may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The page that has machines of its own.
const WALKED_ELSEWHERE: &str = "docs/mesh-expansion.md";
/// Pages for whoever has a gateway already: the one of the README, with its pods.
const BESIDE_A_GATEWAY: [&str; 3] = ["docs/admin.md", "docs/troubleshooting.md", "docs/control-planes.md"];
const PODS: &str =
    "eastgate-loadtest origin --ca-dir /tmp/eastgate-ca --listen 127.0.0.11:8443 --listen 127.0.0.12:8443";
const GATEWAY: &str = "eastgate run --mesh-dir config/examples/httpbin";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The pages, by their paths in the repository.
fn pages() -> Vec<(String, Vec<Block>)> {
    let listed = ["", "docs", "deploy"].into_iter().flat_map(|directory| {
        let files = std::fs::read_dir(root().join(directory)).unwrap();
        files.map(move |file| Path::new(directory).join(file.unwrap().file_name()))
    });
    let mut paths: Vec<_> =
        listed.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let blocks = page::all(&std::fs::read_to_string(root().join(path)).unwrap());
        (path.display().to_string(), blocks)
    };
    paths.iter().map(read).collect()
}

/// The commands of a block as words, without what redirects them or sets their environment.
fn commands(block: &Block) -> Vec<Vec<String>> {
    let text = block.commands.replace("\\\n", " ");
    let of_line = |line: &str| {
        let mut commands = vec![Vec::new()];
        // What is no whole line of words is in a document that a command reads.
        for word in shlex::split(line).unwrap_or_default() {
            let ends = matches!(word.as_str(), "|" | "&" | "&&" | ";");
            let redirects = word.trim_start_matches(['1', '2']).starts_with(['<', '>']);
            match commands.last_mut() {
                Some(_) if ends => commands.push(Vec::new()),
                Some(last) if !redirects => last.push(word),
                _ => {}
            }
        }
        commands
    };
    let mut commands: Vec<Vec<String>> = text.lines().flat_map(of_line).collect();
    for command in &mut commands {
        let set = |word: &String| {
            let name = word.split_once('=').map(|(name, _)| name);
            name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        };
        command.drain(..command.iter().take_while(|word| set(word)).count());
        if command.iter().take(4).eq(["cargo", "run", "--release", "--bin"].iter()) {
            // cargo run --release --bin PROGRAM -- ...
            command.drain(..4);
            command.remove(1);
        }
    }
    commands
}

#[test]
fn every_command_is_one_that_its_program_takes() {
    let recipes = std::fs::read_to_string(root().join("justfile")).unwrap();
    let mut checked = 0;
    for (path, blocks) in pages() {
        for block in &blocks {
            for command in commands(block) {
                let at = format!("{path}:{}: {}", block.line, command.join(" "));
                match command.first().map(String::as_str) {
                    Some("eastgate") => {
                        let taken = Eastgate::try_parse_from(&command)
                            .unwrap_or_else(|error| panic!("{at}: {error}"));
                        if let Command::Run(settings) = taken.command {
                            settings.settings([]).unwrap_or_else(|error| panic!("{at}: {error:#}"));
                        }
                    }
                    Some("eastgate-loadtest") => assert!(!block.machine.is_empty(), "{at}: is not run"),
                    Some("just") => {
                        assert!(recipes.contains(&format!("\n{}", command[1])), "{at}: no such recipe")
                    }
                    _ => continue,
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "only {checked} commands were found");
}

#[test]
fn what_is_not_run_says_why() {
    for (path, blocks) in pages() {
        for block in &blocks {
            let why = block.not_run.as_deref().is_some_and(|why| why.len() > 10);
            let at = format!("{path}:{}", block.line);
            assert!(
                why == block.machine.is_empty(),
                "{at}: give it walk=local, or <!-- not run: WHY --> above it, and not both"
            );
            let machine = block.machine.as_str();
            assert!(
                matches!(machine, "" | "local") || path == WALKED_ELSEWHERE,
                "{at}: no machine {machine}"
            );
        }
    }
}

#[test]
fn what_is_run_does_what_the_pages_say() {
    lab::walked();
}

/// Cargo, for a machine on which everything is built: `cargo run --release --bin PROGRAM -- ...`.
const CARGO: &str = "printf '#!/bin/sh\nprogram=$4; shift 5; exec \"$program\" \"$@\"\n' >/usr/local/bin/cargo\nchmod +x /usr/local/bin/cargo\n";

#[test]
#[ignore = "makes networks; what_is_run_does_what_the_pages_say runs it where they are its own"]
fn inside() {
    lab::directory(&root().join("config"));
    let mut run = 0;
    for (path, mut blocks) in pages() {
        blocks.retain(|block| !block.machine.is_empty());
        if path == WALKED_ELSEWHERE || blocks.is_empty() {
            continue;
        }
        let own = format!(
            "mount -t tmpfs lab /tmp\nmount -t tmpfs lab /run\nln -sfn config/examples/httpbin {}/mesh\n{CARGO}",
            lab::DIRECTORY
        );
        let machine = Machine::new("local", &lab::programs(), &own);
        if BESIDE_A_GATEWAY.contains(&path.as_str()) {
            machine.done(&format!("{PODS} >pods.log 2>&1 &\n{GATEWAY} >gateway.log 2>&1 &\n"));
            step(
                &machine,
                &path,
                &Block {
                    commands: "curl -s localhost:15000/ready".into(),
                    expect: vec!["LIVE".into()],
                    repeat: true,
                    ..Block::default()
                },
            );
        }
        for block in &blocks {
            step(&machine, &path, block);
            run += 1;
        }
    }
    assert!(run > 10, "only {run} blocks were run");
}

/// Runs one block of a page.
fn step(machine: &Machine, path: &str, block: &Block) {
    println!("\n== {path}:{}\n{}", block.line, block.commands);
    if block.background {
        machine.done(&format!("(\n{}) >line-{}.log 2>&1 &\n", block.commands, block.line));
        return;
    }
    let began = Instant::now();
    let kept = |(succeeded, said): &(bool, String)| {
        *succeeded != block.fails && block.expect.iter().all(|text| said.contains(text))
    };
    let mut done = machine.run(&block.commands);
    while block.repeat && !kept(&done) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        done = machine.run(&block.commands);
    }
    println!("{}", done.1);
    assert!(
        kept(&done),
        "{path}:{}: not {:?}\n{}",
        block.line,
        block.expect,
        machine.run("tail -n 5 *.log").1
    );
}

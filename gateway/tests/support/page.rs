//! A page whose commands are run: its fenced blocks with the info string `sh walk=MACHINE`.
//!
//! ```text
//! sh walk=vm expect="240.0.0.3"    run once; the output holds this (repeatable)
//! sh walk=vm until="LIVE"          run again until it does: something is under way
//! sh walk=vm fails                 the commands end with another status than 0
//! sh walk=vm background            the commands go on while what follows is run
//! ```
//!
//! A block of commands that are not run has the reason above it: `<!-- not run: WHY -->`.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

/// Commands for one machine, and what the page promises of them.
#[derive(Debug, Default)]
pub struct Block {
    /// The heading above.
    pub heading: String,
    /// The sentences right above.
    pub promise: String,
    pub line: usize,
    pub machine: String,
    pub commands: String,
    pub expect: Vec<String>,
    pub repeat: bool,
    pub fails: bool,
    pub background: bool,
    /// Why it is not run, if the page says so.
    pub not_run: Option<String>,
}

/// The blocks that are to be run, in the page's order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = all(page);
    blocks.retain(|block| !block.machine.is_empty());
    blocks
}

/// Every block of commands.
pub fn all(page: &str) -> Vec<Block> {
    let (mut heading, mut promise, mut not_run) = (String::new(), String::new(), None);
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(why) = line.strip_prefix("<!-- not run: ") {
            not_run = why.strip_suffix(" -->").map(str::to_owned);
            continue;
        }
        let Some(info) = line.strip_prefix("```") else {
            match (line.strip_prefix('#'), line.is_empty()) {
                (Some(rest), _) => heading = rest.trim_start_matches('#').trim().to_owned(),
                // A paragraph stays the promise until another one begins.
                (None, true) => promise.push('\n'),
                (None, false) if promise.ends_with('\n') => promise = line.to_owned(),
                (None, false) => promise = format!("{promise} {line}"),
            }
            continue;
        };
        let commands: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let block = Block {
            heading: heading.clone(),
            promise: promise.trim().to_owned(),
            line: number + 1,
            commands: commands.join("\n") + "\n",
            not_run: not_run.take(),
            ..Block::default()
        };
        match info.strip_prefix("sh walk=") {
            Some(attributes) => blocks.push(block.with(attributes)),
            None if info.split(' ').next() == Some("sh") => blocks.push(block),
            None => {}
        }
    }
    blocks
}

impl Block {
    fn with(mut self, attributes: &str) -> Self {
        let (machine, mut rest) = attributes.split_once(' ').unwrap_or((attributes, ""));
        machine.clone_into(&mut self.machine);
        while !rest.trim().is_empty() {
            rest = rest.trim_start();
            let word = |rest: &str| rest.split([' ', '=']).next().unwrap_or_default().to_owned();
            match word(rest).as_str() {
                "fails" => (self.fails, rest) = (true, &rest["fails".len()..]),
                "background" => (self.background, rest) = (true, &rest["background".len()..]),
                name @ ("expect" | "until") => {
                    let mut parts = rest.splitn(3, '"');
                    let (_, value, after) = (parts.next(), parts.next(), parts.next());
                    self.expect.push(value.unwrap().to_owned());
                    self.repeat |= name == "until";
                    rest = after.unwrap();
                }
                _ => panic!("line {} of the page: {rest:?} is no attribute", self.line),
            }
        }
        self
    }
}

//! `docs/reliability.md`: every promise names tests, and every test that it names is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The Rust files below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => sources(&path, found),
            Some(extension) if extension == "rs" => found.push(path),
            _ => {}
        }
    }
}

/// What stands between backticks, in order.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Says what is wrong with a cell: it has to be "`file.rs`: `test`", "`just recipe`" or "`.ci/program`", as often as
/// one likes.
fn complaint(cell: &str, files: &[PathBuf], recipes: &str) -> Option<String> {
    let words = quoted(cell);
    if words.is_empty() {
        return Some("no test is named".into());
    }
    let mut file: Option<&PathBuf> = None;
    let mut named = 0;
    for word in words {
        if let Some(recipe) = word.strip_prefix("just ") {
            let recipe = recipe.split(' ').next().unwrap();
            let known = |line: &str| line.split([' ', ':']).next() == Some(recipe);
            if !recipes.lines().any(known) {
                return Some(format!("there is no recipe {recipe}"));
            }
            named += 1;
        } else if word.starts_with(".ci/") {
            let program = word.split(' ').next().unwrap();
            if !root().join(program).exists() {
                return Some(format!("there is no {program}"));
            }
            named += 1;
        } else if word.ends_with(".rs") {
            file = files.iter().find(|path| path.ends_with(word));
            if file.is_none() {
                return Some(format!("there is no {word}"));
            }
        } else {
            let text = file.map(|path| std::fs::read_to_string(path).unwrap()).unwrap_or_default();
            if !text.contains(&format!("fn {word}(")) {
                return Some(format!("there is no test {word} in {file:?}"));
            }
            named += 1;
        }
    }
    (named == 0).then(|| "a file is named, and no test of it".into())
}

#[test]
fn every_promise_has_a_test_that_is_there() {
    let root = root();
    let (mut files, page) = (Vec::new(), std::fs::read_to_string(root.join("docs/reliability.md")).unwrap());
    ["gateway/tests", "gateway/src", "config/src"].iter().for_each(|at| sources(&root.join(at), &mut files));
    let recipes = std::fs::read_to_string(root.join("justfile")).unwrap();
    let (mut column, mut rows, mut wrong) = (None, 0, Vec::new());
    for line in page.lines() {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if !line.starts_with('|') {
            column = None;
        } else if column.is_none() {
            column = cells.iter().position(|cell| *cell == "test");
        } else if let Some(column) = column.filter(|_| !line.starts_with("|---")) {
            rows += 1;
            let cell = cells.get(column).copied().unwrap_or_default();
            wrong.extend(complaint(cell, &files, &recipes).map(|why| format!("{}: {why}", cells[0])));
        }
    }
    assert!(rows > 20, "{rows} promises");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_test_that_is_not_there_is_complained_about() {
    let files = [Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promises.rs")];
    let complain = |cell| complaint(cell, &files, "soak MINUTES=\"30\":\n");
    assert_eq!(complain("`promises.rs`: `a_test_that_is_not_there_is_complained_about`"), None);
    assert_eq!(complain("`just soak 30`"), None);
    for cell in [
        "",
        "`promises.rs`",
        "`promises.rs`: `nothing`",
        "`nothing.rs`: `complaint`",
        "`just nothing`",
        "`.ci/nothing`",
    ] {
        assert!(complain(cell).is_some(), "{cell}");
    }
}

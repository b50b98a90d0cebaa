//! From the text of a file to documents: plain values, each knowing the line of every field.
//!
//! Text comes from people and from repositories, so it is bounded in every direction: size, depth, and what aliases
//! may expand to. Each document is parsed on its own, so that one with broken syntax costs no other.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// The largest text that is read as one file.
pub const MAX_TEXT: usize = 64 << 20;
/// The deepest nesting; nothing in Kubernetes comes near it.
const MAX_DEPTH: usize = 64;
/// How many parser events all aliases of one document may replay together.
const MAX_REPLAYED: usize = 100_000;

/// One document of a file, or one item of a `List` in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) lines: Lines,
}

/// A document that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The lines of a value and of everything in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lines {
    line: u32,
    inside: Inside,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Nothing,
    List(Vec<Lines>),
    Map(Vec<(Box<str>, Lines)>),
}

impl Lines {
    /// The line, counted from 1, of a field path such as `spec.servers[0].port`, or of the nearest thing around it
    /// that exists; `None` where the value did not come from text.
    pub(super) fn of(&self, path: &str) -> Option<usize> {
        let (mut here, mut rest) = (self, path);
        while let Some((next, tail)) = here.step(rest) {
            (here, rest) = (next, tail);
        }
        (here.line > 0).then_some(here.line as usize)
    }

    /// The lines of the whole, without those of its parts.
    pub(super) fn outermost(&self) -> Self {
        Self { line: self.line, inside: Inside::Nothing }
    }

    /// The longest key or the index that the path begins with, because a label's key may itself hold dots.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Self, &'p str)> {
        match &self.inside {
            Inside::Nothing => None,
            Inside::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, rest))
            }
            Inside::Map(entries) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                let fits = |key: &str| {
                    path.strip_prefix(key)
                        .filter(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
                };
                let best =
                    entries.iter().filter(|(key, _)| fits(key).is_some()).max_by_key(|(key, _)| key.len())?;
                Some((&best.1, &path[best.0.len()..]))
            }
        }
    }

    fn item(&self, index: usize) -> Self {
        let items = match &self.inside {
            Inside::Map(entries) => entries.iter().find(|(key, _)| &**key == "items"),
            _ => None,
        };
        match items.map(|(_, lines)| &lines.inside) {
            Some(Inside::List(items)) => items.get(index).cloned().unwrap_or_default(),
            _ => self.outermost(),
        }
    }
}

/// Reads every document of a text, YAML or JSON.
pub(super) fn read(text: &str) -> Vec<Result<Document, Broken>> {
    if text.len() > MAX_TEXT {
        let reason = format!("the file is larger than {MAX_TEXT} bytes; split it");
        return vec![Err(Broken { line: 1, reason })];
    }
    let mut documents = Vec::new();
    for (first_line, range) in split(text) {
        match read_one(&text[range], first_line) {
            Ok(document) if document.value.is_null() => {}
            Ok(document) => unwrap_list(document, &mut documents),
            Err(broken) => documents.push(Err(broken)),
        }
    }
    documents
}

/// A document that did not come from text, such as an object of the Kubernetes API.
pub(super) fn without_lines(value: Value) -> Document {
    Document { value, lines: Lines::default() }
}

/// The documents of a text and the number of lines before each. `---` at the start of a line ends a document
/// wherever it stands (YAML 1.2 §9.1.4 keeps it out of every scalar), unless nothing but comments and directives
/// came before it.
fn split(text: &str) -> Vec<(usize, Range<usize>)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at, mut has_content) = (0, 0, 0, false);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = ["---", "..."].iter().find_map(|marker| line.strip_prefix(marker));
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            if has_content {
                parts.push((start_line, start..at));
                (start, start_line) = (at, number);
            }
            has_content = true;
        } else {
            has_content |= is_content(line.trim()) && !line.starts_with('%');
        }
        at += line.len();
    }
    parts.push((start_line, start..at));
    // A document that ended with `...` leaves the marker at the head of the next part, where it would be an error.
    for (line, range) in &mut parts {
        if text[range.clone()].starts_with("...") {
            let skipped = text[range.clone()].find('\n').map_or(range.len(), |end| end + 1);
            range.start += skipped;
            *line += 1;
        }
    }
    parts
}

fn is_content(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

fn read_one(text: &str, lines_before: usize) -> Result<Document, Broken> {
    let budget = serde_saphyr::budget! {
        max_depth: MAX_DEPTH,
        max_events: text.len() + MAX_REPLAYED,
        max_nodes: text.len() + MAX_REPLAYED,
    };
    let mut options = serde_saphyr::options! { budget: budget, with_snippet: false };
    options.alias_limits.max_total_replayed_events = MAX_REPLAYED;
    let line =
        |location: serde_saphyr::Location| lines_before + usize::try_from(location.line()).unwrap_or(0);
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(mut root) => {
            root.value.lines.line = u32::try_from(root.referenced.line()).unwrap_or(0);
            let mut lines = root.value.lines;
            shift(&mut lines, u32::try_from(lines_before).unwrap_or(u32::MAX));
            Ok(Document { value: root.value.value, lines })
        }
        Err(error) => {
            let line = error.location().map_or(lines_before + 1, line).max(1);
            let reason =
                format!("the document cannot be read as YAML or JSON: {}", in_short(&error.to_string()));
            Err(Broken { line, reason })
        }
    }
}

/// The parser's own words, without the position (it counts from the document's start, not the file's) and without
/// advice to programmers.
fn in_short(message: &str) -> &str {
    let message = message.lines().next().unwrap_or_default();
    [" at line ", ", set DuplicateKeyPolicy"]
        .iter()
        .filter_map(|tail| message.find(tail))
        .min()
        .map_or(message, |end| &message[..end])
}

fn shift(lines: &mut Lines, by: u32) {
    lines.line = lines.line.saturating_add(by);
    match &mut lines.inside {
        Inside::Nothing => {}
        Inside::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Inside::Map(entries) => entries.iter_mut().for_each(|(_, entry)| shift(entry, by)),
    }
}

/// `kubectl get -o yaml` wraps what it prints in a `List`; the items of a typed one (`PodList`) may lack their own
/// kind.
fn unwrap_list(document: Document, documents: &mut Vec<Result<Document, Broken>>) {
    let kind = document.value.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
    let (Some(kind), Some(Value::Array(items))) = (kind, document.value.get("items")) else {
        documents.push(Ok(document));
        return;
    };
    for (index, item) in items.iter().enumerate() {
        let mut item = item.clone();
        if let (Value::Object(item), false) = (&mut item, kind.is_empty()) {
            item.entry("kind").or_insert_with(|| kind.into());
            let version = document.value.get("apiVersion").cloned().unwrap_or_default();
            item.entry("apiVersion").or_insert(version);
        }
        documents.push(Ok(Document { value: item, lines: document.lines.item(index) }));
    }
}

/// A value and its lines, read together.
struct Node {
    value: Value,
    lines: Lines,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn leaf<E>(value: impl Into<Value>) -> Result<Node, E> {
        Ok(Node { value: value.into(), lines: Lines::default() })
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Self::leaf(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Self::leaf(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let (mut values, mut lines) = (Vec::new(), Vec::new());
        while let Some(item) = access.next_element::<Spanned<Node>>()? {
            let line = u32::try_from(item.referenced.line()).unwrap_or(0);
            values.push(item.value.value);
            lines.push(Lines { line, ..item.value.lines });
        }
        Ok(Node { value: Value::Array(values), lines: Lines { line: 0, inside: Inside::List(lines) } })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let (mut values, mut lines) = (Map::new(), Vec::new());
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let line = u32::try_from(key.referenced.line()).unwrap_or(0);
            let node: Node = access.next_value()?;
            lines.push((key.value.as_str().into(), Lines { line, ..node.lines }));
            values.insert(key.value, node.value);
        }
        Ok(Node { value: Value::Object(values), lines: Lines { line: 0, inside: Inside::Map(lines) } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<Value> {
        read(text).into_iter().map(|document| document.unwrap().value).collect()
    }

    #[test]
    fn every_field_has_its_line_in_the_file_whatever_document_it_is_in() {
        let text = "a: 1\n---\n# words\nspec:\n  servers:\n  - port:\n      number: 7\n    labels: {app.kubernetes.io/name: x}\n";
        let documents = read(text);
        let second = &documents[1].as_ref().unwrap().lines;
        assert_eq!(second.of("spec"), Some(4));
        assert_eq!(second.of("spec.servers[0].port.number"), Some(7));
        assert_eq!(second.of("spec.servers[0].labels.app.kubernetes.io/name"), Some(8));
        assert_eq!(second.of("spec.servers[0].port.protocol"), Some(6), "the nearest thing around it");
        assert_eq!(documents[0].as_ref().unwrap().lines.of(""), Some(1));
    }

    #[test]
    fn a_broken_document_has_its_line_and_costs_no_other() {
        let documents = read("a: 1\n---\nb: [1\n---\nc: 3\n");
        assert_eq!(documents[0].as_ref().unwrap().value["a"], 1);
        let broken = documents[1].as_ref().unwrap_err();
        assert!((3..=4).contains(&broken.line), "{broken:?}");
        assert_eq!(documents[2].as_ref().unwrap().value["c"], 3);
    }

    #[test]
    fn a_key_given_twice_is_an_error_on_its_line() {
        let broken = read("a: 1\nb: 2\na: 3\n").remove(0).unwrap_err();
        assert_eq!(broken.line, 3);
        assert!(broken.reason.contains("duplicate"), "{broken:?}");
    }

    #[test]
    fn markers_directives_comments_and_empty_documents_are_no_documents() {
        assert_eq!(values("# nothing\n---\n---\n\n--- # words\n").len(), 0);
        assert_eq!(values("%YAML 1.2\n---\na: 1\n...\n---\nb: |\n  --- no marker\n").len(), 2);
        assert_eq!(values("--- {a: 1}\n--- {a: 2}\n").len(), 2);
        assert_eq!(values("{\"a\": {\"b\": [1, null, true, 1.5]}}")[0]["a"]["b"][2], true);
    }

    #[test]
    fn lists_are_their_items_and_typed_lists_lend_them_their_kind() {
        let list = "kind: List\nitems:\n- kind: Pod\n- kind: Service\n";
        assert_eq!(values(list)[1]["kind"], "Service");
        assert_eq!(read(list)[1].as_ref().unwrap().lines.of("kind"), Some(4));
        let pods = values("kind: PodList\napiVersion: v1\nitems: [{metadata: {name: a}}]\n");
        assert_eq!((&pods[0]["kind"], &pods[0]["apiVersion"]), (&"Pod".into(), &"v1".into()));
    }

    #[test]
    fn aliases_expand_and_bombs_do_not() {
        assert_eq!(values("a: &x {k: 1}\nb: *x\n")[0]["b"]["k"], 1);
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(read(&bomb)[0].is_err());
        assert!(read(&"[".repeat(10_000))[0].is_err());
    }
}

//! The file source: the full set of files, each time, as text.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{self, Broken};
use super::index::{Index, nameless};
use super::resource::{self, Decoded, Key};
use crate::rejection::{Location, Place, Rejection, ResourceName};

/// A file's path, for messages, and its text.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// As the source wants it shown.
    pub path: &'a str,
    /// YAML of any number of documents, or JSON.
    pub text: &'a str,
}

impl Index {
    /// Takes these as all the files that there are. Resources that no file defines any more are forgotten, except
    /// those of a file of which something cannot be read, or of which nothing is left: they stay as they were. Of two
    /// definitions of one resource the first counts, by path and then by line.
    pub fn load(&mut self, files: &[File<'_>]) {
        let mut files = files.to_vec();
        files.sort_by_key(|file| (file.path, file.text));
        self.forget_unused();
        self.stray.clear();
        let mut load = Load { index: self, defined: BTreeMap::new(), broken: BTreeMap::new() };
        for file in files {
            // A write that was cut off leaves this, or a disk that was full; who means it removes the file.
            if file.text.trim().is_empty() && load.is_known(file.path) {
                let reason = "the file is empty; remove it if what it defined shall go".to_owned();
                load.refuse_file(file.path, Broken { line: 1, reason });
            }
            for document in document::read(file.text) {
                match document {
                    Ok(document) => load.take(resource::read(document, Some(file.path)), file.path),
                    Err(broken) => load.refuse_file(file.path, broken),
                }
            }
        }
        load.finish();
    }
}

/// One call of `load`.
struct Load<'a> {
    index: &'a mut Index,
    /// Where each resource is defined.
    defined: BTreeMap<Key, Place>,
    /// The rejections of the files of which something cannot be read.
    broken: BTreeMap<String, Vec<Rejection>>,
}

impl Load<'_> {
    fn take(&mut self, decoded: Decoded, path: &str) {
        let (key, origin) = match &decoded {
            Decoded::Good(key, object) => (key, &object.origin),
            Decoded::Bad(key, origin, _) => (key, origin),
            Decoded::Unused { .. } => {
                self.index.put(decoded);
                return;
            }
            Decoded::Nameless(origin, refusal) => {
                let rejection = nameless(origin, refusal.clone());
                self.broken.entry(path.to_owned()).or_default().push(rejection);
                return;
            }
        };
        let place = origin.place(&key.resource(), "");
        if let Some(first) = self.defined.get(key) {
            let reason = format!("it is already defined at {}, which counts; remove one", location(first));
            self.index.stray.push(Rejection { place, reason, last_good_kept: false });
            return;
        }
        self.defined.insert(key.clone(), place);
        self.index.put(decoded);
    }

    /// Did this file define something before?
    fn is_known(&self, path: &str) -> bool {
        let files =
            self.index.entries.values().filter_map(|entry| entry.good.as_ref()?.origin.file.as_deref());
        files.into_iter().any(|file| file == path)
    }

    fn refuse_file(&mut self, path: &str, Broken { line, reason }: Broken) {
        let resource =
            ResourceName { kind: "Document".to_owned(), namespace: String::new(), name: path.to_owned() };
        let location = Some(Location { file: path.to_owned(), line });
        let place = Place { resource, field: String::new(), location };
        self.broken.entry(path.to_owned()).or_default().push(Rejection {
            place,
            reason,
            last_good_kept: false,
        });
    }

    /// Forgets what is defined nowhere, but for the resources of broken files.
    fn finish(self) {
        let Self { index, defined, mut broken } = self;
        let mut kept = BTreeSet::new();
        index.entries.retain(|key, entry| {
            if defined.contains_key(key) {
                return true;
            }
            let file = entry.good.as_ref().and_then(|object| object.origin.file.clone());
            let stays = file.as_ref().is_some_and(|file| broken.contains_key(file));
            kept.extend(file.filter(|_| stays));
            stays
        });
        for (path, rejections) in &mut broken {
            for rejection in rejections {
                rejection.last_good_kept = kept.contains(path);
                index.stray.push(rejection.clone());
            }
        }
    }
}

fn location(place: &Place) -> String {
    place.location.as_ref().map(|at| format!("{}:{}", at.file, at.line)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

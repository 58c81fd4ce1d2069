//! Finds circles between source files: files that take names from each other, directly or through other files.
//!
//! A file takes a name from the file that defines it, also where a third file re-exports the name. A file may take names
//! from the modules that it lies in (`store/log.rs` from `store.rs` and from `lib.rs`); that is no arrow.

use std::collections::{BTreeMap, BTreeSet};

/// A module of the crate: the names from the crate's root to it.
type Module = Vec<String>;
/// From a file to another one: the names that the first takes from the second.
type Arrows = BTreeMap<(Module, Module), BTreeSet<String>>;

/// What the search for circles needs to know of a file.
#[derive(Debug, Default)]
struct File {
    children: BTreeSet<String>,
    /// By the name that each brings in: its path.
    imports: BTreeMap<String, Module>,
    /// All paths that begin at the crate, at this module, at one above it or at a child, resolved to the crate's root.
    paths: BTreeSet<Module>,
}

/// Each circle as the arrows in it, one a line; empty if there is none. `sources` are file names without `.rs`, as
/// `store/log`, and what is in the files; `lib` is the root.
pub fn circles(sources: &[(&str, &str)]) -> Vec<String> {
    let module = |name: &str| match name {
        "lib" => Module::new(),
        name => name.split('/').map(str::to_owned).collect(),
    };
    let files: BTreeMap<Module, File> =
        sources.iter().map(|(name, code)| (module(name), Reader::new(module(name), code).read())).collect();
    let arrows = arrows(&files);
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        files.keys().map(|file| (file, reachable(file, &arrows))).collect();
    let mut found: BTreeSet<BTreeSet<&Module>> = BTreeSet::new();
    for file in files.keys().filter(|file| reached[file].contains(file)) {
        found.insert(reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect());
    }
    found.iter().map(|circle| as_text(circle, &arrows)).collect()
}

fn as_text(circle: &BTreeSet<&Module>, arrows: &Arrows) -> String {
    let inside = arrows.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
    let line = |((from, to), names): (&(Module, Module), &BTreeSet<String>)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("src/{}.rs takes {} from src/{}.rs\n", from.join("/"), names.join(", "), to.join("/"))
    };
    inside.map(line).collect()
}

fn reachable<'a>(from: &'a Module, arrows: &'a Arrows) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        let onward = arrows.keys().filter(|(from, _)| from == file).map(|(_, to)| to);
        next.extend(onward.filter(|to| reached.insert(*to)));
    }
    reached
}

fn arrows(files: &BTreeMap<Module, File>) -> Arrows {
    let mut arrows = Arrows::new();
    for (from, file) in files {
        for path in &file.paths {
            let (to, name) = definition(path, files, 0);
            if !from.starts_with(&to) {
                arrows.entry((from.clone(), to)).or_default().insert(name);
            }
        }
    }
    arrows
}

/// The file that defines what a path names, and its name there.
fn definition(path: &[String], files: &BTreeMap<Module, File>, hops: u8) -> (Module, String) {
    let length = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length])).unwrap_or_default();
    let (file, rest) = path.split_at(length);
    let Some(name) = rest.first() else { return (file.to_vec(), "its names".to_owned()) };
    match files[file].imports.get(name) {
        Some(onward) if hops < 9 => definition(&[onward, &rest[1..]].concat(), files, hops + 1),
        _ => (file.to_vec(), name.clone()),
    }
}

/// Reads the names that one file takes from others. Tests in it are left out.
struct Reader {
    module: Module,
    tokens: Vec<String>,
    at: usize,
    /// Modules within the file, each with the depth of its brace.
    inline: Vec<(String, usize)>,
    depth: usize,
    /// Identifiers outside of imports.
    used: BTreeSet<String>,
    file: File,
}

impl Reader {
    fn new(module: Module, code: &str) -> Self {
        let file = File::default();
        Self { module, tokens: tokens(code), at: 0, inline: Vec::new(), depth: 0, used: BTreeSet::new(), file }
    }

    fn read(mut self) -> File {
        // A child may be declared below the code that uses it.
        for at in 0..self.tokens.len().saturating_sub(2) {
            if self.token(at) == "mod" && self.token(at + 2) == ";" {
                self.file.children.insert(self.tokens[at + 1].clone());
            }
        }
        let mut passed_on = Vec::new();
        while self.at < self.tokens.len() {
            if self.is_ahead(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.skip_item();
            } else if self.token(self.at) == "use" && self.token(self.at + 1) != "<" {
                let before = self.at.checked_sub(1).map_or("", |at| self.token(at));
                let public = ["pub", ")"].contains(&before);
                self.at += 1;
                let mut brought = Vec::new();
                self.import(&Module::new(), &mut brought);
                for (name, path) in brought {
                    if public {
                        passed_on.push((name.clone(), path.clone()))
                    } else {
                        self.file.paths.insert(path.clone());
                    }
                    self.file.imports.insert(name, path);
                }
            } else {
                self.code();
            }
        }
        let used = |(name, _): &(String, Module)| self.used.contains(name);
        self.file.paths.extend(passed_on.into_iter().filter(used).map(|(_, path)| path));
        self.file
    }

    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", String::as_str)
    }

    fn is_ahead(&self, expected: &[&str]) -> bool {
        expected.iter().enumerate().all(|(offset, token)| self.token(self.at + offset) == *token)
    }

    /// An item and the attributes before it: up to its semicolon, or the end of its braces.
    fn skip_item(&mut self) {
        let mut open = 0_usize;
        while self.at < self.tokens.len() {
            let token = self.token(self.at).to_owned();
            self.at += 1;
            match token.as_str() {
                "(" | "[" | "{" => open += 1,
                ")" | "]" => open -= 1,
                "}" => {
                    open -= 1;
                    if open == 0 && self.token(self.at) != ";" {
                        return;
                    }
                }
                ";" if open == 0 => return,
                _ => {}
            }
        }
    }

    /// The paths of a `use`, behind what stands before a brace.
    fn import(&mut self, before: &Module, brought: &mut Vec<(String, Module)>) {
        let mut path = before.clone();
        while self.at < self.tokens.len() {
            let token = self.token(self.at).to_owned();
            self.at += 1;
            match token.as_str() {
                "::" => {}
                "{" => {
                    while self.token(self.at) != "}" {
                        self.import(&path, brought);
                        self.at += usize::from(self.token(self.at) == ",");
                    }
                    self.at += 1;
                    return;
                }
                "," | "}" | ";" => {
                    self.at -= 1;
                    break;
                }
                "as" => {
                    let alias = self.token(self.at).to_owned();
                    self.at += 1;
                    brought.extend(self.absolute(&path).map(|path| (alias, path)));
                    return;
                }
                "self" if !path.is_empty() => {}
                segment => path.push(segment.to_owned()),
            }
        }
        let name = path.last().cloned().unwrap_or_default();
        brought.extend(self.absolute(&path).map(|path| (name, path)));
    }

    /// A token of anything but an import.
    fn code(&mut self) {
        let token = self.token(self.at).to_owned();
        match token.as_str() {
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                self.inline.pop_if(|(_, depth)| *depth == self.depth);
            }
            "mod" if self.token(self.at + 2) == "{" => {
                self.inline.push((self.tokens[self.at + 1].clone(), self.depth));
            }
            token if is_name(token) => {
                self.used.insert(token.to_owned());
                let follows = self.at > 0 && ["::", "."].contains(&self.token(self.at - 1));
                if !follows && self.token(self.at + 1) == "::" {
                    let mut path = vec![token.to_owned()];
                    while self.token(self.at + 1) == "::" && is_name(self.token(self.at + 2)) {
                        self.at += 2;
                        path.push(self.tokens[self.at].clone());
                    }
                    self.file.paths.extend(self.absolute(&path));
                }
            }
            _ => {}
        }
        self.at += 1;
    }

    /// A path from the crate's root. `None` for one that begins elsewhere, such as in another crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut base: Module = self.module.clone();
        base.extend(self.inline.iter().map(|(name, _)| name.clone()));
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Module::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            child if self.inline.is_empty() && self.file.children.contains(child) => {}
            _ => return None,
        }
        while let [first, others @ ..] = rest
            && first == "super"
        {
            base.pop();
            rest = others;
        }
        Some([&base, rest].concat())
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::` and other signs, without comments, texts and lifetimes.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = raw_text(rest) {
            raw
        } else if first == '"' || rest.starts_with("b\"") {
            let start = rest.find('"').unwrap_or_default() + 1;
            start + end_of_text(&rest[start..], '"')
        } else if first == '\'' {
            match rest[1..].chars().next() {
                Some('\\') => 1 + end_of_text(&rest[1..], '\''),
                Some(letter) if rest[1 + letter.len_utf8()..].starts_with('\'') => letter.len_utf8() + 2,
                _ => 1 + rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - 1),
            }
        } else if name > 0 {
            tokens.push(rest[..name].to_owned());
            name
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.extend((!first.is_whitespace()).then(|| rest[..length].to_owned()));
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of `r"…"`, `r#"…"#` or `br"…"`, if the code begins with one.
fn raw_text(code: &str) -> Option<usize> {
    let hashes_and_text = code.strip_prefix("br").or_else(|| code.strip_prefix('r'))?;
    let text = hashes_and_text.trim_start_matches('#').strip_prefix('"')?;
    let start = code.len() - text.len();
    let end = format!("\"{}", "#".repeat(hashes_and_text.len() - text.len() - 1));
    Some(start + text.find(&end)? + end.len())
}

/// Behind the first `quote` that no backslash escapes.
fn end_of_text(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

//! Reads the sources and checks the rules about modules: layers, doors to outside systems, no circles, no long files.

use std::fs;
use std::path::{Path, PathBuf};

mod circles;

/// A crate that speaks to an outside system, and the modules that may use it.
const DOORS: [(&str, &[&str]); 10] = [
    ("lapin", &["queue"]),
    ("tokio_postgres", &["store"]),
    ("deadpool_postgres", &["store"]),
    ("refinery", &["store"]),
    ("reqwest", &["sender", "management", "telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("axum", &["api", "ops", "cli/listen"]),
];

/// Layers in the order of `lib.rs`, marked there by comments.
const LAYERS: [&str; 3] = ["// Rules", "// Edges", "// Services"];

struct Source {
    /// Such as `cli/listen`.
    name: String,
    /// Without lines that are comments.
    code: String,
    /// All of them.
    lines: usize,
}

impl Source {
    fn module(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    /// Whether the code names `path` as a path: `path::`.
    fn names(&self, path: &str) -> bool {
        let before = |at: usize| self.code[..at].chars().next_back();
        let whole = |at: usize| !before(at).is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        self.code.match_indices(&format!("{path}::")).any(|(at, _)| whole(at))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file but main.rs, lib.rs and the tests.
fn sources() -> Vec<Source> {
    let mut sources = library();
    sources.retain(|source| source.name != "lib");
    sources
}

/// Every source file but main.rs and the tests.
fn library() -> Vec<Source> {
    let (mut folders, mut sources) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().with_extension("").display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && name != "main" {
                let code = fs::read_to_string(&path).unwrap();
                let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                let all = code.lines().count();
                sources.push(Source { name, code: lines.collect::<Vec<_>>().join("\n"), lines: all });
            }
        }
    }
    sources.retain(|source| !source.name.contains("tests"));
    assert!(sources.len() > 20, "found {} sources", sources.len());
    sources
}

/// The modules that `lib.rs` declares, with the number of their layer.
fn layers() -> Vec<(String, usize)> {
    let lib = fs::read_to_string(root().join("lib.rs")).unwrap();
    let mut layer = None;
    let mut modules = Vec::new();
    for line in lib.lines() {
        layer = LAYERS.iter().position(|mark| line.starts_with(mark)).or(layer);
        if let Some(module) = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")) {
            let layer = layer.expect("modules stand below the comment of their layer");
            modules.push((module.trim_end_matches(';').to_owned(), layer));
        }
    }
    assert!(modules.iter().any(|(_, layer)| *layer == 2), "lib.rs has all its layers");
    modules
}

#[test]
fn each_outside_system_has_one_door() {
    for source in sources() {
        for (system, doors) in DOORS {
            let allowed = doors.iter().any(|door| source.name == *door || source.name.starts_with(&format!("{door}/")));
            assert!(
                allowed || !source.names(system),
                "src/{}.rs uses {system}, which belongs to {doors:?}",
                source.name
            );
        }
    }
}

/// The text of an error may hold a password, from a server, a library or a parser. `error_chain` takes it out.
#[test]
fn errors_become_text_where_passwords_are_taken_out() {
    for source in sources() {
        let shown =
            ["%error", "?error", "%cause", "{error:#}", "{problem:#}"].into_iter().find(|by| source.code.contains(by));
        assert!(shown.is_none(), "src/{}.rs shows an error by {shown:?} and not by error_chain", source.name);
    }
}

/// Only a connection that `link.rs` opens is sure to end with its owner, also while the broker does not answer.
#[test]
fn connections_to_the_broker_are_opened_in_one_place() {
    let openers: Vec<_> = sources().into_iter().filter(|source| source.code.contains("Connection::connect")).collect();
    let names: Vec<&str> = openers.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["queue/connection/link"]);
}

#[test]
fn a_module_uses_its_own_layer_and_those_above_it() {
    let layers = layers();
    for source in sources() {
        let layer_of = |name: &str| layers.iter().find(|(module, _)| module == name).map(|(_, layer)| *layer);
        let own = layer_of(source.module()).unwrap_or_else(|| panic!("{} is not in lib.rs", source.name));
        for (module, layer) in &layers {
            let uses = source.code.contains(&format!("crate::{module}::"))
                || source.code.contains(&format!("crate::{module};"));
            assert!(!uses || *layer <= own, "src/{}.rs uses crate::{module}, a layer below its own", source.name);
        }
    }
}

#[test]
fn the_rules_use_no_clock_no_randomness_and_no_io() {
    let layers = layers();
    let rules: Vec<&str> = layers.iter().filter(|(_, layer)| *layer == 0).map(|(module, _)| module.as_str()).collect();
    for source in sources().iter().filter(|source| rules.contains(&source.module())) {
        for impure in [
            "Instant::now",
            "SystemTime::now",
            "Timestamp::now",
            "now_v7",
            "new_v4",
            "rand::",
            "std::fs",
            "std::env",
            "tokio::",
        ] {
            assert!(!source.code.contains(impure), "src/{}.rs is a rule but uses {impure}", source.name);
        }
    }
}

#[test]
fn no_two_files_use_each_other_not_even_through_others() {
    let sources = library();
    let read: Vec<(&str, &str)> = sources.iter().map(|source| (&*source.name, &*source.code)).collect();
    let circles = circles::circles(&read);
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn a_circle_is_found_whichever_way_the_names_are_written() {
    let lib = ("lib", "pub mod a; pub mod b; pub mod c;");
    let found = |files: &[(&str, &str)]| circles::circles(&[&[lib], files].concat());
    let used_by_a = ("a", "use crate::b::{self, B};\npub struct A(B);\nconst ONE: u8 = 1;");
    for taken in [
        "use crate::a::A;",
        "use super::a::{A as Other};",
        "fn f() -> u8 { crate::a::ONE }",
        "mod inner { use super::super::a::A; }",
        "use crate::c::A;",
    ] {
        let circle = found(&[used_by_a, ("b", taken), ("c", "pub use crate::a::A;")]);
        assert_eq!(circle.len(), 1, "{taken}");
        assert!(circle[0].contains("src/a.rs takes B") && circle[0].contains("from src/a.rs"), "{}", circle[0]);
    }
    let over_a_third = found(&[used_by_a, ("b", "use crate::c::C;"), ("c", "use crate::a::A;")]);
    assert_eq!(over_a_third[0].lines().count(), 3);
    let siblings = found(&[("a", "mod x; mod y;"), ("a/x", "use super::y::Y;"), ("a/y", "fn f(_: super::x::X) {}")]);
    assert_eq!(siblings.len(), 1);
}

#[test]
fn what_is_no_circle_is_not_taken_for_one() {
    let lib = ("lib", "pub mod a; pub mod b; pub fn helper() {}");
    for other in [
        "fn f() { crate::helper() }",
        "// use crate::a::A;\nconst TEXT: &str = \"crate::a::A\";",
        "#[cfg(test)]\nmod tests { use crate::a::A; }",
        "#[cfg(test)]\nuse crate::a::{A};",
        "use a::A;",
    ] {
        let circles = circles::circles(&[lib, ("a", "use crate::b::B; fn f() { crate::helper() }"), ("b", other)]);
        assert!(circles.is_empty(), "{other}: {circles:?}");
    }
    let parent = ("a", "mod x; pub use x::X; pub struct A(X);");
    assert!(circles::circles(&[lib, parent, ("a/x", "use super::A; pub struct X;"), ("b", "")]).is_empty());
}

/// A file that fits on a few screens can be read at once.
#[test]
fn no_file_has_more_than_400_lines() {
    for source in library() {
        assert!(source.lines <= 400, "src/{}.rs has {} lines", source.name, source.lines);
    }
}

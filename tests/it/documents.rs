//! The documents fit together: links lead somewhere, every alert has its runbook, README stays short, the workflow uses pinned
//! actions, and nothing in the tree names the address of a package registry.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Files that this project does not write, and the inputs of fuzzing, which are not text.
const NOT_OURS: [&str; 6] = [".git", "target", "artifacts", "corpus", "Cargo.lock", "LICENSE"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the project that are text, by their path in it.
fn files() -> Vec<(PathBuf, String)> {
    let (mut folders, mut files) = (vec![root().to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if NOT_OURS.iter().any(|name| path.file_name() == Some(name.as_ref())) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    files
}

fn documents() -> Vec<(PathBuf, String)> {
    let documents: Vec<_> = files().into_iter().filter(|(path, _)| path.extension() == Some("md".as_ref())).collect();
    assert!(documents.len() > 10, "found {} documents", documents.len());
    documents
}

/// Lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    prose(text).filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Targets of the links to files of the project and to headings of the same document.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.starts_with("https://"))
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
        plain
    })
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    for (document, text) in documents() {
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = match file {
                "" => document.clone(),
                file => plain(&document.parent().unwrap().join(file)),
            };
            assert!(root().join(&target).exists(), "{}: there is no {link}", document.display());
            if let Some(anchor) = anchor {
                let text = fs::read_to_string(root().join(&target)).unwrap();
                assert!(anchors(&text).contains(anchor), "{}: there is no heading {link}", document.display());
            }
        }
    }
}

/// A document without its programs in Rust, which use other libraries.
fn without_programs(text: &str) -> String {
    let mut parts = text.split("\n```rust\n");
    let first = parts.next().unwrap_or_default();
    let behind = parts.filter_map(|part| part.split_once("\n```\n")).map(|(_, behind)| behind);
    std::iter::once(first).chain(behind).collect::<Vec<_>>().join("\n")
}

/// What a document about the code names: files below `src/`, and functions as `Type::function`.
fn names(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let known = |c: char| c.is_ascii_alphanumeric() || "_/.:".contains(c);
    let words = || text.split(|c| !known(c)).map(|word| word.trim_matches([':', '.', '/']));
    let files = words().filter(|word| word.ends_with(".rs")).map(|word| word.trim_start_matches("src/"));
    let is_function = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    // The targets of log lines look like functions.
    let functions = words().filter(|word| !word.starts_with("penr_webhooks::"));
    let functions =
        functions.filter_map(|word| word.split_once("::")).map(|(_, function)| function).filter(is_function);
    (files.collect(), functions.collect())
}

#[test]
fn files_and_functions_that_the_documents_name_exist() {
    let sources = files().into_iter().filter(|(path, _)| path.starts_with("src")).map(|(_, text)| text);
    let sources: String = sources.collect();
    let mut missing = Vec::new();
    for (document, text) in documents().iter().filter(|(path, _)| path.starts_with("docs")) {
        let text = without_programs(text);
        let (files, functions) = names(&text);
        let files = files.into_iter().filter(|file| !root().join("src").join(file).exists());
        let unknown = |function: &&str| !sources.contains(&format!("fn {function}"));
        missing.extend(
            files
                .chain(functions.into_iter().filter(unknown))
                .map(|name| (document.display().to_string(), name.to_owned())),
        );
    }
    assert_eq!(missing, [], "these were renamed or removed");
}

#[test]
fn readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines < 250, "README.md has {lines} lines: move what only some readers need to docs/");
}

/// They are run by `make examples`; what readers copy must be what was run.
#[test]
fn the_document_for_publishers_shows_every_example_as_it_is_run() {
    let document = fs::read_to_string(root().join("docs/publishing.md")).unwrap();
    let examples: Vec<_> = files().into_iter().filter(|(path, _)| path.starts_with("examples/publish")).collect();
    assert!(examples.len() > 6, "{examples:?}");
    for (path, code) in examples {
        assert!(document.contains(&format!("\n{code}```\n")), "docs/publishing.md shows another {}", path.display());
    }
}

#[test]
fn the_document_for_publishers_names_every_type_of_the_catalogue() {
    let settings = fs::read_to_string(root().join("config/default.toml")).unwrap();
    let document = fs::read_to_string(root().join("docs/publishing.md")).unwrap();
    let types = settings.lines().filter_map(|line| line.strip_prefix("[event_types.\"")?.strip_suffix("\"]"));
    let types: Vec<&str> = types.collect();
    assert_eq!(types.len(), 7);
    for event_type in types {
        assert!(document.contains(&format!("`{event_type}`")), "docs/publishing.md does not name {event_type}");
    }
}

/// The alert rules of `config/prometheus`.
fn alerts() -> Vec<serde_json::Value> {
    let rules = fs::read_to_string(root().join("config/prometheus/alerts.yml")).unwrap();
    let rules: serde_json::Value = serde_saphyr::from_str(&rules).expect("the rules are YAML");
    rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

#[test]
fn every_alert_has_a_runbook_of_its_name_and_every_runbook_an_alert() {
    let runbooks = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let written = prose(&runbooks).filter_map(|line| line.strip_prefix("### PenrWebhooks"));
    let written: BTreeSet<String> = written.map(|name| format!("PenrWebhooks{name}")).collect();
    let alerts = alerts();
    let named: BTreeSet<String> = alerts.iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    assert!(named.len() > 20, "{named:?}");
    assert_eq!(named, written);
    for alert in alerts {
        let url = format!("docs/operating.md#{}", alert["alert"].as_str().unwrap().to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], url);
        assert!(["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{alert}");
    }
}

#[test]
fn every_alert_is_expected_to_fire_in_a_test_of_the_rules() {
    let test = |name| fs::read_to_string(root().join("config/prometheus").join(name)).unwrap();
    let tests = test("alerts_test.yml") + &test("alerts_days_test.yml");
    for alert in alerts() {
        let (name, severity) = (alert["alert"].as_str().unwrap(), alert["labels"]["severity"].as_str().unwrap());
        let fires = tests.contains(&format!(r#"alertname="{name}", severity="{severity}""#))
            || tests.contains(&format!("alertname: {name}\n"));
        assert!(fires, "{name} ({severity}) has no test");
    }
}

/// A tag can be moved to other code, a commit cannot.
#[test]
fn the_workflow_uses_actions_by_the_hash_of_their_commit() {
    let workflow = fs::read_to_string(root().join(".github/workflows/ci.yml")).unwrap();
    serde_saphyr::from_str::<serde_json::Value>(&workflow).expect("the workflow is YAML");
    let actions: Vec<&str> =
        workflow.lines().filter_map(|line| line.split_once("uses: ")).map(|(_, uses)| uses).collect();
    assert!(!actions.is_empty());
    for action in actions {
        let commit = action.split(['@', ' ']).nth(1).unwrap_or_default();
        assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{action}");
    }
}

/// Those who build the project may use registries of their own, which they name in the settings of npm, apt and cargo.
#[test]
fn no_file_names_the_address_of_a_package_registry() {
    // In parts, so that this file names none.
    let registries =
        [("registry.", "npmjs"), ("deb.", "debian.org"), ("index.", "crates.io"), ("static.", "crates.io")];
    let registries = registries.map(|(host, rest)| [host, rest].concat());
    for (path, text) in files() {
        let found = registries.iter().find(|registry| text.contains(registry.as_str()));
        assert!(found.is_none(), "{} names {found:?}", path.display());
    }
}

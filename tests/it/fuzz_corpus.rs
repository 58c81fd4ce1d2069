//! Every input in `fuzz/corpus/` passes the check of its fuzz target. libFuzzer begins with the same files.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/checks/event.rs"]
mod event;
#[path = "../../fuzz/checks/request_header.rs"]
mod request_header;
#[path = "../../fuzz/checks/webhook_url.rs"]
mod webhook_url;

/// The number of inputs that the check accepts, and of those that it refuses.
fn replay(target: &str, check: fn(&[u8]) -> bool) -> [usize; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut counts = [0, 0];
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let file = entry.unwrap().path();
        // Shown only if the check fails.
        println!("{}", file.display());
        counts[usize::from(!check(&fs::read(&file).unwrap()))] += 1;
    }
    counts
}

/// A corpus is of value only if it has inputs of both kinds.
#[test]
fn every_input_of_the_fuzz_corpora_passes_its_check() {
    for (target, check) in [
        ("event", event::check as fn(&[u8]) -> bool),
        ("request_header", request_header::check),
        ("webhook_url", webhook_url::check),
    ] {
        let [accepted, refused] = replay(target, check);
        assert!(accepted > 9 && refused > 9, "{target}: {accepted} inputs accepted, {refused} refused");
    }
}

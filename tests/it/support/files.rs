//! Files that processes read while a test changes them.

use std::fs;
use std::path::Path;

/// Replaces the file in one step, so that no process reads half of the text.
pub fn write_at_once(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, file).unwrap();
}

//! Files that processes read while a test changes them.

use std::fs;
use std::path::Path;

/// Nobody reads half of it.
pub fn write_at_once(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, file).unwrap();
}

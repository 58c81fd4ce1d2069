use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::secret::Keyring;

/// The files from which people may copy keys.
fn copied_from() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [".", "config", "scripts", "docs", ".ci"].map(|folder| root.join(folder));
    let files = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    // A signature in an example is as long as a key: it follows `v1,`.
    let read = |path: PathBuf| Some((path.display().to_string(), fs::read_to_string(path).ok()?.replace("v1,", "v1_")));
    paths.filter_map(read).collect()
}

fn is_of_key(byte: char) -> bool {
    byte.is_ascii_alphanumeric() || "+/=:_-".contains(byte)
}

#[test]
fn every_key_that_can_be_copied_from_a_file_of_ours_is_known_as_published() {
    let mut found = 0;
    for (path, text) in copied_from() {
        for word in text.split(|byte| !is_of_key(byte)) {
            let encoded = word.rsplit(':').next().unwrap_or(word);
            if Keyring::parse(&format!("id:{encoded}")).is_ok() {
                assert!(is_published_text(word), "{path} holds an encryption key that is not listed");
                found += 1;
            }
        }
        for secret in text.split("JWT_SECRET:-").skip(1).filter_map(|rest| rest.split('}').next()) {
            let variable = secret.starts_with('$');
            assert!(variable || is_published_text(secret), "{path} holds a JWT secret that is not listed");
            found += usize::from(!variable);
        }
    }
    assert!(found >= 2, "docker-compose.yml has one of each");
}

#[test]
fn a_key_is_known_by_its_bytes() {
    for text in [
        "development-only-and-known-to-everybody",
        "penr-webhooks-development-only!!",
        "cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE=",
        "development:cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE=",
    ] {
        assert!(is_published_text(text), "{text}");
    }
    assert!(!is_published_text(&STANDARD.encode([7; 32])));
    assert!(!is_published_text("development-only-and-known-to-everybody-but-longer"));
    assert!(!is_published_text(""));
}

//! Which releases may run together: one and the next, on the schema of the newer one. Pure.

use std::collections::BTreeSet;

/// The first two numbers of a version (semver.org). Versions that differ only in the third are the same release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// The release of this program.
    pub(crate) fn ours() -> Self {
        Self::of(env!("CARGO_PKG_VERSION")).expect("Cargo checks the version")
    }

    /// The release of a version; `None` for a text that is no version.
    pub(crate) fn of(version: &str) -> Option<Self> {
        let mut numbers = version.split('.');
        let mut number = || numbers.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }

    /// Whether `newer` may be the release after this one. How many releases a major version had is not known.
    fn comes_right_before(self, newer: Self) -> bool {
        match newer.major - self.major {
            0 => newer.minor - self.minor == 1,
            majors => majors == 1 && newer.minor == 0,
        }
    }
}

/// Whether these releases may run at the same time.
pub(crate) fn may_run_together(releases: impl IntoIterator<Item = Release>) -> bool {
    let different: Vec<Release> = releases.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    match different[..] {
        [] | [_] => true,
        [older, newer] => older.comes_right_before(newer),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_and_the_next_may_run_together_and_no_others() {
        let may = |versions: &[&str]| may_run_together(versions.iter().map(|version| Release::of(version).unwrap()));
        for versions in [
            &[][..],
            &["0.1.0"],
            &["0.1.0", "0.1.9"],
            &["0.2.0", "0.1.3", "0.2.1"],
            &["0.9.2", "1.0.0"],
            &["1.9.0", "1.10.0-rc.1"],
        ] {
            assert!(may(versions), "{versions:?}");
        }
        for versions in
            [&["0.1.0", "0.3.0"][..], &["0.1.0", "0.2.0", "0.3.0"], &["0.9.0", "1.1.0"], &["1.0.0", "3.0.0"]]
        {
            assert!(!may(versions), "{versions:?}");
        }
        assert!(["", "1", "x.1", "1.y"].into_iter().all(|text| Release::of(text).is_none()));
        assert!(Release::ours() <= Release::of("999.0").unwrap());
    }
}

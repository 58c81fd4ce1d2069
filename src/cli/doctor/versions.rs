//! Which versions of the servers work, and which this release was tested with. README names the same ones.

use std::fmt;

use super::Check;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    /// `None` for PostgreSQL, whose minor versions do not matter.
    minor: Option<u32>,
}

/// The versions of one server that work and that were tested.
pub(super) struct Versions {
    server: &'static str,
    /// Older versions lack a feature that we need.
    oldest_usable: Version,
    lacking: &'static str,
    oldest_tested: Version,
    newest_tested: Version,
}

pub(super) const RABBITMQ: Versions = Versions {
    server: "RabbitMQ",
    oldest_usable: Version { major: 3, minor: Some(10) },
    lacking: "x-dead-letter-strategy, without which rejected events may be lost",
    oldest_tested: Version { major: 3, minor: Some(10) },
    newest_tested: Version { major: 4, minor: Some(3) },
};

pub(super) const POSTGRESQL: Versions = Versions {
    server: "PostgreSQL",
    oldest_usable: Version { major: 14, minor: None },
    lacking: "date_bin and idle_session_timeout, which our statements use",
    oldest_tested: Version { major: 15, minor: None },
    newest_tested: Version { major: 18, minor: None },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    /// Between the oldest and the newest tested version.
    Tested,
    Newer,
    Older,
    Unusable,
    Unknown,
}

impl Version {
    /// Parses a text such as `3.10.8` or `4.3.0-rc.1`.
    pub(super) fn of_rabbitmq(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(Self { major: parts.next()??, minor: Some(parts.next()??) })
    }

    /// Reads `server_version_num`, such as 170012 for 17.12.
    pub(super) fn of_postgres(number: i32) -> Option<Self> {
        Some(Self { major: u32::try_from(number).ok()? / 10_000, minor: None })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}", self.major),
        }
    }
}

impl Versions {
    /// `check` says how the server answers; this adds what to think of its version.
    pub(super) fn check(&self, check: &'static str, found: Option<Version>, detail: String) -> Check {
        let Self { server, oldest_usable, lacking, oldest_tested, newest_tested } = self;
        let tested = format!("this release was tested with {server} {oldest_tested} to {newest_tested}");
        match self.support(found) {
            Support::Tested => Check::ok(check, detail),
            Support::Newer => {
                let advice = format!("{tested}: try a newer version before your customers do, or update penr-webhooks");
                Check::warns(check, detail, advice)
            }
            Support::Older => Check::warns(check, detail, format!("{tested}: update the server")),
            Support::Unusable => {
                let advice = format!("use version {oldest_usable} or newer: older ones lack {lacking}");
                Check::fails(check, detail, advice)
            }
            Support::Unknown => Check::warns(check, detail, format!("{tested}: make sure that it is one of those")),
        }
    }

    fn support(&self, found: Option<Version>) -> Support {
        match found {
            None => Support::Unknown,
            Some(version) if version < self.oldest_usable => Support::Unusable,
            Some(version) if version < self.oldest_tested => Support::Older,
            Some(version) if version > self.newest_tested => Support::Newer,
            Some(_) => Support::Tested,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Status;
    use super::*;

    fn rabbitmq(text: &str) -> Support {
        RABBITMQ.support(Version::of_rabbitmq(text))
    }

    fn postgres(number: i32) -> Support {
        POSTGRESQL.support(Version::of_postgres(number))
    }

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(["3.9.29", "2.8.0"].map(rabbitmq), [Support::Unusable; 2]);
        assert_eq!(["3.10.0", "3.10.8", "3.13.7", "4.0.5", "4.3.6", "4.3.0-rc.1"].map(rabbitmq), [Support::Tested; 6]);
        assert_eq!(["4.4.0", "4.10.1", "5.0.0-beta.1"].map(rabbitmq), [Support::Newer; 3]);
        assert_eq!(["", "4", "unknown", "-4.0"].map(rabbitmq), [Support::Unknown; 4]);
        assert_eq!([90_624, 130_021].map(postgres), [Support::Unusable; 2]);
        assert_eq!(postgres(140_020), Support::Older);
        assert_eq!([150_000, 150_014, 170_012, 180_006].map(postgres), [Support::Tested; 4]);
        assert_eq!(postgres(190_000), Support::Newer);
    }

    #[test]
    fn a_check_says_what_to_do() {
        let check = |text| RABBITMQ.check("broker", Version::of_rabbitmq(text), format!("RabbitMQ {text}"));
        let advice = |text| check(text).advice.unwrap_or_default();
        assert_eq!(["3.9.1", "3.10.8", "4.4.0", "?"].map(|text| check(text).status), {
            [Status::Fails, Status::Ok, Status::Warns, Status::Warns]
        });
        assert!(advice("3.9.1").contains("use version 3.10 or newer: older ones lack x-dead-letter-strategy"));
        assert!(advice("4.4.0").contains("tested with RabbitMQ 3.10 to 4.3"));
        let old = POSTGRESQL.check("database", Version::of_postgres(140_020), String::new());
        assert!(old.status == Status::Warns && old.advice.unwrap().contains("tested with PostgreSQL 15 to 18"));
    }

    #[test]
    fn the_readme_names_them_and_compose_starts_tested_ones() {
        let readme: Vec<&str> = include_str!("../../../README.md").split_whitespace().collect();
        let readme = readme.join(" ");
        for Versions { server, oldest_usable, oldest_tested, newest_tested, .. } in [&RABBITMQ, &POSTGRESQL] {
            let tested = format!("{server} {oldest_tested} to {newest_tested}");
            assert!(readme.contains(&tested), "README does not name {tested}");
            let usable = format!("{server} {oldest_usable} or newer");
            assert!(readme.contains(&usable), "README does not name {usable}");
        }
        let compose = include_str!("../../../docker-compose.yml");
        let pinned = |image: &str| {
            let line = compose.lines().find_map(|line| line.trim().strip_prefix(image)).unwrap();
            line.split('-').next().unwrap().to_owned()
        };
        assert_eq!(rabbitmq(&pinned("image: rabbitmq:")), Support::Tested);
        assert_eq!(postgres(pinned("image: postgres:").parse::<i32>().unwrap() * 10_000), Support::Tested);
    }

    proptest! {
        #[test]
        fn a_newer_version_is_never_judged_as_older(
            one in (0_u32..8, 0_u32..20), other in (0_u32..8, 0_u32..20), patch in 0_u32..30
        ) {
            let rank = |(major, minor): (u32, u32)| {
                let order = [Support::Unusable, Support::Older, Support::Tested, Support::Newer];
                let support = rabbitmq(&format!("{major}.{minor}.{patch}"));
                order.iter().position(|other| *other == support).unwrap()
            };
            let (older, newer) = (one.min(other), one.max(other));
            prop_assert!(rank(older) <= rank(newer));
        }

        #[test]
        fn any_text_and_number_are_judged(text in ".{0,20}", number in any::<i32>()) {
            rabbitmq(&text);
            postgres(number);
        }
    }
}

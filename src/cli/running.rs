//! Which releases run, and whether they may run together, for `migrate --check` and `doctor`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error_chain;
use crate::presence::GONE_AFTER;
use crate::releases::{Release, may_run_together};
use crate::store::{SeenProcess, Store};

/// The processes that were seen lately, or why that is not known.
#[derive(Debug)]
pub(super) struct Running(Result<Vec<SeenProcess>, String>);

impl Running {
    /// The processes are not known.
    pub(super) fn unknown(because: &str) -> Self {
        Self(Err(because.to_owned()))
    }

    pub(super) async fn find(store: &Store) -> Self {
        Self(match store.processes(GONE_AFTER).await {
            Ok(Some(processes)) => Ok(processes),
            Ok(None) => Err("this schema has no table of processes yet".to_owned()),
            Err(error) => Err(error_chain(&error)),
        })
    }

    #[cfg(test)]
    pub(super) fn seen_lately(processes: Vec<SeenProcess>) -> Self {
        Self(Ok(processes))
    }

    /// # Errors
    ///
    /// Why they are not known.
    pub(super) fn processes(&self) -> Result<&[SeenProcess], &str> {
        self.0.as_deref().map_err(String::as_str)
    }

    /// One sentence that counts the processes of each version.
    ///
    /// # Errors
    ///
    /// Why it is not known.
    pub(super) fn summary(&self) -> Result<String, &str> {
        let processes = self.processes()?;
        let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
        for process in processes {
            *versions.entry(&process.version).or_default() += 1;
        }
        let counted: Vec<String> = versions.iter().map(|(version, count)| format!("{count} of {version}")).collect();
        Ok(match counted.is_empty() {
            true => "no process was seen lately".to_owned(),
            false => format!("processes seen lately: {}", counted.join(", ")),
        })
    }

    /// What to do about releases that must not run together. This program's counts too: its processes are about to be started.
    pub(super) fn too_far_apart(&self) -> Option<String> {
        let seen = self.seen().filter_map(|process| Release::of(&process.version));
        (!may_run_together(seen.chain([Release::ours()]))).then(|| {
            format!(
                "releases run together that are more than one apart, this program's {} included: upgrade one release after the \
                 other, each time all processes",
                env!("CARGO_PKG_VERSION")
            )
        })
    }

    /// What to do about processes of this release, or a newer one, while the schema is older.
    pub(super) fn waiting_for_migrate(&self) -> Option<String> {
        let waits = |process: &&SeenProcess| Release::of(&process.version).is_some_and(|seen| seen >= Release::ours());
        match self.seen().filter(waits).count() {
            0 => None,
            1 => Some("1 process of this release or a newer one runs on the older schema: migrate soon".to_owned()),
            count => {
                Some(format!("{count} processes of this release or a newer one run on the older schema: migrate soon"))
            }
        }
    }

    /// Each process of another version than this program's, in words.
    pub(super) fn of_other_versions(&self) -> impl Iterator<Item = String> {
        let other = self.seen().filter(|process| process.version != env!("CARGO_PKG_VERSION"));
        other.map(|process| format!("{} {} on {}", process.role, process.version, process.host))
    }

    /// Null if it is not known.
    pub(super) fn to_json(&self) -> Value {
        let Ok(processes) = &self.0 else { return Value::Null };
        let process = |seen: &SeenProcess| json!({ "id": seen.id.to_string(), "role": seen.role, "version": seen.version, "host": seen.host });
        processes.iter().map(process).collect()
    }

    fn seen(&self) -> impl Iterator<Item = &SeenProcess> {
        self.0.iter().flatten()
    }
}

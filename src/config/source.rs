//! Where a server's URL was given. One that a file holds may change while the process runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::secret::SecretText;

/// The origin of a URL. Clones share what was read from the file last.
#[derive(Debug, Clone, Default)]
pub struct UrlSource {
    /// The variable or setting, as the operator wrote it.
    name: String,
    file: Option<String>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<SecretText>,
    /// What the log has on the file's content.
    told: Option<String>,
}

impl UrlSource {
    pub(crate) fn new(name: String, file: Option<String>) -> Self {
        Self { name, file, state: Arc::default() }
    }

    /// For messages; `usual` if it was not given by an operator.
    pub fn name(&self, usual: &str) -> String {
        if self.name.is_empty() { usual.to_owned() } else { self.name.clone() }
    }

    /// The path of the file that holds the URL.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// A URL as it stands in a file, without the end of the line.
    pub fn from_content(mut content: String) -> SecretText {
        content.truncate(content.trim_end().len());
        SecretText::new(content)
    }

    /// What was read last, `first` if nothing was since the start.
    pub fn newest_or(&self, first: &SecretText) -> SecretText {
        self.state().newest.as_ref().unwrap_or(first).clone()
    }

    /// From here on this is the URL. Whether it was another one until now.
    pub fn replace(&self, url: &SecretText) -> bool {
        let before = std::mem::replace(&mut *self.state(), State { newest: Some(url.clone()), told: None });
        before.newest.as_ref() != Some(url)
    }

    /// Whether a problem with the file is not the one that was told of last.
    pub fn is_news(&self, problem: &str) -> bool {
        self.state().told.replace(problem.to_owned()).as_deref() != Some(problem)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

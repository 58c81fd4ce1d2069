//! Where a server's URL was given. One that a file holds, or whose password one holds, may change while the process runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::password::PutIn;
use crate::secret::SecretText;

/// The origin of a URL. Clones share what was read from the file last.
#[derive(Debug, Clone, Default)]
pub struct UrlSource {
    /// The variable or setting, as the operator wrote it.
    name: String,
    file: Option<String>,
    apart: Option<Arc<Apart>>,
    state: Arc<Mutex<State>>,
}

/// A password that is given apart from its URL.
#[derive(Debug)]
struct Apart {
    /// As it was given, without the password.
    url: SecretText,
    password: SecretText,
    name: String,
    file: Option<String>,
    put_in: PutIn,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<SecretText>,
    /// What the log has on the file's content.
    told: Option<String>,
}

impl UrlSource {
    pub(crate) fn new(name: String, file: Option<String>) -> Self {
        Self { name, file, apart: None, state: Arc::default() }
    }

    /// From here on `password`, which comes from `from`, belongs into the URL.
    pub(super) fn take_password(&mut self, url: SecretText, password: SecretText, from: Self, put_in: PutIn) {
        self.apart = Some(Arc::new(Apart { url, password, name: from.name, file: from.file, put_in }));
    }

    /// For messages; `usual` if it was not given by an operator.
    pub fn name(&self, usual: &str) -> String {
        if self.name.is_empty() { usual.to_owned() } else { self.name.clone() }
    }

    /// The names of the files' variables, for messages; empty if nothing can change.
    pub fn files(&self) -> String {
        let of_password = self.apart.as_ref().and_then(|apart| apart.file.as_ref().map(|_| apart.name.as_str()));
        let names: Vec<&str> = self.file.as_ref().map(|_| self.name.as_str()).into_iter().chain(of_password).collect();
        names.join(" and ")
    }

    /// The URL by what the files hold now, without the ends of their lines. Empty if one of them is.
    pub fn read_files(&self, read: impl Fn(&str) -> std::io::Result<String>) -> Result<SecretText, String> {
        let content = |path: &String| match read(path) {
            Ok(mut content) => {
                content.truncate(content.trim_end().len());
                Ok(SecretText::new(content))
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let url = self.file.as_ref().map(content).transpose()?;
        let Some(apart) = &self.apart else { return Ok(url.unwrap_or_default()) };
        let url = url.unwrap_or_else(|| apart.url.clone());
        let password = apart.file.as_ref().map_or_else(|| Ok(apart.password.clone()), content)?;
        if url.is_empty() || password.is_empty() {
            return Ok(SecretText::default());
        }
        Ok(SecretText::new((apart.put_in)(url.expose(), password.expose())?))
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

//! Where a server's URL was given, and the URL as it is now: a file that holds the URL or its password may change while the
//! process runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::secret::SecretText;

/// Puts a password into one kind of URL. An error repeats nothing of either.
pub(super) type PutIn = fn(url: &str, password: &str) -> Result<String, &'static str>;

/// Where a URL was given. Clones share the URL that was read last.
#[derive(Debug, Clone, Default)]
pub struct UrlSource {
    /// The variable or setting, as the operator wrote it. Empty if the operator did not set it.
    name: String,
    /// The path of the file that holds the URL, if one does.
    file: Option<String>,
    password: Option<Arc<Password>>,
    state: Arc<Mutex<State>>,
}

/// A password that is given apart from its URL.
#[derive(Debug)]
struct Password {
    /// The URL as it was given, without the password.
    url: SecretText,
    text: SecretText,
    /// The variable or setting of the password.
    name: String,
    /// The path of the file that holds the password, if one does.
    file: Option<String>,
    put_in: PutIn,
}

#[derive(Debug, Default)]
struct State {
    /// The URL that was read last, unless none was read since the start.
    newest: Option<SecretText>,
    /// The problem with the files that was logged last.
    logged: Option<String>,
}

impl UrlSource {
    pub(crate) fn new(name: String, file: Option<String>) -> Self {
        Self { name, file, password: None, state: Arc::default() }
    }

    /// The source of a URL whose password was given apart, at `from`.
    pub(super) fn with_password(mut self, url: SecretText, text: SecretText, from: Self, put_in: PutIn) -> Self {
        self.password = Some(Arc::new(Password { url, text, name: from.name, file: from.file, put_in }));
        self
    }

    /// The name of the variable or setting, for messages; `usual` if the operator did not set it.
    pub(crate) fn name(&self, usual: &str) -> String {
        if self.name.is_empty() { usual.to_owned() } else { self.name.clone() }
    }

    /// The names of the variables that name files, for messages; empty if no file holds the URL or its password.
    pub(crate) fn files(&self) -> String {
        let of_password = self.password.as_ref().filter(|password| password.file.is_some());
        let of_password = of_password.map(|password| password.name.as_str());
        let names: Vec<&str> = self.file.as_ref().map(|_| self.name.as_str()).into_iter().chain(of_password).collect();
        names.join(" and ")
    }

    /// The URL with what the files hold now, less white space at their ends. Empty if one of them is empty.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the URL has no place for the password. The text repeats nothing of either.
    pub(crate) fn read_files(&self, read: impl Fn(&str) -> std::io::Result<String>) -> Result<SecretText, String> {
        let content = |path: &String| match read(path) {
            Ok(mut content) => {
                content.truncate(content.trim_end().len());
                Ok(SecretText::new(content))
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let url = self.file.as_ref().map(content).transpose()?;
        let Some(password) = &self.password else { return Ok(url.unwrap_or_default()) };
        let url = url.unwrap_or_else(|| password.url.clone());
        let text = password.file.as_ref().map_or_else(|| Ok(password.text.clone()), content)?;
        if url.is_empty() || text.is_empty() {
            return Ok(SecretText::default());
        }
        Ok(SecretText::new((password.put_in)(url.expose(), text.expose())?))
    }

    /// The URL that was read last; `first` if none was read since the start.
    pub(crate) fn newest_or(&self, first: &SecretText) -> SecretText {
        self.state().newest.as_ref().unwrap_or(first).clone()
    }

    /// Makes `url` the newest URL. Returns whether the newest one was another.
    pub(crate) fn replace(&self, url: &SecretText) -> bool {
        let before = std::mem::replace(&mut *self.state(), State { newest: Some(url.clone()), logged: None });
        before.newest.as_ref() != Some(url)
    }

    /// Whether `problem` is another than the one that was logged last. The caller logs it if so.
    pub(crate) fn is_news(&self, problem: &str) -> bool {
        self.state().logged.replace(problem.to_owned()).as_deref() != Some(problem)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Reads a server's URL again from its file, or its password, after the server has refused the login: whoever changes a
//! password writes the new one there, and no process needs a restart.

use crate::config::UrlSource;
use crate::error_chain;
use crate::scrub::keep_secret;
use crate::secret::SecretText;

/// What the file holds now and what was read from it, if it is something else than the refused URL and can be used.
/// Otherwise the old one is kept, and the log says once what is wrong with the new one. Nobody else waits for files, also not
/// for those that `read` opens: they may be on a disk of the network.
pub async fn read_again<T: Send + 'static>(
    from: &UrlSource,
    refused: &SecretText,
    read: impl FnOnce(&str) -> anyhow::Result<T> + Send + 'static,
) -> Option<(SecretText, T)> {
    let (from, refused) = (from.clone(), refused.clone());
    tokio::task::spawn_blocking(move || read_now(&from, &refused, read)).await.ok()?
}

fn read_now<T>(
    from: &UrlSource,
    refused: &SecretText,
    read: impl FnOnce(&str) -> anyhow::Result<T>,
) -> Option<(SecretText, T)> {
    let files = from.files();
    if files.is_empty() {
        return None;
    }
    let newest = from.newest_or(refused);
    if newest != *refused {
        // Somebody else of this process was here first.
        return read(newest.expose()).ok().map(|found| (newest, found));
    }
    let content = from.read_files(|path| std::fs::read_to_string(path));
    content.iter().for_each(keep_secret);
    let found = match content {
        Ok(text) if text == *refused => return None,
        Ok(text) if text.is_empty() => Err("is empty".to_owned()),
        Ok(text) => match read(text.expose()) {
            Ok(found) => Ok((text, found)),
            Err(problem) => Err(format!("cannot be used: {}", error_chain(problem.as_ref()))),
        },
        Err(problem) => Err(problem),
    };
    let variable = files;
    match found {
        Ok((text, found)) => {
            if from.replace(&text) {
                tracing::info!(variable, "the server refused the login; its URL was read again");
            }
            Some((text, found))
        }
        Err(problem) => {
            if from.is_news(&problem) {
                tracing::warn!(
                    variable,
                    problem,
                    "the server refused the login, and the new URL cannot be used; keeping the old one"
                );
            }
            None
        }
    }
}

//! After a server has refused a login, reads its URL or password again from the file that holds it. So an operator who changes a
//! password writes the new one into the file, and restarts no process.

use crate::config::UrlSource;
use crate::error_chain;
use crate::scrub::keep_secret;
use crate::secret::SecretText;

/// The URL that the file holds now, and what `parse` makes of it. `None` if it is the refused one, or cannot be used: then the
/// old one stays in use, and the log says once what is wrong with the new one.
///
/// Files are read on a thread of their own, also those that `parse` opens: they may be on a network disk, and no other task
/// must wait for it.
pub(crate) async fn read_again<T: Send + 'static>(
    from: &UrlSource,
    refused: &SecretText,
    parse: impl FnOnce(&str) -> anyhow::Result<T> + Send + 'static,
) -> Option<(SecretText, T)> {
    let (from, refused) = (from.clone(), refused.clone());
    tokio::task::spawn_blocking(move || read_now(&from, &refused, parse)).await.ok()?
}

fn read_now<T>(
    from: &UrlSource,
    refused: &SecretText,
    parse: impl FnOnce(&str) -> anyhow::Result<T>,
) -> Option<(SecretText, T)> {
    let files = from.files();
    if files.is_empty() {
        return None;
    }
    let newest = from.newest_or(refused);
    if newest != *refused {
        // Another task of this process has read the file meanwhile.
        return parse(newest.expose()).ok().map(|found| (newest, found));
    }
    let content = from.read_files(|path| std::fs::read_to_string(path));
    content.iter().for_each(keep_secret);
    let found = match content {
        Ok(text) if text == *refused => return None,
        Ok(text) if text.is_empty() => Err("is empty".to_owned()),
        Ok(text) => match parse(text.expose()) {
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

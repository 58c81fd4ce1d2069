//! Reads a server's address again from its file after the server has refused the login: whoever changes a password writes
//! the new one there, and no process needs a restart.

use crate::config::UrlSource;
use crate::secret::SecretText;

/// What the file holds now and what was read from it, if it is something else than the refused address and can be used.
/// Otherwise the old one is kept, and the log says once what is wrong with the new one.
pub async fn read_again<T>(
    from: &UrlSource,
    refused: &SecretText,
    read: impl FnOnce(&str) -> anyhow::Result<T>,
) -> Option<(SecretText, T)> {
    let path = from.file()?.to_owned();
    let newest = from.newest_or(refused);
    if newest != *refused {
        // Somebody else of this process was here first.
        return read(newest.expose()).ok().map(|address| (newest, address));
    }
    // A file may be on a disk of the network: nobody else waits for it.
    let content = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await.ok()?;
    let address = match content.map(UrlSource::from_content) {
        Ok(text) if text == *refused => return None,
        Ok(text) if text.is_empty() => Err("is empty".to_owned()),
        Ok(text) => match read(text.expose()) {
            Ok(address) => Ok((text, address)),
            Err(problem) => Err(format!("cannot be used: {problem:#}")),
        },
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let variable = from.name("");
    match address {
        Ok((text, address)) => {
            if from.replace(&text) {
                tracing::info!(variable, "the server refused the login; its address was read again");
            }
            Some((text, address))
        }
        Err(problem) => {
            if from.is_news(&problem) {
                tracing::warn!(
                    variable,
                    problem,
                    "the server refused the login, and its new address is no better; keeping the old one"
                );
            }
            None
        }
    }
}

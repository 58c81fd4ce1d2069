//! Reads the address at which RabbitMQ's management plugin answers. No error repeats a part of it: it may hold a password.

use percent_encoding::percent_decode_str;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::secret::SecretText;

/// The management plugin's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    /// `http` or `https`, a host, a port and a path that ends with `/`; no credentials.
    pub url: Url,
    /// `None`: the AMQP user's are used.
    pub credentials: Option<Credentials>,
}

/// A user of the management plugin, with nothing encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: SecretText,
}

/// The address that a setting gives; `None` if its text is empty.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Management>, D::Error> {
    let text = SecretText::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    read(text.expose()).map(Some).map_err(D::Error::custom)
}

fn read(text: &str) -> Result<Management, &'static str> {
    const FORM: &str = "must have the form http://host:15672 or https://user:password@host:15671, with /?#@% in a password \
                        written %2F%3F%23%40%25";
    let mut url = Url::parse(text).map_err(|_| FORM)?;
    // A parser takes `http://user:/word@host`, whose password is `/word`, for the host `user` and the path `/word@host`.
    if url.path().contains('@') {
        return Err(FORM);
    }
    if !["http", "https"].contains(&url.scheme()) || url.query().is_some() || url.fragment().is_some() {
        return Err(FORM);
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        ("", Some(_)) | (_, None) => return Err("must give a user with a password, or neither"),
        (user, Some(password)) => {
            Some(Credentials { user: decoded(user), password: SecretText::new(decoded(password)) })
        }
    };
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| FORM)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(Management { url, credentials })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_credentials_and_a_path_and_shows_no_password() {
        let plain = read("http://broker:15672").unwrap();
        assert_eq!((plain.url.as_str(), plain.credentials), ("http://broker:15672/", None));
        let own = read("https://me%40home:hun%2Fter2@broker/rabbit").unwrap();
        assert_eq!(own.url.as_str(), "https://broker/rabbit/");
        assert!(!format!("{own:?}").contains("ter2"));
        let Credentials { user, password } = own.credentials.unwrap();
        assert_eq!((user.as_str(), password.expose()), ("me@home", "hun/ter2"));
    }

    #[test]
    fn what_is_no_such_address_is_refused_without_being_repeated() {
        let texts = [
            "s3cret",
            "amqp://u:s3cret@h",
            "http://u:s3cret@h?x",
            "http://u:s3cret@h#x",
            "http://s3cret@h",
            "http://:s3cret@h",
            "http://u:s3/cret@h",
            "http://u:/s3cret@h",
        ];
        for text in texts {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("must ") && !error.contains("cret"), "{text}: {error}");
        }
    }
}

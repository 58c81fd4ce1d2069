//! Puts a password that is given apart from its server's URL into that URL, so that an operator need not encode it.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::layers::Layers;
use super::{ConfigError, Raw, UrlSource};
use crate::secret::SecretText;

/// How one kind of URL takes a password. An error repeats nothing of either.
pub(super) type PutIn = fn(url: &str, password: &str) -> Result<String, &'static str>;

/// The settings that this is about, of all.
#[derive(Deserialize)]
struct Passwords {
    database: Section,
    amqp: Section,
}

#[derive(Deserialize)]
struct Section {
    password: SecretText,
}

/// Completes both servers' URLs, and notes where they come from.
pub(super) fn complete(raw: &mut Raw, layers: &Layers) -> Result<(), ConfigError> {
    let passwords: Passwords = layers.read()?;
    raw.database.url_from = layers.url_source("database.url");
    raw.amqp.url_from = layers.url_source("amqp.url");
    let database = (&mut raw.database.url, &mut raw.database.url_from);
    put("database", database, passwords.database.password, into_database_url, layers)?;
    put("amqp", (&mut raw.amqp.url, &mut raw.amqp.url_from), passwords.amqp.password, into_amqp_url, layers)
}

fn put(
    section: &str,
    (url, url_from): (&mut SecretText, &mut UrlSource),
    password: SecretText,
    put_in: PutIn,
    layers: &Layers,
) -> Result<(), ConfigError> {
    // Commands that need the URL say that it is missing.
    if password.is_empty() || url.is_empty() {
        return Ok(());
    }
    let whole = put_in(url.expose(), password.expose());
    let whole = whole.map_err(|problem| ConfigError::new(layers.origin(&format!("{section}.url")), problem))?;
    let password_from = layers.url_source(&format!("{section}.password"));
    url_from.take_password(url.clone(), password, password_from, put_in);
    *url = SecretText::new(whole);
    Ok(())
}

/// Both forms that libpq has. What comes last counts, so that it takes the place of one in the URL.
fn into_database_url(url: &str, password: &str) -> Result<String, &'static str> {
    let is_uri = ["postgresql://", "postgres://"].iter().any(|scheme| url.trim_start().starts_with(scheme));
    if !is_uri {
        let escaped = password.replace('\\', r"\\").replace('\'', r"\'");
        return Ok(format!("{} password='{escaped}'", url.trim_end()));
    }
    let divider = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{}{divider}password={}", url.trim_end(), encoded(password)))
}

/// One address, or several: all of them get it, each in the place of its own.
fn into_amqp_url(url: &str, password: &str) -> Result<String, &'static str> {
    let mut parts = url.split("://");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (authority, rest) = part.split_at(part.find(['/', '?', '#']).unwrap_or(part.len()));
        let login = authority.rsplit_once('@').map(|(login, host)| (login.split(':').next().unwrap_or_default(), host));
        match login {
            Some((user, host)) if !user.is_empty() => {
                whole.extend(["://", user, ":", &encoded(password), "@", host, rest]);
            }
            _ => return Err("must name a user, as in amqp://user@host/%2f, since the password is given apart"),
        }
    }
    Ok(whole)
}

fn encoded(password: &str) -> String {
    utf8_percent_encode(password, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = r"ab/cd+ef=@x'\ %:#?";

    #[test]
    fn a_database_url_takes_it_in_both_forms() {
        let uri = |url| into_database_url(url, "ab/cd+ef=@x").unwrap();
        assert_eq!(uri("postgresql://u@h/d"), "postgresql://u@h/d?password=ab%2Fcd%2Bef%3D%40x");
        assert_eq!(
            uri("postgres://u@h?sslmode=require\n"),
            "postgres://u@h?sslmode=require&password=ab%2Fcd%2Bef%3D%40x"
        );
        let pairs = into_database_url("host=h user=u", PASSWORD).unwrap();
        assert_eq!(pairs, r"host=h user=u password='ab/cd+ef=@x\'\\ %:#?'");
    }

    #[test]
    fn each_address_of_an_amqp_url_takes_it_in_the_place_of_its_own() {
        let put = |url| into_amqp_url(url, "ab/c@x");
        assert_eq!(put("amqp://u@h/%2f").unwrap(), "amqp://u:ab%2Fc%40x@h/%2f");
        assert_eq!(
            put("amqp://u:old@h1,amqps://v@h2:5/x?a=b").unwrap(),
            "amqp://u:ab%2Fc%40x@h1,amqps://v:ab%2Fc%40x@h2:5/x?a=b"
        );
        for nobody in ["amqp://h/%2f", "amqp://@h", "amqp://:x@h", "amqp://u@h,amqp://h"] {
            assert!(put(nobody).unwrap_err().starts_with("must name a user"), "{nobody}");
        }
    }
}

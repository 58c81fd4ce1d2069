//! Puts a password that is given apart from its server's URL into that URL, so that an operator need not encode it. Pure.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::ConfigError;
use super::layers::Layers;
use super::source::{PutIn, UrlSource};
use crate::secret::SecretText;

/// The URL of a section with the section's password in it, and where both were given.
///
/// # Errors
///
/// The URL has no place for the password: `put_in` says why. The error repeats nothing of either.
pub(super) fn complete(
    layers: &Layers,
    section: &str,
    url: SecretText,
    put_in: PutIn,
) -> Result<(SecretText, UrlSource), ConfigError> {
    let (url_setting, password_setting) = (format!("{section}.url"), format!("{section}.password"));
    let password: SecretText = layers.setting(&password_setting)?;
    let url_from = layers.url_source(&url_setting);
    // Commands that need a URL say that it is missing.
    if password.is_empty() || url.is_empty() {
        return Ok((url, url_from));
    }
    let whole = put_in(url.expose(), password.expose()).or_else(|problem| layers.refuse(&url_setting, problem))?;
    let url_from = url_from.with_password(url, password, layers.url_source(&password_setting), put_in);
    Ok((SecretText::new(whole), url_from))
}

/// Appends the password to either form that libpq reads, a URI or `key=value` pairs. libpq uses the last of several.
pub(super) fn into_database_url(url: &str, password: &str) -> Result<String, &'static str> {
    let is_uri = ["postgresql://", "postgres://"].iter().any(|scheme| url.trim_start().starts_with(scheme));
    if !is_uri {
        let escaped = password.replace('\\', r"\\").replace('\'', r"\'");
        return Ok(format!("{} password='{escaped}'", url.trim_end()));
    }
    let divider = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{}{divider}password={}", url.trim_end(), encoded(password)))
}

/// Puts the password into each address of the URL, behind the user's name; replaces a password that stands there.
pub(super) fn into_amqp_url(url: &str, password: &str) -> Result<String, &'static str> {
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

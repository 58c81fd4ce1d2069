//! Splits the text of an address into its parts, as libpq does (PostgreSQL manual, 34.1.1), without changing them.

use anyhow::bail;
use percent_encoding::percent_decode_str;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

const FORMS: &str = "it must be postgresql://user:password@host/name or host=… user=… password=… dbname=…";

/// The parts of an address. Those of a URI are still percent-encoded, as the driver expects them.
#[derive(Default)]
pub(super) struct Text<'a> {
    pub(super) form: Form,
    /// In a URI: `user:password`.
    login: Option<&'a str>,
    /// In a URI: hosts with ports.
    pub(super) hosts: &'a str,
    /// In a URI: `/name`.
    path: &'a str,
    pub(super) parameters: Vec<Parameter<'a>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Uri,
    KeyValue,
}

/// A pair from the query of a URI, or from the `key=value` form.
pub(super) struct Parameter<'a> {
    pub(super) key: String,
    pub(super) value: String,
    /// The whole pair as it was written.
    pub(super) written: &'a str,
    /// Whether an error may show the key: it is certainly not a part of a password that was not encoded.
    pub(super) may_be_shown: bool,
}

/// Tells whether a key is one that an address may have.
type IsKey<'f> = &'f dyn Fn(&str) -> bool;

pub(super) fn split<'a>(text: &'a str, is_key: IsKey<'_>) -> anyhow::Result<Text<'a>> {
    if let Some(uri) = SCHEMES.iter().find_map(|scheme| text.trim().strip_prefix(scheme)) {
        return split_uri(uri);
    }
    if text.split(['=', ' ']).next().is_some_and(|first| first.contains("://")) {
        bail!("it must begin with postgresql:// or postgres://");
    }
    let parameters = split_pairs(text)?;
    // A text that does not begin with a known key may be a password, given in place of an address.
    match parameters.first() {
        Some(first) if is_key(&first.key) => Ok(Text { form: Form::KeyValue, parameters, ..Text::default() }),
        _ => bail!(FORMS),
    }
}

fn split_uri(uri: &str) -> anyhow::Result<Text<'_>> {
    let (authority, tail) = uri.split_at(uri.find(['/', '?', '#']).unwrap_or(uri.len()));
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    // The password would end at this character, and its rest would count as a part that errors may show.
    if tail.starts_with('#') || path.contains('@') || (!tail.starts_with('/') && tail.contains('@')) {
        bail!("a / ? # or @ in the user name, the password or the database's name must be written %2F %3F %23 or %40");
    }
    let (login, hosts) = authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
    // In postgresql://host;password=p@ss/name the rest of the password would count as the host.
    if login.is_some_and(holds_pairs) {
        bail!(
            "a = or ; in the user name must be written %3D or %3B, and ;password= in a password likewise; parameters stand \
             behind a ?, as in postgresql://host/name?user=u"
        );
    }
    // Without an @ after the password, the parts taken for a port and a query may belong to the password.
    let is_whole = login.is_some() || !authority.contains(':');
    let mut may_be_shown = !tail.contains('@') && is_whole && !may_bring_password("", hosts);
    let mut parameters = Vec::new();
    for written in query.split('&').filter(|pair| !pair.is_empty()) {
        let decode = |text| percent_decode_str(text).decode_utf8().map(String::from);
        let Some((Ok(key), Ok(value))) = written.split_once('=').map(|(key, value)| (decode(key), decode(value)))
        else {
            bail!("what follows the ? must be pairs with & between them, as in ?sslmode=require&connect_timeout=5");
        };
        may_be_shown &= !may_bring_password(&key, &value);
        parameters.push(Parameter { key, value, written, may_be_shown });
    }
    Ok(Text { form: Form::Uri, login, hosts, path, parameters })
}

/// Whether pairs were written where only `user:password` belongs.
fn holds_pairs(login: &str) -> bool {
    let user = login.split(':').next().unwrap_or_default();
    user.contains(['=', ';']) || login.contains(";password=")
}

fn split_pairs(text: &str) -> anyhow::Result<Vec<Parameter<'_>>> {
    let (mut rest, mut may_be_shown, mut parameters) = (text.trim_start(), true, Vec::new());
    while !rest.is_empty() {
        let (key, after) = rest.split_at(rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len()));
        let Some(after) = after.trim_start().strip_prefix('=').filter(|_| !key.is_empty()) else {
            bail!("{FORMS}; a value with a space stands in single quotes");
        };
        let Some((value, after)) = take_value(after.trim_start()) else {
            bail!("the closing quote of a value is missing, as in password='it has spaces'");
        };
        let written = &rest[..rest.len() - after.len()];
        // The part of a password after a space reads as the next pair.
        may_be_shown &= !may_bring_password(key, &value);
        parameters.push(Parameter { key: key.to_owned(), written, may_be_shown, value });
        rest = after.trim_start();
    }
    Ok(parameters)
}

/// Whether the keys after this pair may be parts of a password: the pair is a password, or its value contains the next pair
/// because the space or `&` between them is missing.
fn may_bring_password(key: &str, value: &str) -> bool {
    key.contains("pass") || value.contains("pass") || value.contains(['=', ';'])
}

/// Reads a value, and returns it with the rest of the text.
fn take_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\'' if quoted => return Some((value, &text[at + 1..])),
            space if !quoted && space.is_whitespace() => return Some((value, &text[at..])),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (!quoted).then_some((value, ""))
}

impl Text<'_> {
    /// The address for the driver, without hosts and with these parameters only.
    pub(super) fn without_hosts(&self, parameters: &[&str]) -> String {
        match self.form {
            Form::KeyValue => parameters.join(" "),
            Form::Uri => {
                let login = self.login.map(|login| format!("{}@", for_driver(login))).unwrap_or_default();
                let path = if self.path.is_empty() { "/" } else { self.path };
                let query = for_driver(&parameters.join("&"));
                format!("postgresql://{login}{path}?{query}")
            }
        }
    }

    /// The hosts of a URI alone, for the driver.
    pub(super) fn hosts_alone(&self) -> String {
        format!("postgresql://{}/", self.hosts)
    }

    /// One parameter alone, for the driver.
    pub(super) fn alone(&self, parameter: &Parameter<'_>) -> String {
        Text { form: self.form, ..Text::default() }.without_hosts(&[parameter.written])
    }
}

/// The driver ends the login at the first `@` of a URI, wherever it stands. So every other `@` is percent-encoded.
fn for_driver(part: &str) -> String {
    part.replace('@', "%40")
}

//! The rule that a URL breaks, as a sentence for the webhook's owner that says what to do.

use url::ParseError;

/// Why a URL is not accepted for a webhook.
///
/// The text is a sentence for the owner of the webhook. It never repeats any part of the URL, so it can be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefusal {
    /// More than 2,048 bytes, as written or after normalising.
    #[error("the URL is too long; use at most {} bytes", super::MAX_URL_BYTES)]
    TooLong,
    /// Spaces, control characters, backslashes, look-alikes of ASCII, invisible characters, or not exactly two slashes.
    #[error(
        "the URL must begin with https:// and contain no spaces, backslashes, invisible or look-alike characters; \
         write it in plain letters and digits and percent-encode everything else"
    )]
    Raw,
    /// Letters or symbols outside ASCII.
    #[error(
        "the URL must be written in ASCII; write the host name in its xn-- form and percent-encode the path and query"
    )]
    Ascii,
    /// The WHATWG rules cannot read it.
    #[error("the URL cannot be read; write it like https://hooks.your-company.com/path")]
    Parse(#[from] ParseError),
    /// Neither `http` nor `https`.
    #[error("the URL must begin with https:// (or http://); other kinds of URL cannot receive webhooks")]
    Scheme,
    /// Anything but `https` where the operator requires it.
    #[error("the URL must begin with https://; this service does not deliver over unencrypted http")]
    HttpsRequired,
    /// A user name or password, even an empty one.
    #[error(
        "the URL must not contain a user name or password; \
         put a token into the path or query, or verify the signature instead"
    )]
    UserInfo,
    /// A fragment, even an empty one.
    #[error("the URL must not contain a # part, because it would never be sent; remove it")]
    Fragment,
    /// A host that is neither a public DNS name nor an address in its usual form.
    #[error(
        "the host must be a full DNS name such as hooks.your-company.com, or a public IP address in its usual form"
    )]
    Host,
    /// A name that has no meaning in the public DNS.
    #[error(
        "the host has a name that only works inside a private network; use one that is reachable from the internet"
    )]
    PrivateName,
    /// An address that the policy refuses.
    #[error("the host is an address that cannot be called from here; use a public one")]
    Blocked,
    /// A port that belongs to other software than web servers.
    #[error(
        "the port cannot be used for webhooks; use the default port, or one between 1024 and 65535 \
         that is not known for a database or for administration"
    )]
    Port,
}

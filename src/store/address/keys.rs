//! The parameters that libpq knows (PostgreSQL manual, 34.1.2, up to version 18), and how each is handled here.

#[derive(Clone, Copy)]
pub(super) enum Key {
    /// The driver reads it as libpq does.
    Drivers { example: &'static str },
    /// We read it: the driver does not know it, or understands it differently.
    Ours,
    /// It is refused; `instead` says what to write.
    Unsupported { instead: &'static str },
}

/// A parameter by its name.
pub(super) fn find(key: &str) -> Option<(&'static str, Key)> {
    KEYS.iter().find(|(known, _)| *known == key).copied()
}

/// The known parameter that is closest to a misspelt one, within two letters.
pub(super) fn similar(key: &str) -> Option<&'static str> {
    let lower = key.to_lowercase();
    let known = KEYS.iter().map(|(known, _)| *known).filter(|known| known.len() > 4);
    let edits = known.map(|known| (strsim::levenshtein(known, &lower), known));
    edits.filter(|(edits, _)| *edits <= 2).min().map(|(_, known)| known)
}

const fn drivers(example: &'static str) -> Key {
    Key::Drivers { example }
}

const fn not(instead: &'static str) -> Key {
    Key::Unsupported { instead }
}

const NO_CLIENT_CERTIFICATES: Key = not("there are no client certificates, give a password");
const NO_REVOCATION_LISTS: Key = not("revocation lists are not read, leave it out");
const NO_GSSAPI: Key = not("GSSAPI is never used, leave it out and give a password");
const NO_FILES: Key = not("give all of it in DATABASE_URL, or in the file that DATABASE_URL_FILE names");
const NO_OAUTH: Key = not("give a password");
const LEAVE_OUT: Key = not("leave it out");

const KEYS: [(&str, Key); 53] = [
    ("user", drivers("user=penr")),
    ("password", drivers("password=…")),
    ("dbname", drivers("dbname=penr")),
    ("options", drivers("options=-csearch_path%3Dpenr in a URI, options='-c search_path=penr' otherwise")),
    ("application_name", drivers("application_name=penr-webhooks")),
    ("connect_timeout", drivers("connect_timeout=5")),
    ("keepalives", drivers("keepalives=1")),
    ("keepalives_idle", drivers("keepalives_idle=10")),
    ("keepalives_interval", drivers("keepalives_interval=5")),
    ("keepalives_retries", drivers("keepalives_retries=3")),
    ("channel_binding", drivers("channel_binding=require")),
    ("load_balance_hosts", drivers("load_balance_hosts=random")),
    ("sslnegotiation", drivers("sslnegotiation=postgres")),
    ("host", Key::Ours),
    ("hostaddr", Key::Ours),
    ("port", Key::Ours),
    ("fallback_application_name", Key::Ours),
    ("keepalives_count", Key::Ours),
    ("tcp_user_timeout", Key::Ours),
    ("target_session_attrs", Key::Ours),
    ("sslmode", Key::Ours),
    ("sslrootcert", Key::Ours),
    ("sslcert", NO_CLIENT_CERTIFICATES),
    ("sslkey", NO_CLIENT_CERTIFICATES),
    ("sslpassword", NO_CLIENT_CERTIFICATES),
    ("sslcertmode", NO_CLIENT_CERTIFICATES),
    ("sslcrl", NO_REVOCATION_LISTS),
    ("sslcrldir", NO_REVOCATION_LISTS),
    ("ssl", not("write sslmode=require")),
    ("requiressl", not("write sslmode=require")),
    ("sslsni", LEAVE_OUT),
    ("sslcompression", LEAVE_OUT),
    ("sslkeylogfile", LEAVE_OUT),
    ("ssl_min_protocol_version", not("it is TLS 1.2 or newer, leave it out")),
    ("ssl_max_protocol_version", not("it is TLS 1.2 or newer, leave it out")),
    ("min_protocol_version", LEAVE_OUT),
    ("max_protocol_version", LEAVE_OUT),
    ("client_encoding", not("it is always UTF8, leave it out")),
    ("replication", LEAVE_OUT),
    ("requirepeer", not("leave it out, and protect the socket's folder")),
    ("require_auth", not("leave it out; channel_binding=require refuses weak logins")),
    ("gssencmode", NO_GSSAPI),
    ("krbsrvname", NO_GSSAPI),
    ("gsslib", NO_GSSAPI),
    ("gssdelegation", NO_GSSAPI),
    ("service", NO_FILES),
    ("servicefile", NO_FILES),
    ("passfile", NO_FILES),
    ("scram_client_key", not("give a password")),
    ("scram_server_key", not("give a password")),
    ("oauth_issuer", NO_OAUTH),
    ("oauth_client_id", NO_OAUTH),
    ("oauth_client_secret", NO_OAUTH),
];

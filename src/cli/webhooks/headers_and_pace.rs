//! Reads the headers and the pace of a webhook from flags. No flag takes a header's value, and no error repeats one.

use std::fs::File;
use std::io::{Read, stdin};

use zeroize::Zeroizing;

use crate::api::GivenHeaders;
use crate::cli::Failure;
use crate::secret::SecretText;
use crate::webhook::{CustomHeaders, MaxPerSecond, WantedHeaders, WebhookRefusal};

/// The most bytes that are read. What a webhook may have is far shorter, however it is written.
const MOST_BYTES: usize = 65_536;

/// The headers of a new webhook, from the argument of `--headers`.
pub(super) fn new_headers(argument: Option<&str>) -> Result<CustomHeaders, Failure> {
    let Some(argument) = argument else { return Ok(CustomHeaders::default()) };
    read(argument)?.check_all().map_err(refused)
}

/// The headers of a changed webhook.
pub(super) fn changed_headers(argument: &str) -> Result<WantedHeaders, Failure> {
    read(argument)?.check().map_err(refused)
}

/// No headers, for a webhook that may have some.
pub(super) fn no_headers() -> Result<WantedHeaders, Failure> {
    WantedHeaders::parse(Vec::new()).map_err(refused)
}

/// Why the headers cannot be saved so.
pub(super) fn refused(refusal: impl Into<WebhookRefusal>) -> Failure {
    Failure::Usage(format!("--headers: {}", refusal.into()))
}

// No error repeats the argument: somebody may have written a value there.
fn read(argument: &str) -> Result<GivenHeaders, Failure> {
    let text = match argument {
        "-" => text(stdin().lock()),
        path => File::open(path).map_err(|error| unreadable(&error.to_string())).and_then(text),
    }?;
    // What is wrong with the JSON is said by its place in the text, never by what stands there.
    serde_json::from_str(text.expose()).map_err(|error| unreadable(&error.to_string()))
}

fn text(source: impl Read) -> Result<SecretText, Failure> {
    // It never grows: that would leave values in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES + 1));
    let most = u64::try_from(MOST_BYTES + 1).expect("it is small");
    source.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(&error.to_string()))?;
    if bytes.len() > MOST_BYTES {
        return Err(unreadable(&format!("it has more than {MOST_BYTES} bytes")));
    }
    std::str::from_utf8(&bytes).map(SecretText::from).map_err(|_| unreadable("it is not UTF-8"))
}

fn unreadable(cause: &str) -> Failure {
    Failure::Usage(format!("the file that --headers names cannot be read: {cause}"))
}

/// Parses a pace, for clap.
pub(super) fn pace(text: &str) -> Result<MaxPerSecond, String> {
    let number = text.parse().map_err(|_| WebhookRefusal::MaxPerSecond);
    number.and_then(MaxPerSecond::new).map_err(|refusal| refusal.to_string())
}

/// A pace to be set, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewPace(pub(super) Option<MaxPerSecond>);

/// Parses a new pace, for clap.
pub(super) fn new_pace(text: &str) -> Result<NewPace, String> {
    if text == "none" {
        return Ok(NewPace(None));
    }
    pace(text).map(|pace| NewPace(Some(pace))).map_err(|refusal| format!("{refusal}, or none"))
}

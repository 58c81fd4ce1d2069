//! A receiver for development: verifies both signatures and prints a line per request. Ends when stdout is closed.

use std::fmt::Display;
use std::future::IntoFuture as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::signals::{SignalReceiver, Signals};
use super::{CommandResult, Failure, output};
use crate::secret::{SecretText, SigningSecret};
use crate::signature;
use crate::text::printable;

/// How long a stop waits for requests that are being answered.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Larger than any event.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks listen --port 9000 --secret whsec_…
  penr-webhooks listen --port 9000 --secret whsec_… --address 0.0.0.0 --status 503,200 --delay 2s";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to listen, such as 9000; 0 takes a free port
    #[arg(long)]
    port: u16,
    /// The address to listen on; 0.0.0.0 in a container, so that others reach it
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The webhook's secret, as `webhooks create` and `webhooks secret` print it: whsec_…
    #[arg(long, env = "PENR_WEBHOOKS_LISTEN_SECRET", hide_env_values = true)]
    secret: SecretText,
    /// What to answer, such as 503,200; the last of several is repeated
    #[arg(long, value_delimiter = ',', default_value = "200", value_parser = status)]
    status: Vec<StatusCode>,
    /// How long to wait before answering, such as 2s
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    delay: Duration,
}

struct Receiver {
    secret: SigningSecret,
    statuses: Vec<StatusCode>,
    delay: Duration,
    answered: AtomicUsize,
    json: bool,
    /// Cancelled by a signal, or when the reader of stdout has closed it.
    stop: CancellationToken,
}

pub(super) async fn run(arguments: Arguments, json: bool, signals: &Signals) -> CommandResult {
    let secret = SigningSecret::parse(arguments.secret.expose()).map_err(|error| Failure::Usage(error.to_string()))?;
    let address = SocketAddr::new(arguments.address, arguments.port);
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("{address} cannot be used: {error}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, signal) = (CancellationToken::new(), signals.receiver()?);
    let (statuses, delay) = (arguments.status, arguments.delay);
    let receiver = Receiver { secret, statuses, delay, answered: AtomicUsize::new(0), json, stop: stop.clone() };
    receiver.say(if json { json!({ "listening": url }).to_string() } else { format!("listening on {url}") });
    let router = Router::new()
        .fallback(receive)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(receiver));
    let serving = axum::serve(listener, router).with_graceful_shutdown(stopped(stop.clone(), signal)).into_future();
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        served = serving => served?,
        () = too_late => {}
    }
    Ok(())
}

/// Waits for a signal or for `stop`. Then a further signal ends the process at once, for `signal` is dropped.
async fn stopped(stop: CancellationToken, mut signal: SignalReceiver) {
    tokio::select! {
        _ = signal.next() => stop.cancel(),
        () = stop.cancelled() => {}
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    tokio::time::sleep(receiver.delay).await;
    let turn = receiver.answered.fetch_add(1, Ordering::Relaxed);
    let status = receiver.statuses[turn.min(receiver.statuses.len() - 1)];
    receiver.print(&headers, &body, status);
    status
}

impl Receiver {
    fn print(&self, headers: &HeaderMap, body: &[u8], status: StatusCode) {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let given = |name| header(name).map(|text| printable(text, 128));
        let (event_type, id, attempt) = (given("x-webhook-event"), given("webhook-id"), given("x-webhook-attempt"));
        let ours = check(header("x-webhook-signature"), |text| signature::verify_body(&self.secret, body, text));
        let timestamp = header("webhook-timestamp").and_then(|text| text.parse().ok());
        let standard = check(header("webhook-signature"), |text| {
            let id = header("webhook-id").unwrap_or_default();
            timestamp.is_some_and(|time| signature::verify_standard(&self.secret, id, time, body, text))
        });
        let (status, bytes) = (status.as_u16(), body.len());
        if self.json {
            let line = json!({
                "event_type": event_type, "event_id": id, "attempt": attempt.and_then(|text| text.parse::<u32>().ok()),
                "x_webhook_signature": ours, "webhook_signature": standard, "status": status, "body_bytes": bytes,
            });
            self.say(line);
        } else {
            let [event_type, id, attempt] =
                [event_type, id, attempt].map(|text| text.unwrap_or_else(|| "-".to_owned()));
            self.say(format_args!(
                "{event_type:18} {id}  attempt {attempt}  X-Webhook-Signature {ours}, Webhook-Signature {standard}  \
                 {bytes} bytes  answered {status}"
            ));
        }
    }

    fn say(&self, line: impl Display) {
        if output::try_line(line).is_err() {
            self.stop.cancel();
        }
    }
}

fn check(signature: Option<&str>, verify: impl Fn(&str) -> bool) -> &'static str {
    match signature {
        None => "missing",
        Some(signature) if verify(signature) => "valid",
        Some(_) => "invalid",
    }
}

/// Parses a status to answer with, for clap.
fn status(text: &str) -> Result<StatusCode, String> {
    let code = text.parse::<u16>().ok().filter(|code| (200..=999).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    code.ok_or_else(|| "a status is a number from 200 to 999".to_owned())
}

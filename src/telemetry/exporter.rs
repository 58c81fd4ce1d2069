//! Sends ended spans to the collector, in batches, by OTLP over HTTP.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use reqwest::{Client, redirect, retry};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error_chain;
use crate::ids::ProcessId;
use crate::metrics::Metrics;
use crate::tls::{self, Trust};

/// Spans of one request.
const BATCH: usize = 512;
/// The longest wait of a span for others that are sent with it.
const GATHER: Duration = Duration::from_secs(1);
/// For one request.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Exporter {
    otlp: OtlpExporter,
    client: Arc<CollectorClient>,
    spans: mpsc::Receiver<SpanData>,
    metrics: Metrics,
    /// Send what is there, and end.
    flush: CancellationToken,
    /// The collector's URL without its path, in which a token may stand.
    endpoint: String,
    /// The log has said that the collector takes nothing.
    told: bool,
}

impl Exporter {
    pub(super) fn new(
        endpoint: &Url,
        process: ProcessId,
        spans: mpsc::Receiver<SpanData>,
        metrics: Metrics,
        flush: CancellationToken,
    ) -> anyhow::Result<Self> {
        let client = Arc::new(CollectorClient { client: client(endpoint)?, failure: Mutex::default() });
        let mut otlp = OtlpExporter::builder()
            .with_http()
            .with_shared_http_client(client.clone())
            .with_endpoint(endpoint.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            // A collector that is busy or away gets the next batch, and this one is dropped.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        otlp.set_resource(&resource(process));
        Ok(Self { otlp, client, spans, metrics, flush, endpoint: endpoint.origin().ascii_serialization(), told: false })
    }

    /// Runs until told to flush, and then until all is sent.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            let count = batch.len();
            match timeout(TIMEOUT, self.otlp.export(batch)).await {
                Ok(Ok(())) => self.succeeded(),
                Ok(Err(error)) => {
                    self.failed(count, &self.client.take_failure().unwrap_or_else(|| error_chain(&error)))
                }
                Err(_) => self.failed(count, "no answer in time"),
            }
        }
    }

    /// What is sent next: all that there is, as soon as it makes a whole batch or has waited for others. `None` at the end.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let (mut batch, mut until) = (Vec::new(), None);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                () = self.flush.cancelled(), if !self.spans.is_closed() => self.spans.close(),
                count = self.spans.recv_many(&mut batch, room) => match count {
                    0 => break,
                    _ => until = until.or(Some(Instant::now() + GATHER)),
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.told) {
            tracing::info!("spans are sent again");
        }
    }

    fn failed(&mut self, dropped: usize, error: &str) {
        self.metrics.spans_dropped.inc_by(dropped as u64);
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(dropped, error, "cannot send spans");
        } else {
            tracing::warn!(dropped, endpoint = self.endpoint, error, "cannot send spans, dropping them until it can");
        }
    }
}

/// What all spans of this process have in common. `OTEL_RESOURCE_ATTRIBUTES` may add to it.
fn resource(process: ProcessId) -> Resource {
    let own = [("service.version", env!("CARGO_PKG_VERSION").to_owned()), ("service.instance.id", process.to_string())];
    let own = own.map(|(name, value)| KeyValue::new(name, value));
    Resource::builder().with_attributes(own).with_service_name(env!("CARGO_PKG_NAME")).build()
}

fn client(endpoint: &Url) -> anyhow::Result<Client> {
    // Without TLS there are no certificates to check, and no need for the system's authorities.
    let trust = if endpoint.scheme() == "https" { Trust::System } else { Trust::Anyone };
    let builder = Client::builder()
        .tls_backend_preconfigured(tls::client(&trust)?)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT);
    Ok(builder.build()?)
}

/// Remembers why a request failed: the exporter's own error does not say it.
#[derive(Debug)]
struct CollectorClient {
    client: Client,
    failure: Mutex<Option<String>>,
}

impl CollectorClient {
    fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for CollectorClient {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            // Such an error names the URL.
            let without_url = |error: HttpError| match error.downcast::<reqwest::Error>() {
                Ok(error) => Box::new((*error).without_url()),
                Err(other) => other,
            };
            let answer = self.client.send_bytes(request).await.map_err(without_url);
            if let Err(error) = &answer {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error_chain(error.as_ref()));
            }
            answer
        })
    }
}

//! A collector of traces: it takes spans by OTLP over HTTP, as protobuf.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::reply::Gate;
use super::wait::eventually;

/// A span as the collector got it. Ids are hexadecimal.
#[derive(Debug, Clone)]
pub struct SentSpan {
    pub name: String,
    pub kind: i32,
    pub trace_id: String,
    pub span_id: String,
    /// Empty if it has none.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
    /// The spans that it has links to.
    pub links: Vec<String>,
    pub failed: bool,
    /// Of the process that sent it.
    pub resource: BTreeMap<String, String>,
    pub start: u64,
    pub end: u64,
}

impl SentSpan {
    /// An attribute that must be there.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Export {
    pub first_line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

pub struct Collector {
    address: SocketAddr,
    exports: Arc<Mutex<Vec<Export>>>,
    /// Answers wait while it is closed.
    pub gate: Gate,
    serving: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    pub fn on(listener: TcpListener) -> Self {
        let (address, exports, gate) =
            (listener.local_addr().expect("it is bound"), Arc::<Mutex<Vec<Export>>>::default(), Gate::default());
        gate.open();
        let serving = tokio::spawn(serve(listener, exports.clone(), gate.clone()));
        Self { address, exports, gate, serving }
    }

    /// For the setting `otel.endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn exports(&self) -> Vec<Export> {
        self.exports.lock().unwrap().clone()
    }

    /// All spans that have come, in their order.
    pub fn spans(&self) -> Vec<SentSpan> {
        self.exports().iter().flat_map(|export| spans_of(&export.body)).collect()
    }

    /// Waits until this many spans with the name have come, and returns them.
    pub async fn wait_for(&self, name: &str, count: usize) -> Vec<SentSpan> {
        eventually(&format!("{count} spans {name}"), async || {
            let mut spans = self.spans();
            spans.retain(|span| span.name.split(' ').next() == Some(name));
            (spans.len() >= count).then_some(spans)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, exports: Arc<Mutex<Vec<Export>>>, gate: Gate) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (exports, gate) = (exports.clone(), gate.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (exports, gate) = (exports.clone(), gate.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let first_line = format!("{} {}", head.method, head.uri);
                gate.pass().await;
                exports.lock().unwrap().push(Export { first_line, headers, body });
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
            }
        });
        connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn spans_of(body: &[u8]) -> Vec<SentSpan> {
    let request = ExportTraceServiceRequest::decode(body).expect("protobuf of OTLP");
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            spans.push(sent_span(&span, resource.clone()));
        }
    }
    spans
}

fn sent_span(span: &otlp::Span, resource: BTreeMap<String, String>) -> SentSpan {
    SentSpan {
        name: span.name.clone(),
        kind: span.kind,
        trace_id: hex::encode(&span.trace_id),
        span_id: hex::encode(&span.span_id),
        parent: hex::encode(&span.parent_span_id),
        attributes: attributes(&span.attributes),
        links: span.links.iter().map(|link| hex::encode(&link.span_id)).collect(),
        failed: span.status.as_ref().is_some_and(|status| status.code == otlp::status::StatusCode::Error as i32),
        resource,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    };
    list.iter().map(|attribute| (attribute.key.clone(), text(attribute).unwrap_or_default())).collect()
}

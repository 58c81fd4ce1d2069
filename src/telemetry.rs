//! Makes spans, and sends them to a collector. No other module knows OpenTelemetry.
//!
//! Nobody waits for the collector: a span that has ended goes into a bounded queue, and one task sends what is there in batches.
//! While the queue is full a span is dropped, and so is a batch that the collector does not take; `spans_dropped` counts both.
//! Whether a trace is sampled was decided by the service that began it. Where nothing is to be sent, no span is made.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Link, SpanContext, SpanId as OtelSpanId, Status, TraceFlags, TraceId as OtelTraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Otel;
use crate::ids::ProcessId;
use crate::metrics::Metrics;
use crate::trace_context::{SpanId, TraceContext, TraceId};
use exporter::Exporter;

mod exporter;

pub(crate) use opentelemetry::trace::SpanKind;

/// Spans that wait to be sent.
const QUEUE: usize = 2048;
/// The longest time that a stop waits for the collector.
const LAST: Duration = Duration::from_secs(5);
/// Links of one span, as OpenTelemetry limits them.
const MOST_LINKS: usize = 128;

/// Makes spans. All clones send to one queue.
#[derive(Clone)]
pub(crate) struct Tracer(Option<Arc<Outlet>>);

/// Where spans go when they end.
struct Outlet {
    ended: mpsc::Sender<SpanData>,
    metrics: Metrics,
    sample_ratio: f64,
    scope: InstrumentationScope,
}

/// The task that sends spans, owned by whoever starts it.
pub(crate) struct Telemetry {
    pub(crate) tracer: Tracer,
    sending: Option<AbortOnDropHandle<()>>,
    flush: CancellationToken,
}

/// A span that is under way. It ends when it is dropped.
pub(crate) struct Span {
    context: TraceContext,
    /// `None` once it is sent.
    data: Option<SpanData>,
    /// When it ends, if that is not when it is dropped.
    end: Option<SystemTime>,
    outlet: Arc<Outlet>,
}

/// The beginning of a span.
struct Beginning {
    context: TraceContext,
    parent: Option<SpanId>,
    /// Whether another process made the parent.
    is_remote: bool,
    kind: SpanKind,
    at: SystemTime,
}

impl Telemetry {
    /// Starts the task, if the settings name a collector.
    ///
    /// # Errors
    ///
    /// The client for the collector cannot be set up.
    pub(crate) fn start(settings: &Otel, process: ProcessId, metrics: &Metrics) -> anyhow::Result<Self> {
        let flush = CancellationToken::new();
        let Some(endpoint) = &settings.endpoint else {
            return Ok(Self { tracer: Tracer(None), sending: None, flush });
        };
        let (ended, spans) = mpsc::channel(QUEUE);
        let exporter = Exporter::new(endpoint, process, spans, metrics.clone(), flush.clone())?;
        let version = env!("CARGO_PKG_VERSION");
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(version).build();
        let outlet = Outlet { ended, metrics: metrics.clone(), sample_ratio: settings.sample_ratio, scope };
        let sending = AbortOnDropHandle::new(tokio::spawn(exporter.run()));
        Ok(Self { tracer: Tracer(Some(Arc::new(outlet))), sending: Some(sending), flush })
    }

    /// Sends the spans that have ended, and no others any more. Returns when that is done, after 5 s, or at the deadline.
    pub(crate) async fn flush(self, deadline: tokio::time::Instant) {
        self.flush.cancel();
        let deadline = deadline.min(tokio::time::Instant::now() + LAST);
        if let Some(sending) = self.sending
            && tokio::time::timeout_at(deadline, sending).await.is_err()
        {
            tracing::warn!("not every span could be sent before the end");
        }
    }
}

impl Tracer {
    /// A span for a message that came from another service with this trace, or without one: for some of those a trace is begun.
    /// `None` if nothing is sent of its trace.
    pub(crate) fn receive(&self, parent: Option<TraceContext>, kind: SpanKind) -> Option<Box<Span>> {
        let outlet = self.0.as_ref()?;
        let span_id = SpanId::of(rand::random());
        let context = match parent {
            Some(parent) => parent.child(span_id),
            None if rand::random::<f64>() < outlet.sample_ratio => {
                TraceContext::first(TraceId::of(rand::random()), span_id)
            }
            None => return None,
        };
        let parent = parent.map(|parent| parent.span_id);
        outlet.begin(Beginning { context, parent, is_remote: true, kind, at: SystemTime::now() })
    }

    /// A span that is over: it took `took` from `started` on. `None` if nothing is sent of its trace.
    pub(crate) fn past(
        &self,
        context: Option<TraceContext>,
        parent: Option<TraceContext>,
        kind: SpanKind,
        (started, took): (Instant, Duration),
    ) -> Option<Box<Span>> {
        let (outlet, context) = (self.0.as_ref()?, context?);
        let at = SystemTime::now() - started.elapsed();
        let parent = parent.map(|parent| parent.span_id);
        let mut span = outlet.begin(Beginning { context, parent, is_remote: false, kind, at })?;
        span.end = Some(at + took);
        Some(span)
    }

    /// A span for work on many others at once, to which it has links. It has a trace of its own. `None` if nothing is sent of
    /// the traces of those.
    pub(crate) fn batch(&self, others: impl Iterator<Item = TraceContext>, kind: SpanKind) -> Option<Box<Span>> {
        let outlet = self.0.as_ref()?;
        let mut links = SpanLinks::default();
        for other in others.filter(|other| other.is_sampled()) {
            match links.links.len() < MOST_LINKS {
                true => links.links.push(Link::with_context(span_context(other, false))),
                false => links.dropped_count += 1,
            }
        }
        if links.links.is_empty() {
            return None;
        }
        let context = TraceContext::first(TraceId::of(rand::random()), SpanId::of(rand::random()));
        let at = SystemTime::now();
        let mut span = outlet.begin(Beginning { context, parent: None, is_remote: false, kind, at })?;
        span.data.as_mut()?.links = links;
        Some(span)
    }
}

impl Outlet {
    fn begin(self: &Arc<Self>, Beginning { context, parent, is_remote, kind, at }: Beginning) -> Option<Box<Span>> {
        let data = context.is_sampled().then(|| SpanData {
            span_context: span_context(context, false),
            parent_span_id: parent.map_or(OtelSpanId::INVALID, |parent| OtelSpanId::from_bytes(parent.to_bytes())),
            parent_span_is_remote: is_remote && parent.is_some(),
            span_kind: kind,
            name: "".into(),
            start_time: at,
            end_time: at,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        })?;
        Some(Box::new(Span { context, data: Some(data), end: None, outlet: self.clone() }))
    }
}

impl Span {
    /// How its children name it.
    pub(crate) fn context(&self) -> TraceContext {
        self.context
    }

    pub(crate) fn name(&mut self, name: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(data) = &mut self.data {
            data.name = name.into();
        }
    }

    pub(crate) fn set(&mut self, attribute: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(attribute, value));
        }
    }

    /// Marks it as failed. `error` is one of few names.
    pub(crate) fn failed(&mut self, error: impl Into<Value>) {
        self.set("error.type", error);
        if let Some(data) = &mut self.data {
            data.status = Status::error("");
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut data) = self.data.take() else { return };
        data.end_time = self.end.unwrap_or_else(SystemTime::now);
        if self.outlet.ended.try_send(data).is_err() {
            self.outlet.metrics.spans_dropped.inc();
        }
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Span({})", self.context)
    }
}

fn span_context(context: TraceContext, is_remote: bool) -> SpanContext {
    let (trace, span) = (context.trace_id.to_bytes(), context.span_id.to_bytes());
    let flags = TraceFlags::new(context.flags());
    SpanContext::new(OtelTraceId::from_bytes(trace), OtelSpanId::from_bytes(span), flags, is_remote, TraceState::NONE)
}

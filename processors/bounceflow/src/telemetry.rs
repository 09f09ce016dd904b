//! Logs on standard error, and spans to an OpenTelemetry collector where the configuration names one (OTLP over HTTP, protobuf).
//!
//! Spans are of transactions, batches, evaluations and sends, never of records; those are made with [`SPANS`] as their target, which no
//! log shows. A thread of the SDK sends them. Its queue is bounded: a collector that is slow or gone costs spans, which are counted
//! (`bounceflow_telemetry_spans_total`), and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Config, Telemetry, host_name};
use crate::metrics;

/// The target of spans that are traced.
pub const SPANS: &str = "bounceflow::spans";
/// Spans that wait to be sent, at most; more are dropped.
const QUEUE: usize = 2048;
/// Spans are sent this often.
const EVERY: Duration = Duration::from_secs(1);
/// What is left at the end may take this long.
const FAREWELL: Duration = Duration::from_secs(3);

/// Sends what is left when dropped.
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown_with_timeout(FAREWELL)) {
            tracing::warn!(%error, "The last spans were not sent");
        }
    }
}

/// Structured logs on standard error (`RUST_LOG` narrows or widens them), and spans as the configuration says.
pub fn start(config: &Config) -> anyhow::Result<Guard> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let logs = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_filter(filter);
    start_with(config, Some(logs))
}

/// Spans alone, for commands that print.
pub fn start_without_logs(config: &Config) -> anyhow::Result<Guard> {
    start_with(config, None::<tracing_subscriber::layer::Identity>)
}

fn start_with(config: &Config, logs: Option<impl Layer<Registry> + Send + Sync>) -> anyhow::Result<Guard> {
    let provider = config.telemetry.as_ref().map(|telemetry| provider(config, telemetry)).transpose()?;
    tracing_subscriber::registry().with(logs).with(provider.as_ref().map(layer)).init();
    Ok(Guard(provider))
}

/// Says on a span that what it stands for failed, and why.
pub fn told<T, E: std::fmt::Display>(span: &tracing::Span, result: Result<T, E>) -> Result<T, E> {
    if let Err(e) = &result {
        fail(span, e);
    }
    result
}

/// What a span stands for failed.
pub fn fail(span: &tracing::Span, why: &dyn std::fmt::Display) {
    span.set_status(Status::error(why.to_string()));
}

/// Hands spans, and nothing else, to a provider.
pub fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("bounceflow"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(Targets::new().with_target(SPANS, tracing::Level::TRACE))
}

/// Samples, queues and sends spans.
pub fn provider(config: &Config, telemetry: &Telemetry) -> anyhow::Result<SdkTracerProvider> {
    let way = Arc::new(Way::new(telemetry.endpoint.clone()));
    let agent = ureq::Agent::config_builder().timeout_global(Some(telemetry.export_timeout)).http_status_as_error(false);
    let client = Client { agent: agent.build().into(), way: Arc::clone(&way) };
    let otlp = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&telemetry.endpoint)
        .with_timeout(telemetry.export_timeout)
        .with_http_client(client)
        .build()?;
    let queue = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(EVERY).build();
    let batches = BatchSpanProcessor::builder(Exporter { otlp, way: Arc::clone(&way) }).with_batch_config(queue).build();
    let resource = Resource::builder().with_service_name("bounceflow").with_attributes([
        KeyValue::new("service.namespace", config.deployment.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{}/{}", host_name(), std::process::id())),
    ]);
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(telemetry.sample_ratio))))
        .with_resource(resource.build())
        .with_span_processor(Bounded { batches, way })
        .build())
}

/// How spans fare on their way.
#[derive(Debug)]
struct Way {
    endpoint: String,
    /// Spans that wait or are being sent.
    waiting: AtomicUsize,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Why the last request failed.
    why: Option<String>,
    /// Whether the log says that spans are lost.
    said: bool,
}

impl Way {
    fn new(endpoint: String) -> Self {
        Self { endpoint, waiting: AtomicUsize::new(0), trouble: Mutex::default() }
    }

    /// Room for a span in the queue is taken; false: there is none.
    fn enter(&self) -> bool {
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < QUEUE).then_some(n + 1)).is_ok();
        if !entered {
            metrics::spans("dropped", 1);
        }
        entered
    }

    /// These left it.
    fn leave(&self, spans: usize, sent: bool) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        metrics::spans(if sent { "sent" } else { "failed" }, spans as u64);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (endpoint, why) = (&self.endpoint, trouble.why.take());
        match (sent, trouble.said) {
            (false, false) => tracing::warn!(endpoint, why, "The collector does not take spans; they are lost until it does"),
            (true, true) => tracing::info!(endpoint, "The collector takes spans again"),
            _ => {}
        }
        trouble.said = !sent;
    }
}

/// In front of the SDK's queue, which drops in silence.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    way: Arc<Way>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.way.enter() {
            self.batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Behind the SDK's queue.
#[derive(Debug)]
struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    way: Arc<Way>,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.otlp.export(batch).await;
        self.way.leave(spans, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// The HTTP client the program has already. It blocks: only the SDK's own thread calls it.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    way: Arc<Way>,
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = self.agent.run(request.map(|body| body.to_vec()))?.into_parts();
        let mut body = body;
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        let why = match &answer {
            Err(e) => Some(e.to_string()),
            Ok(answer) if !answer.status().is_success() => Some(format!("it answered {}", answer.status())),
            Ok(_) => None,
        };
        self.way.trouble.lock().unwrap_or_else(PoisonError::into_inner).why = why;
        Ok(answer?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::metrics::tests::{recorded, value};

    /// Makes spans towards an address that takes connections and never answers, and what the metrics say of it.
    fn sent_into_silence(listener: &TcpListener, ratio: f64, spans: usize) -> String {
        let address = listener.local_addr().unwrap();
        let text = format!(
            "[kafka]\n\"bootstrap.servers\" = \"x\"\n[telemetry]\notlp_endpoint = \"http://{address}\"\nsample_ratio = {ratio:?}\n\
             export_timeout_ms = 600000\n"
        );
        let config = Config::parse(&text).unwrap();
        recorded(|| {
            let provider = provider(&config, config.telemetry.as_ref().unwrap()).unwrap();
            let subscriber = tracing_subscriber::registry().with(layer(&provider));
            tracing::subscriber::with_default(subscriber, || {
                for _ in 0..spans {
                    drop(tracing::trace_span!(target: SPANS, "ours"));
                    // Other libraries make spans too, also the client that sends these.
                    drop(tracing::error_span!("theirs"));
                }
            });
            // Not waited for: nobody will ever answer.
            drop(provider.shutdown_with_timeout(Duration::from_millis(100)));
        })
    }

    #[test]
    fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = sent_into_silence(&listener, 1.0, QUEUE + 500);
        let dropped = value(&text, "bounceflow_telemetry_spans_total{result=\"dropped\"}");
        assert_eq!(dropped, Some(500.0), "what the queue holds waits, the rest is dropped: {text}");
        listener.accept().unwrap();
    }

    #[test]
    fn what_is_not_sampled_is_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let text = sent_into_silence(&listener, 0.0, QUEUE + 500);
        assert_eq!(value(&text, "bounceflow_telemetry_spans_total{result=\"dropped\"}"), None);
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody called");
    }
}

//! A collector of OpenTelemetry spans: OTLP over HTTP, protobuf, read with OpenTelemetry's own definitions. It keeps what it is sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Status;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A span as it was sent.
#[derive(Clone, Debug)]
pub struct Span {
    /// Attributes of the process.
    pub resource: BTreeMap<String, String>,
    /// Name.
    pub name: String,
    /// Trace.
    pub trace: Vec<u8>,
    /// Its id.
    pub id: Vec<u8>,
    /// The id of the span it is part of; empty: of none.
    pub parent: Vec<u8>,
    /// Attributes.
    pub fields: BTreeMap<String, String>,
    /// What went wrong, where something did.
    pub error: Option<String>,
}

/// Listens until it is stopped.
pub struct Collector {
    address: SocketAddr,
    runtime: Option<Runtime>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// On a port of its own.
    pub fn start() -> Result<Self> {
        let mut new = Self { address: (Ipv4Addr::LOCALHOST, 0).into(), runtime: None, spans: Arc::default() };
        new.restart()?;
        Ok(new)
    }

    /// Its address, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything it was sent.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody listens any more, and what was said is cut off.
    pub fn stop(&mut self) {
        drop(self.runtime.take());
    }

    /// Listens at the same address again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(self.address))?;
        self.address = listener.local_addr()?;
        let spans = Arc::clone(&self.spans);
        let router = Router::new().route("/v1/traces", post(move |body: Bytes| std::future::ready(take(&spans, &body))));
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
        Ok(())
    }
}

fn take(spans: &Mutex<Vec<Span>>, body: &[u8]) -> impl IntoResponse + use<> {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "text/plain")], b"no ExportTraceServiceRequest".to_vec());
    };
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for from in request.resource_spans {
        let resource = fields(from.resource.map(|r| r.attributes).unwrap_or_default());
        for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let error = span.status.filter(|status| status.code() == Status::Error).map(|status| status.message);
            spans.push(Span {
                resource: resource.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                fields: fields(span.attributes),
                error,
            });
        }
    }
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    (StatusCode::OK, [(CONTENT_TYPE, "application/x-protobuf")], answer)
}

fn fields(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}

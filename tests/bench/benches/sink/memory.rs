//! The sink's bound on memory, as ARCHITECTURE.md states it, with the default configuration.

/// `sink.max_bytes`
const BLOCK_MB: f64 = 32.0;
/// What the consumer reads ahead: `queued.max.messages.kbytes` of payloads, and as much for the client's account of them.
const AHEAD_MB: f64 = 2.0 * 64.0;
/// The process itself: code, threads, schemas, clients.
const BASE_MB: f64 = 64.0;

/// With so many partitions assigned: a block that is sent and one that grows, of each.
pub(crate) fn bound_mb(partitions: usize) -> f64 {
    BASE_MB + AHEAD_MB + partitions as f64 * (2.0 * BLOCK_MB + 1.0)
}

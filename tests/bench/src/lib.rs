//! Benchmarks on the real servers.

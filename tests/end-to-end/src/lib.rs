//! End-to-end and conservation tests on the real servers.

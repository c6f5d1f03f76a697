//! Fixtures for the live-kernel tests.

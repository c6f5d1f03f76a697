//! Programs of other people in the whole sandbox, as an ordinary user, against the hosts of a
//! network of the test's own: package managers, version control, interpreters, an editor, a
//! browser, an agent. Each does its work, and nothing but its policy's host is reached.

mod agent;
mod browser;
mod interactive;
mod packages;
mod registry;
mod repositories;
mod scene;

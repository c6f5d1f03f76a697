//! `exeat report` and `exeat ui` in a real browser, and under attack.
//!
//! The daemon is the real one where what it enforces is the point. Questions are put by a double of
//! it ([`double`]): what the page does with them is judged here, what they do in the kernel in the
//! suites of asking.

mod attacks;
mod double;
mod governed;
mod http;
mod live;
mod questions;
mod report;

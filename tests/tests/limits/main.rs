//! An agent as a whole: its limits, and `exeat freeze`, `thaw` and `kill`.

mod amounts;
mod hold;

//! TLS that ends at the gateway, for rules that say `inspect`.

mod authority;

pub use authority::{Authority, AuthorityError};

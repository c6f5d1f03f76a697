//! Programs of other people: the DNS gate by the resolvers that they have, by thousands of
//! look-ups of a name that moves, by questions for what is none of the agent's business, and by a
//! tunnel; names in TLS by the libraries that they have.

mod container;
mod resolvers;
mod rotating;
mod strangers;
mod tls;
mod tunnel;

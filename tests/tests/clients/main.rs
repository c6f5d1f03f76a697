//! The DNS gate in use: by the resolvers that programs have, by thousands of look-ups of a
//! name that moves, by questions for what is none of the agent's business, and by a tunnel.

mod container;
mod resolvers;
mod rotating;
mod strangers;
mod tunnel;

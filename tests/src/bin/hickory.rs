//! A client of Rust's: asks hickory-resolver, as the machine's configuration sets it up, for
//! the addresses of a name: `hickory NAME`. The case of its questions is random (0x20).
//!
//! Lines: `address A` each, or `error WORDS`; `ms N`, how long the resolver took.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;

/// Longer than any answer should take, so that a question that is let fall shows.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(name), None) = (words.next(), words.next()) else {
        eprintln!("usage: hickory NAME");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    match ask(&name).await {
        Ok(addresses) => addresses.iter().for_each(|a| println!("address {a}")),
        Err(error) => println!("error {error}"),
    }
    println!("ms {}", start.elapsed().as_millis());
    ExitCode::SUCCESS
}

async fn ask(name: &str) -> Result<Vec<String>, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.case_randomization = true;
    let found = builder.build()?.lookup_ip(name).await?;
    Ok(found.iter().map(|address| address.to_string()).collect())
}

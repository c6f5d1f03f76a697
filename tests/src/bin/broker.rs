//! Has buses filtered as the launcher has: names of the session bus, `--`, names of the
//! system's. Prints the variables and the sockets, and stays until its standard input ends.

use std::collections::BTreeSet;
use std::io::Read as _;

use exeat::launch::bus::Helper;
use exeat::policy::sandbox::Dbus;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut parts = words.split(|word| word == "--");
    let mut names =
        || -> BTreeSet<String> { parts.next().unwrap_or_default().iter().cloned().collect() };
    let dbus = Dbus {
        session: names(),
        system: names(),
    };
    let helper = Helper::fork()?;
    match helper.start(&dbus, None)? {
        None => println!("none"),
        Some(broker) => {
            let sockets: Vec<_> = broker.sockets().collect();
            println!(
                "{}",
                serde_json::json!({ "variables": broker.variables(), "sockets": sockets })
            );
        }
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

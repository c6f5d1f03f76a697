//! A connection to the session bus that does as it is told: it shows notifications, or says
//! that it does. Prints what it is asked, a JSON array a line; reads what it is to do, words
//! on a line:
//!
//! - `own`: takes the name of the notification server, also from another;
//! - `act NUMBER KEY`, `to NAME NUMBER KEY`: says that a button was clicked, to all or to one;
//! - `gone NUMBER`: says that a notification was closed;
//! - `cover NUMBER KEY…`: has the server put another text over a notification, with these
//!   buttons;
//! - `answer`: from now on clicks every button of whatever is shown, the last first.
//!
//! Its arguments are the capabilities that it has.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures_util::StreamExt as _;
use zbus::fdo::RequestNameFlags;
use zbus::message::Type;
use zbus::{Connection, MessageStream, OwnedVariant};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";

static CLICKS: AtomicBool = AtomicBool::new(false);

fn say(what: serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{what}");
    let _ = out.flush();
}

/// Answers what is asked of a notification server.
async fn serve(connection: Connection, mut messages: MessageStream, capabilities: Vec<String>) {
    let mut last = 0;
    while let Some(Ok(message)) = messages.next().await {
        let header = message.header();
        if header.message_type() != Type::MethodCall {
            continue;
        }
        let member = header.member().map(|one| one.as_str().to_owned());
        let done = match member.as_deref() {
            Some("Notify") => {
                let body = message.body();
                let asked: Result<Asked, _> = body.deserialize();
                let Ok((_, over, _, summary, text, actions, _, _)) = asked else {
                    continue;
                };
                let number = match over {
                    0 => {
                        last += 1;
                        last
                    }
                    over => over,
                };
                say(serde_json::json!([
                    "notify", number, summary, text, actions
                ]));
                if CLICKS.load(SeqCst) {
                    for key in actions.iter().step_by(2).rev() {
                        let _ = act(&connection, None, number, key).await;
                    }
                }
                connection.reply(&header, &number).await
            }
            Some("CloseNotification") => {
                let number: Result<u32, _> = message.body().deserialize();
                say(serde_json::json!(["close", number.unwrap_or(0)]));
                connection.reply(&header, &()).await
            }
            Some("GetCapabilities") => connection.reply(&header, &capabilities).await,
            _ => Ok(()),
        };
        if done.is_err() {
            return;
        }
    }
}

/// The arguments of `Notify`.
type Asked = (
    String,
    u32,
    String,
    String,
    String,
    Vec<String>,
    HashMap<String, OwnedVariant>,
    i32,
);

async fn act(
    connection: &Connection,
    to: Option<&str>,
    number: u32,
    key: &str,
) -> zbus::Result<()> {
    let body = (number, key);
    connection
        .emit_signal(to, PATH, NAME, "ActionInvoked", &body)
        .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let connection = zbus::connection::Builder::session().build().await?;
    // Before anybody is told that it is there.
    let messages = MessageStream::from(&connection);
    let capabilities = std::env::args().skip(1).collect();
    tokio::spawn(serve(connection.clone(), messages, capabilities));
    let own = connection.unique_name().map(ToString::to_string);
    say(serde_json::json!(["ready", own]));
    let (tell, mut lines) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
        // Whoever gave orders is gone.
        std::process::exit(0);
    });
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["own"] => {
                let flags =
                    RequestNameFlags::REPLACE_EXISTING | RequestNameFlags::ALLOW_REPLACEMENT;
                connection.request_name_with_flags(NAME, flags).await?;
            }
            ["act", number, key] => act(&connection, None, number.parse()?, key).await?,
            ["to", name, number, key] => act(&connection, Some(name), number.parse()?, key).await?,
            ["gone", number] => {
                let body = (number.parse::<u32>()?, 2u32);
                connection
                    .emit_signal(None::<&str>, PATH, NAME, "NotificationClosed", &body)
                    .await?;
            }
            ["cover", number, keys @ ..] => {
                let actions: Vec<&str> = keys.iter().flat_map(|key| [*key, "Fine"]).collect();
                let hints: HashMap<&str, zbus::Variant<'_>> = HashMap::new();
                let number: u32 = number.parse()?;
                let body = ("Mail", number, "", "New mail", "", actions, hints, 0i32);
                connection
                    .call_method(Some(NAME), PATH, Some(NAME), "Notify", &body)
                    .await?;
            }
            ["answer"] => CLICKS.store(true, SeqCst),
            _ => anyhow::bail!("what is {line}?"),
        }
        say(serde_json::json!(["did", line]));
    }
    Ok(())
}

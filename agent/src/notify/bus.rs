//! The session bus and the notification server on it (the Desktop Notifications Specification).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use zbus::fdo::DBusProxy;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::{Connection, MatchRule, Message, MessageStream, Variant};

use super::text::{Can, Text};
use crate::control::peer::Process;
use crate::notify::trust;

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const BUS: &str = "org.freedesktop.DBus";
/// How long a server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the bus may take to greet.
const GREETING: Duration = Duration::from_secs(3);
/// Shown until somebody closes it: the question has a time of its own.
const NEVER: i32 = 0;
/// The specification's "critical": others vanish after seconds, and a program waits.
const CRITICAL: u8 = 2;

/// What is heard on the bus.
#[derive(Debug)]
pub(super) enum Heard {
    /// A button, as whoever sent this says.
    Action {
        sender: Option<String>,
        number: u32,
        key: String,
    },
    /// A notification is gone, as whoever sent this says.
    Closed { sender: String, number: u32 },
    /// Another connection has the server's name, or none. Said by the bus itself.
    Owner,
}

/// The session bus.
pub(super) struct Bus {
    connection: Connection,
    proxy: DBusProxy<'static>,
    /// The process at the other end of the socket.
    pub(super) process: Process,
}

/// The connection that has the server's name.
pub(super) struct Server {
    pub(super) owner: OwnedUniqueName,
    pub(super) process: Process,
    /// Whose process it is.
    pub(super) uid: Option<u32>,
    pub(super) can: Can,
}

impl Bus {
    /// Connects to the user's session bus. One that has just begun may let a connection wait for
    /// its greeting for ever, which zbus's own limit is not for.
    pub(super) async fn connect() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::session()
            .method_timeout(LIMIT)
            .build();
        let connection = tokio::time::timeout(GREETING, connection)
            .await
            .map_err(|_| zbus::Error::Failure("it does not greet".to_owned()))??;
        let credentials = connection.peer_creds().await?;
        let pidfd = credentials.process_fd().map(duplicate).transpose()?;
        let process = trust::hold(credentials.process_id(), pidfd)?;
        let proxy = DBusProxy::new(&connection).await?;
        Ok(Self {
            connection,
            proxy,
            process,
        })
    }

    /// Everything that is said of notifications from now on. Who said it is in each: the bus
    /// writes the sender's name, and also hands over what is sent to us directly.
    pub(super) async fn listen(&self) -> zbus::Result<BoxStream<'static, Heard>> {
        // No sender: the bus would compare with whoever has the name then, and the board wants
        // to know who it was.
        let of_server = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface(NAME)
            .path(PATH)
            .build()?;
        let of_bus = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .add_arg(NAME)
            .build()?;
        let server = MessageStream::for_match_rule(of_server, &self.connection, None).await?;
        let bus = MessageStream::for_match_rule(of_bus, &self.connection, None).await?;
        let both = futures_util::stream::select(server, bus);
        Ok(both
            .filter_map(|message| async move { message.ok().and_then(|m| heard(&m)) })
            .boxed())
    }

    /// Ends when the bus is gone.
    pub(super) async fn gone(&self) {
        self.connection.closed().await;
    }

    /// The server that has the name, started by the bus if it can be; none if there is none.
    pub(super) async fn server(&self) -> zbus::Result<Option<Server>> {
        let name = || BusName::try_from(NAME);
        if !self.proxy.name_has_owner(name()?).await? {
            let started = self.proxy.start_service_by_name(NAME.try_into()?, 0).await;
            if started.is_err() {
                return Ok(None);
            }
        }
        let owner = match self.proxy.get_name_owner(name()?).await {
            Ok(owner) => owner,
            Err(zbus::fdo::Error::NameHasNoOwner(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let its = || BusName::from(owner.clone().into_inner());
        let credentials = self.proxy.get_connection_credentials(its()).await?;
        let pidfd = credentials.process_fd().map(duplicate).transpose()?;
        let process = trust::hold(credentials.process_id(), pidfd)?;
        let answer = self.call(&owner, "GetCapabilities", &()).await?;
        let all: Vec<String> = answer.body().deserialize()?;
        let has = |what: &str| all.iter().any(|one| one == what);
        let can = Can {
            actions: has("actions"),
            body: has("body"),
            markup: has("body-markup"),
        };
        Ok(Some(Server {
            owner,
            process,
            uid: credentials.unix_user_id(),
            can,
        }))
    }

    /// The connection that has the server's name at this moment.
    pub(super) async fn owner(&self) -> Option<String> {
        let name = BusName::try_from(NAME).ok()?;
        let owner = self.proxy.get_name_owner(name).await.ok()?;
        Some(owner.to_string())
    }

    /// Shows a notification, over the one of the number if that is not 0; gives its number.
    pub(super) async fn notify(
        &self,
        server: &Server,
        over: u32,
        text: &Text,
        actions: &[(String, &str)],
    ) -> zbus::Result<u32> {
        let actions: Vec<&str> = actions
            .iter()
            .flat_map(|(key, label)| [key.as_str(), *label])
            .collect();
        let hints: HashMap<&str, Variant<'_>> = HashMap::from([
            ("urgency", Variant::from(CRITICAL)),
            ("category", Variant::from("network")),
            ("desktop-entry", Variant::from("exeat-notify")),
        ]);
        let body = (
            "Exeat",
            over,
            "security-medium",
            text.summary.as_str(),
            text.body.as_str(),
            actions,
            hints,
            NEVER,
        );
        let answer = self.call(&server.owner, "Notify", &body).await?;
        answer.body().deserialize()
    }

    /// Takes a notification off the screen. That it is gone already is no failure.
    pub(super) async fn close(&self, server: &str, number: u32) {
        let Ok(owner) = OwnedUniqueName::try_from(server) else {
            return;
        };
        let _ = self.call(&owner, "CloseNotification", &number).await;
    }

    /// Calls the connection, not the name: another may have that by now.
    async fn call<B>(
        &self,
        owner: &OwnedUniqueName,
        method: &str,
        body: &B,
    ) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let to = Some(owner.as_str());
        self.connection
            .call_method(to, PATH, Some(NAME), method, body)
            .await
    }
}

fn duplicate(fd: &zbus::OwnedFd) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;
    fd.as_fd().try_clone_to_owned()
}

fn heard(message: &Message) -> Option<Heard> {
    let header = message.header();
    let sender = header.sender().map(ToString::to_string);
    let interface = header.interface().map(|one| one.as_str());
    match (interface, header.member()?.as_str()) {
        (Some(NAME), "ActionInvoked") => {
            let (number, key) = message.body().deserialize().ok()?;
            Some(Heard::Action {
                sender,
                number,
                key,
            })
        }
        (Some(NAME), "NotificationClosed") => {
            let (number, _): (u32, u32) = message.body().deserialize().ok()?;
            let sender = sender?;
            Some(Heard::Closed { sender, number })
        }
        // The bus lets nobody else have its name as a sender.
        (Some(BUS), "NameOwnerChanged") if sender.as_deref() == Some(BUS) => Some(Heard::Owner),
        _ => None,
    }
}

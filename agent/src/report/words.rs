//! What a refusal or an incident means, in words for somebody who never saw a packet.

use std::borrow::Cow;

/// What is said of a reason: a few words, and one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// A few words.
    pub title: Cow<'static, str>,
    /// A sentence that a manager can act on.
    pub sentence: Cow<'static, str>,
}

const fn words(title: &'static str, sentence: &'static str) -> Words {
    Words {
        title: Cow::Borrowed(title),
        sentence: Cow::Borrowed(sentence),
    }
}

/// What a refusal for this reason means. A reason of a newer daemon is named as it is.
pub fn of_reason(reason: &str) -> Words {
    known_reason(reason).unwrap_or_else(|| Words {
        title: reason.to_owned().into(),
        sentence: "A newer version of Exeat refused this for a reason that this one has no words \
                   for."
            .into(),
    })
}

fn known_reason(reason: &str) -> Option<Words> {
    Some(match reason {
        "no_rule" => words(
            "Not on the list",
            "The program wanted to reach something that its policy does not name; everything that is \
             not named is refused.",
        ),
        "deny_rule" => words(
            "Forbidden by a rule",
            "A rule of the policy forbids this destination; no answer of a person can open it.",
        ),
        "port" => words(
            "Right host, wrong port",
            "The policy names the destination, but not this port or protocol of it.",
        ),
        "protocol" => words(
            "Unusual network protocol",
            "The packet used a protocol that no policy can name; ordinary programs have no need of \
             it.",
        ),
        "socket_type" => words(
            "Unusual kind of socket",
            "The program tried to open a raw or rare kind of network socket, which can be used to \
             slip past filters.",
        ),
        "socket_option" => words(
            "Attempt to change how packets travel",
            "The program tried a socket setting that sends packets of its own or changes where \
             packets go.",
        ),
        "listen" => words(
            "Attempt to offer a service",
            "The program tried to accept connections from outside; its policy does not let it \
             listen there.",
        ),
        "header" => words(
            "Manipulated packet",
            "The packet carried options or fragments that ordinary programs do not send.",
        ),
        "name" => words(
            "Unknown name looked up",
            "The program asked for the address of a name that its policy does not list; the \
             question was not passed on.",
        ),
        "gate" => words(
            "Way around the name service",
            "The program tried to use a name service other than its own, which could carry data \
             out.",
        ),
        "no_policy" => words(
            "No policy loaded",
            "The program runs in a confined place for which no policy is loaded; until there is one \
             nothing leaves.",
        ),
        "state" => words(
            "Could not be decided",
            "What the decision needs could not be read or kept, and what is unsure is refused.",
        ),
        "budget" => words(
            "Too many different names",
            "The program looked up more, or stranger, names below one domain than its policy \
             grants an hour; long odd names are a way to carry data out.",
        ),
        "rebind" => words(
            "Name led to an inside address",
            "A permitted name suddenly stood for a private address, a known trick to reach machines \
             inside.",
        ),
        "tls_name" => words(
            "Encrypted connection for another name",
            "The program reached a permitted address but asked there for a host that the policy does \
             not name, a way to hide the true destination.",
        ),
        "not_tls" => words(
            "Not encrypted where it must be",
            "Something other than an encrypted connection was sent where the host's name has to be \
             shown.",
        ),
        "tls_no_name" => words(
            "Encrypted connection without a name",
            "The program did not say which host it wanted, so it cannot be checked.",
        ),
        "tls_address" => words(
            "Encrypted connection to a bare number",
            "The program named an address instead of a host, so it cannot be checked.",
        ),
        "tls_bad_name" => words(
            "Impossible host name",
            "The host name in the encrypted connection is no host name.",
        ),
        "tls_names" => words(
            "Two names at once",
            "The encrypted connection named more than one host, so that it could be read in two \
             ways.",
        ),
        "tls_malformed" => words(
            "Malformed encrypted connection",
            "The beginning of the encrypted connection does not add up.",
        ),
        "tls_split" => words(
            "Encrypted connection cut to pieces",
            "The beginning of the encrypted connection came in pieces that hide its name.",
        ),
        "tls_trailing" => words(
            "Something hidden behind the greeting",
            "More was sent behind the beginning of the encrypted connection than belongs there.",
        ),
        "tls_encrypted" => words(
            "Hidden host name",
            "The program encrypted the host's name itself (ECH), so it cannot be checked, and the \
             policy does not permit that.",
        ),
        "tls_early" => words(
            "Data before the greeting",
            "Data was sent before the connection could be checked.",
        ),
        "tls_order" => words(
            "Data out of order",
            "The beginning of the connection came out of order or was not seen, so its name cannot \
             be trusted.",
        ),
        "tls_shared" => words(
            "Data that could still change",
            "The program kept the means to change what it sent after it was checked.",
        ),
        "unsteered" => words(
            "Way around the gateway",
            "The connection must pass through the gateway and did not.",
        ),
        "http_host" => words(
            "Web request for another host",
            "A web request named a host that the policy does not allow, or none.",
        ),
        "http_malformed" => words(
            "Ambiguous web request",
            "A web request could be read in two ways, a known trick to smuggle a second one.",
        ),
        "proxy_auth" => words(
            "Proxy used without its password",
            "Something asked the gateway's proxy without the password of the program that it is for.",
        ),
        "http_request" => words(
            "Web request that the policy does not allow",
            "The host is permitted, but not this kind of request, path or content.",
        ),
        "server" => words(
            "Server could not prove itself",
            "The server's certificate is not good for its name, so the connection was not made.",
        ),
        "isolated" => words(
            "Cut off",
            "The program was cut off from the network at that time, by a person or a rule.",
        ),
        "unix_socket" => words(
            "Local service of somebody else",
            "The program tried to use a service of this computer that its policy does not open.",
        ),
        "passed_socket" => words(
            "Borrowed connection",
            "A network connection was handed to the program, or by it to another, which would go \
             around its policy.",
        ),
        "cgroup" => words(
            "Attempt to leave its confinement",
            "The program tried to move itself or a child out of the place where it is governed.",
        ),
        "ptrace" => words(
            "Attempt to take over another program",
            "The program tried to look into or steer a program that is not its own.",
        ),
        "socket_family" => words(
            "Unusual kind of network",
            "The program tried to use a kind of network that agents may not use.",
        ),
        "bpf" => words(
            "Attempt on the kernel's programs",
            "The program tried to load or change programs inside the kernel.",
        ),
        "mount" => words(
            "Attempt to change the file system",
            "The program tried to mount or unmount something, which could open hidden files.",
        ),
        "asked" => words(
            "Waited for a person",
            "The policy does not decide this destination, and a person was asked; until the answer \
             nothing left.",
        ),
        "denied_by_person" => words(
            "A person said no",
            "A person was asked about this destination and refused it.",
        ),
        _ => return None,
    })
}

/// What a kind of incident is, in a few words. A kind of a newer daemon is named as it is.
pub fn of_incident(kind: &str) -> Cow<'static, str> {
    known_incident(kind).map_or_else(|| kind.to_owned().into(), Into::into)
}

fn known_incident(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "limit_hit" => "A limit was reached",
        "frozen" => "Cut off and stopped",
        "thawed" => "Let go on",
        "killed" => "Cut off and ended",
        "identity_mismatch" => "Not the program that it should be",
        "adopted" => "A running program was put under its policy",
        "wall_missing" => "A protection is missing",
        "unknown_program" => "A program without a policy",
        "asked" => "A person was asked",
        "answered" => "A question ended",
        "granted" => "Permission given or refused",
        "grant_ended" => "A permission ended",
        "isolated" => "Cut off from the network",
        "rejoined" => "Connected again",
        "detected" => "A detection rule fired",
        "policy_loaded" => "A policy came into force",
        "policy_refused" => "A policy was not valid",
        "bundle_installed" => "A policy bundle was installed",
        "bundle_refused" => "A policy bundle was refused",
        "bundle_rolled_back" => "A policy bundle was rolled back",
        "daemon_started" => "Exeat started",
        "daemon_stopped" => "Exeat was stopped",
        "events_lost" => "Records were lost",
        "portal_opened" => "A network's portal was opened",
        "portal_closed" => "A network's portal was closed",
        "clock_jumped" => "The clock was set, or the machine slept",
        "network_changed" => "The network changed",
        _ => return None,
    })
}

/// What a wall keeps from happening, in a few words; none of a newer daemon's.
pub fn of_wall(name: &str) -> Option<&'static str> {
    Some(match name {
        "lsm_unix" => "Second lock on local services of others",
        "lsm_passing" => "Second lock on borrowed connections",
        "lsm_cgroup" => "Second lock on leaving the confinement",
        "lsm_ptrace" => "Second lock on taking over other programs",
        "lsm_families" => "Second lock on unusual kinds of network",
        "lsm_bpf" => "Second lock on the kernel's programs",
        "lsm_mount" => "Second lock on changing the file system",
        "namespaces" => "A view of its own of files, processes and users",
        "landlock" => "Second lock on files",
        "capabilities" => "No rights of an administrator",
        "seccomp" => "Only the system calls that programs need",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::IncidentKind;
    use agent_common::Reason;

    #[test]
    fn every_reason_and_every_kind_has_words() {
        for reason in Reason::ALL {
            let word = reason.as_str();
            let said = known_reason(word).unwrap_or_else(|| panic!("no words for {word}"));
            assert!(
                said.sentence.ends_with('.') && said.sentence.len() > 30,
                "{word}"
            );
            assert!(
                !said.title.contains('_') && !said.title.is_empty(),
                "{word}"
            );
        }
        for kind in IncidentKind::ALL {
            let word = kind.as_str();
            assert!(known_incident(word).is_some(), "no words for {word}");
        }
    }

    #[test]
    fn what_is_not_known_is_named_as_it_is() {
        assert_eq!(of_reason("from_the_future").title, "from_the_future");
        assert_eq!(of_incident("from_the_future"), "from_the_future");
    }
}

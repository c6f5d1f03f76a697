//! Why a flow was refused, and where: the same closed words in the kernel, in events,
//! in metrics and in the documentation.

macro_rules! closed {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $num:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vmeta])* $variant = $num,)+ }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// From the number that crosses the kernel boundary.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($num => Some(Self::$variant),)+ _ => None }
            }

            /// The number that crosses the kernel boundary.
            #[inline(always)]
            pub const fn number(self) -> u8 { self as u8 }

            /// The word in events, metrics and documentation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}
pub(crate) use closed;

closed! {
    /// Why a flow was refused.
    Reason {
        /// No rule names the destination: the default.
        NoRule = 0, "no_rule";
        /// A deny rule names it.
        DenyRule = 1, "deny_rule";
        /// A rule names the destination, but not this port or protocol.
        Port = 2, "port";
        /// The packet carries a protocol that no policy can name.
        Protocol = 3, "protocol";
        /// A socket of a kind that agents may not make.
        SocketType = 4, "socket_type";
        /// A socket option that would send packets of its own, or change where packets go.
        SocketOption = 5, "socket_option";
        /// Binding to, or answering from, a port that no `listen` rule names.
        Listen = 6, "listen";
        /// IP options, extension headers, fragments, or a header that cannot be read.
        Header = 7, "header";
        /// A name that the policy does not name was asked of the gate.
        Name = 8, "name";
        /// The gate's own addresses, or port 53 by a way that cannot be steered.
        Gate = 9, "gate";
        /// A process in a governed cgroup whose agent has no policy loaded.
        NoPolicy = 10, "no_policy";
        /// State that the verdict needs could not be stored or read.
        State = 11, "state";
        /// A name would cross the budget of its wildcard (the DNS gate).
        Budget = 12, "budget";
        /// An allowed name stands for an address that it may not (the DNS gate).
        Rebind = 13, "rebind";
        /// A TLS connection for a name that the policy does not allow, or that this address
        /// is not leased for.
        TlsName = 14, "tls_name";
        /// Data that is no TLS where a name counts.
        NotTls = 15, "not_tls";
        /// A ClientHello without a server name.
        TlsNoName = 16, "tls_no_name";
        /// A ClientHello whose server name is an IP address.
        TlsAddress = 17, "tls_address";
        /// A server name that is no host name, or longer than any.
        TlsBadName = 18, "tls_bad_name";
        /// A ClientHello with more than one name to choose from.
        TlsNames = 19, "tls_names";
        /// A ClientHello whose lengths do not add up or go beyond the bounds.
        TlsMalformed = 20, "tls_malformed";
        /// A ClientHello in several records, or cut where a second one begins.
        TlsSplit = 21, "tls_split";
        /// More than one ClientHello, or something else behind it where nothing may be.
        TlsTrailing = 22, "tls_trailing";
        /// A ClientHello with an encrypted one inside (ECH) that the rule does not allow.
        TlsEncrypted = 23, "tls_encrypted";
        /// Data in the packet that opens the connection (TCP fast open).
        TlsEarly = 24, "tls_early";
        /// Data out of order, marked urgent, or of a connection whose beginning was not seen.
        TlsOrder = 25, "tls_order";
        /// Data that the program can still change after it was judged (zero copy).
        TlsShared = 26, "tls_shared";
        /// The rule's way out is the gateway, and the connection was not steered there.
        Unsteered = 27, "unsteered";
        /// A plain HTTP request for a host that the policy does not allow, for none, or for two
        /// (the gateway).
        HttpHost = 28, "http_host";
        /// What is no HTTP, or HTTP that two servers could read in two ways (the gateway).
        HttpMalformed = 29, "http_malformed";
        /// A proxy listener of the gateway was asked without the agent's token.
        ProxyAuth = 30, "proxy_auth";
        /// A request inside TLS whose method, path or content the rule does not allow (the
        /// gateway).
        HttpRequest = 31, "http_request";
        /// A server whose certificate is not good for its name, or has no key that the rule
        /// pins (the gateway, where it inspects).
        Server = 32, "server";
        /// The agent is cut off from the network: it was frozen or is being killed.
        Isolated = 33, "isolated";
        /// A Unix socket of somebody else that the policy does not name (BPF LSM).
        UnixSocket = 34, "unix_socket";
        /// A socket that is passed into the agent or out of it (BPF LSM).
        PassedSocket = 35, "passed_socket";
        /// The way into another cgroup (BPF LSM).
        Cgroup = 36, "cgroup";
        /// Looking into a process of somebody else, or steering it (BPF LSM).
        Ptrace = 37, "ptrace";
        /// A socket of a family that agents may not use (BPF LSM).
        SocketFamily = 38, "socket_family";
        /// A call of `bpf(2)` (BPF LSM).
        Bpf = 39, "bpf";
        /// A mount, or the end of one (BPF LSM).
        Mount = 40, "mount";
        /// No rule names the destination, and a person is asked: it is held until the answer.
        Asked = 41, "asked";
        /// A person who was asked denied it, or nobody answered in time.
        DeniedByPerson = 42, "denied_by_person";
    }
}

impl Reason {
    /// Whether it is about the name of a TLS connection.
    #[inline(always)]
    pub const fn is_of_tls(self) -> bool {
        self.number() >= Self::TlsName.number() && self.number() <= Self::TlsShared.number()
    }
}

closed! {
    /// Where the flow was seen.
    Hook {
        /// `connect(2)` on an IPv4 socket.
        Connect4 = 0, "connect4";
        /// `connect(2)` on an IPv6 socket.
        Connect6 = 1, "connect6";
        /// `sendto(2)` and relatives on an unconnected IPv4 socket.
        Sendmsg4 = 2, "sendmsg4";
        /// `sendto(2)` and relatives on an unconnected IPv6 socket.
        Sendmsg6 = 3, "sendmsg6";
        /// `socket(2)`.
        SockCreate = 4, "sock_create";
        /// `bind(2)` on an IPv4 socket.
        Bind4 = 5, "bind4";
        /// `bind(2)` on an IPv6 socket.
        Bind6 = 6, "bind6";
        /// `setsockopt(2)`.
        Setsockopt = 7, "setsockopt";
        /// A packet on its way out.
        Egress = 8, "egress";
        /// A query at the DNS gate (user space).
        Dns = 9, "dns";
        /// A packet that reaches a socket of the agent that listens.
        Ingress = 10, "ingress";
        /// A connection at the gateway (user space).
        Gateway = 11, "gateway";
        /// `connect(2)` on a Unix stream socket (BPF LSM).
        UnixConnect = 12, "unix_connect";
        /// `connect(2)` or a send on a Unix datagram socket (BPF LSM).
        UnixSend = 13, "unix_send";
        /// A descriptor that is received (BPF LSM).
        FileReceive = 14, "file_receive";
        /// `open(2)` (BPF LSM).
        FileOpen = 15, "file_open";
        /// `clone3(2)` (BPF LSM).
        Clone = 16, "clone";
        /// `ptrace(2)`, and what is allowed by the same right (BPF LSM).
        PtraceAccess = 17, "ptrace_access";
        /// `PTRACE_TRACEME` (BPF LSM).
        PtraceTraceme = 18, "ptrace_traceme";
        /// `socket(2)` and `socketpair(2)` of any family (BPF LSM).
        SocketCreate = 19, "socket_create";
        /// `bpf(2)` (BPF LSM).
        Bpf = 20, "bpf";
        /// `mount(2)` (BPF LSM).
        Mount = 21, "mount";
        /// `move_mount(2)` (BPF LSM).
        MoveMount = 22, "move_mount";
        /// `umount2(2)` (BPF LSM).
        Umount = 23, "umount";
        /// `pivot_root(2)` (BPF LSM).
        PivotRoot = 24, "pivot_root";
    }
}

impl Hook {
    /// Whether it is one of BPF LSM: what it sees is no flow.
    #[inline(always)]
    pub const fn is_of_lsm(self) -> bool {
        self.number() >= Self::UnixConnect.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_come_back() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(usize::from(reason.number()), i);
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
        }
        for (i, hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(usize::from(hook.number()), i);
            assert_eq!(Hook::from_number(hook.number()), Some(*hook));
        }
        assert_eq!(Reason::from_number(200), None);
    }
}

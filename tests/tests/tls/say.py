import ctypes, ssl

HOST = "203.0.113.30"


def hello(name, **more):
    """A ClientHello as OpenSSL makes it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for key, value in more.items():
        setattr(context, key, value)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def record(kind, body):
    return bytes([kind, 3, 3]) + struct.pack(">H", len(body)) + body


CHANGE = record(20, b"\1")


def data(text):
    """What looks like encrypted data of TLS 1.3."""
    return record(23, text.encode())


def apart(h):
    """What is before the extensions of a hello, and the extensions."""
    at = 44 + h[43]
    at += 2 + struct.unpack(">H", h[at : at + 2])[0]
    at += 1 + h[at]
    head, at, found = h[9:at], at + 2, []
    while at < len(h):
        kind, length = struct.unpack(">2H", h[at : at + 4])
        found.append((kind, h[at + 4 : at + 4 + length]))
        at += 4 + length
    return head, found


def together(head, extensions):
    block = b"".join(struct.pack(">2H", k, len(b)) + b for k, b in extensions)
    body = head + struct.pack(">H", len(block)) + block
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack(">H", len(message)) + message


def names(*raw):
    entries = b"".join(b"\0" + struct.pack(">H", len(n)) + n for n in raw)
    return 0, struct.pack(">H", len(entries)) + entries


def named(*extensions):
    """A hello with these in place of its server name."""
    head, others = apart(hello("good.example"))
    return together(head, list(extensions) + [e for e in others if e[0] != 0])


def with_more(name, *extensions):
    head, others = apart(hello(name))
    return together(head, others + list(extensions))


def encrypted(name):
    """One with an encrypted hello inside, or what looks like it."""
    return with_more(name, (0xFE0D, b"\0\0\1\0\1\0\0\x20" + b"\x55" * 32 + b"\0\x10" + b"\x66" * 16))


def in_records(h, *lengths):
    out, rest = b"", h[5:]
    for length in lengths + (len(h),):
        piece, rest = rest[:length], rest[length:]
        out += record(22, piece) if piece else b""
    return out


def pieces(h, size):
    return [h[at : at + size] for at in range(0, len(h), size)]


def push(s, parts):
    """Each part a packet of its own, unless the one before must wait, or the socket was
    aborted for it."""
    for part in parts:
        try:
            s.sendall(part)
        except OSError:
            return


def say(parts, port=443, host=None):
    """A connection that says the parts."""
    s = tcp(host or HOST, port)
    s.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    push(s, parts)
    return s


def name_of(s):
    return s.getsockname()[1]


def is_stuck(s):
    """Whether a socket was aborted, or has tried in vain to send again and again."""
    info = s.getsockopt(IPPROTO_TCP, TCP_INFO, 8)
    established, probes = info[0] == 1, info[3]
    return not established or probes >= 2


def disconnect(s):
    """connect(2) to AF_UNSPEC."""
    address = struct.pack("=H14x", AF_UNSPEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(s.fileno(), address, len(address)):
        raise OSError(ctypes.get_errno(), "connect")

import ast, errno, json, os, socket, struct, sys, threading, time
from socket import *

NAMES = globals()
# Seconds that a socket waits, usually; a step may set PATIENCE.
USUAL = int(sys.argv[1])
PATIENCE = USUAL


def tcp(host, port, source=None):
    """A connected TCP socket; the family follows from the address."""
    s = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    s.settimeout(PATIENCE)
    if source:
        s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        s.bind(source)
    s.connect((host, port))
    return s


def udp(host=None, port=0):
    """A UDP socket, connected if a port is given."""
    s = socket(AF_INET6 if host and ":" in host else AF_INET, SOCK_DGRAM)
    s.settimeout(PATIENCE)
    if port:
        s.connect((host, port))
    return s


def listener(host, port):
    s = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    s.settimeout(PATIENCE)
    s.bind((host, port))
    s.listen()
    return s


def question(name, kind=1, number=0x4567):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def skip_name(m, at):
    while m[at]:
        if m[at] >= 0xC0:
            return at + 2
        at += m[at] + 1
    return at + 1


def answers(m):
    """Response code and addresses of a DNS message."""
    number, flags, questions, count = struct.unpack(">4H", m[:8])
    if number != 0x4567 or not flags & 0x8000:
        raise ValueError("no answer to the question: %r" % m)
    at, found = 12, []
    for _ in range(questions):
        at = skip_name(m, at) + 4
    for _ in range(count):
        at = skip_name(m, at)
        kind, _, _, length = struct.unpack(">2HIH", m[at : at + 10])
        at += 10
        if kind in (1, 28):
            found.append(inet_ntop(AF_INET if kind == 1 else AF_INET6, m[at : at + length]))
        at += length
    return [flags & 15, sorted(found)]


def dns_unconnected(server, name):
    s = udp(server)
    s.sendto(question(name), (server, 53))
    m, who = s.recvfrom(4096)
    return [list(who[:2])] + answers(m)


def dns_connected(server, name):
    s = udp(server, 53)
    s.send(question(name))
    who = s.getpeername()
    return [list(who[:2])] + answers(s.recv(4096))


def dns_message(server, name):
    """recvmsg shows an address of its own, apart from recvfrom's."""
    s = udp(server)
    s.sendmsg([question(name)], [], 0, (server, 53))
    m, _, _, who = s.recvmsg(4096, 256)
    return [list(who[:2])] + answers(m)


def take(s, length):
    got = b""
    while len(got) < length:
        piece = s.recv(length - len(got))
        if not piece:
            raise OSError(errno.EPIPE, "the stream ended")
        got += piece
    return got


def dns_tcp(server, name):
    s = tcp(server, 53)
    q = question(name)
    s.sendall(struct.pack(">H", len(q)) + q)
    (length,) = struct.unpack(">H", take(s, 2))
    m = take(s, length)
    who = s.getpeername()
    return [list(who[:2])] + answers(m)


def step(code):
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        exec(compile(ast.Module(tree.body[:-1], []), "<step>", "exec"), NAMES)
        return eval(compile(ast.Expression(last.value), "<step>", "eval"), NAMES)
    exec(compile(tree, "<step>", "exec"), NAMES)


def answer(code):
    try:
        return {"value": step(code)}
    except timeout:
        return {"timeout": True}
    except gaierror as e:
        return {"error": "gaierror %s" % e.errno}
    except OSError as e:
        return {"errno": e.errno}
    except BaseException as e:
        return {"error": repr(e)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line)), default=repr), flush=True)

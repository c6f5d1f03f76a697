import ssl


def text_of(s):
    got = b""
    while True:
        more = s.recv(65536)
        if not more:
            return got.decode()
        got += more


def request(host, path="/", more=""):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def body_of(answer):
    return answer.partition("\r\n\r\n")[2].strip()


def secured(s, name, authority):
    context = ssl.create_default_context(cafile=authority)
    s.settimeout(20)
    return context.wrap_socket(s, server_hostname=name)


def https(address, name, authority, port=443):
    try:
        with secured(tcp(address, port), name, authority) as tls:
            tls.sendall(request(name))
            return body_of(text_of(tls))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def http(address, host, port=80):
    try:
        with tcp(address, port) as s:
            s.settimeout(20)
            s.sendall(request(host, more="Connection: close\r\n"))
            return body_of(text_of(s))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def one_answer(f):
    """The status and body of one response, from a file of the connection."""
    status = f.readline().decode().split(" ", 2)
    length = 0
    while True:
        line = f.readline().decode().strip()
        if not line:
            break
        key, _, value = line.partition(":")
        if key.lower() == "content-length":
            length = int(value)
    return status[1] if len(status) > 1 else "", f.read(length).decode()


def proxied(url, target, host, authority=None):
    """Through an HTTP proxy, by CONNECT."""
    from urllib.parse import urlsplit
    import base64

    at = urlsplit(url)
    s = tcp(at.hostname, at.port)
    s.settimeout(20)
    token = base64.b64encode(f"{at.username}:{at.password}".encode()).decode()
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {token}\r\n\r\n"
    try:
        s.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            byte = s.recv(1)
            if not byte:
                return "closed"
            answer += byte
        status = answer.split()[1].decode()
        if status != "200":
            return status
        with secured(s, host, authority) as tls:
            tls.sendall(request(host))
            return body_of(text_of(tls))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def socks(url, name, port, host, authority):
    """Through a SOCKS5 proxy, by name."""
    from urllib.parse import urlsplit

    at = urlsplit(url)
    s = tcp(at.hostname, at.port)
    s.settimeout(20)
    user, word = at.username.encode(), at.password.encode()
    try:
        s.sendall(b"\5\1\2")
        if s.recv(2) != b"\5\2":
            return "no password asked"
        s.sendall(b"\1" + bytes([len(user)]) + user + bytes([len(word)]) + word)
        if s.recv(2)[1:] != b"\0":
            return "denied"
        to = name.encode()
        s.sendall(b"\5\1\0\3" + bytes([len(to)]) + to + struct.pack(">H", port))
        code = s.recv(10)[1]
        if code:
            return f"code {code}"
        with secured(s, host, authority) as tls:
            tls.sendall(request(host))
            return body_of(text_of(tls))
    except OSError as error:
        return f"{type(error).__name__}: {error}"

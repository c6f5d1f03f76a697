"""Python's ssl: see tests/tests/clients/tls.rs for what it is asked and says."""
import os, socket, ssl, sys, threading

address, authority, seconds, names = sys.argv[1:5]
context = ssl.create_default_context(cafile=authority)


def say(*words):
    os.write(1, " ".join(words).encode() + b"\n")


def ask(name):
    try:
        with socket.create_connection((address, 443), float(seconds)) as plain:
            with context.wrap_socket(plain, server_hostname=name) as s:
                s.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % name.encode())
                got = b""
                while piece := s.recv(4096):
                    got += piece
        say("served" if got.endswith(b"reached\n") else "odd", name)
    except OSError as e:
        say("refused", name, str(e))


threads = [threading.Thread(target=ask, args=[n]) for n in open(names).read().split()]
for t in threads:
    t.start()
for t in threads:
    t.join()

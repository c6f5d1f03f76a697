// Go's crypto/tls: see tests/tests/clients/tls.rs for what it is asked and says.
//
// Built without cgo and of the standard library alone, see xtask/src/setup/clients.rs.
//
// Go gives a file without a module the defaults of 1.20, so what programs of today say is asked
// for: ML-KEM, with which the hello fills a packet.

//go:debug tlsmlkem=1
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: tls ADDRESS AUTHORITY SECONDS NAMES")
		os.Exit(2)
	}
	authority, err := os.ReadFile(os.Args[2])
	fail(err)
	seconds, err := strconv.Atoi(os.Args[3])
	fail(err)
	names, err := os.ReadFile(os.Args[4])
	fail(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	dialer := net.Dialer{Timeout: time.Duration(seconds) * time.Second}
	var all sync.WaitGroup
	for _, name := range strings.Fields(string(names)) {
		all.Add(1)
		go func() {
			defer all.Done()
			config := tls.Config{RootCAs: roots, ServerName: name}
			got, err := ask(&dialer, net.JoinHostPort(os.Args[1], "443"), &config)
			switch {
			case err != nil:
				fmt.Println("refused", name, err)
			case strings.HasSuffix(got, "reached\n"):
				fmt.Println("served", name)
			default:
				fmt.Println("odd", name)
			}
		}()
	}
	all.Wait()
}

func ask(dialer *net.Dialer, address string, config *tls.Config) (string, error) {
	conn, err := tls.DialWithDialer(dialer, "tcp", address, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(dialer.Timeout))
	if _, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", config.ServerName); err != nil {
		return "", err
	}
	got, err := io.ReadAll(conn)
	return string(got), err
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

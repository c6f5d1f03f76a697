// Asks Go's own resolver for the addresses of a name: `ask NAME [SERVER]`.
//
// Built without cgo and of the standard library alone, see xtask/src/setup/clients.rs.
// Lines: `address A` each, or `error WORDS`; `from A` for each server that was dialled, as
// its socket says; `ms N`, how long the resolver took.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: ask NAME [SERVER]")
		os.Exit(2)
	}
	var dialer net.Dialer
	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if len(os.Args) == 3 {
				address = net.JoinHostPort(os.Args[2], "53")
			}
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				fmt.Println("from", conn.RemoteAddr())
			}
			return conn, err
		},
	}
	start := time.Now()
	found, err := resolver.LookupHost(context.Background(), os.Args[1])
	took := time.Since(start)
	if err != nil {
		fmt.Println("error", err)
	}
	for _, address := range found {
		fmt.Println("address", address)
	}
	fmt.Println("ms", took.Milliseconds())
}

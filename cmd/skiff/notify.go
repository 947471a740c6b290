package main

import (
	"context"
	"net"
	"os"
)

// notify tells the service manager how the process is, as sd_notify(3) says. Where
// nobody listens there is nothing to tell.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' { // an abstract socket
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // a manager that does not listen is no reason to fail
	}
	defer conn.Close()
	conn.Write([]byte(state))
}

// stopping tells it when ctx ends.
func stopping(ctx context.Context) {
	context.AfterFunc(ctx, func() { notify("STOPPING=1") })
}

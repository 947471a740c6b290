package apiserver

import (
	"bytes"
	"context"
	"net/http"

	"golang.org/x/net/websocket"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// isWebSocket: the client wants to upgrade the connection to WebSocket.
func isWebSocket(req *http.Request) bool { return wsstream.IsWebSocketRequest(req) }

// watchWebSocket sends each event of a watch as one message: text for JSON,
// binary for protobuf, there without the length that precedes it in a stream.
func watchWebSocket(ctx context.Context, w http.ResponseWriter, r *Request, events *watchEncoder) {
	handler := websocket.Handler(func(conn *websocket.Conn) {
		defer conn.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			defer cancel() // the client has closed, or speaks, which it must not
			var nothing []byte
			_ = websocket.Message.Receive(conn, &nothing)
		}()
		defer func() { conn.Close(); <-closed }()
		for {
			err := events.each(ctx, func(event WatchEvent) error { return events.send(conn, event) })
			if err != nil {
				return
			}
		}
	})
	handler.ServeHTTP(w, r.HTTP)
}

// send writes one event as a message.
func (e *watchEncoder) send(conn *websocket.Conn, event WatchEvent) (err error) {
	if e.buf, err = e.append(e.buf[:0], event); err != nil {
		return err
	}
	if e.out.MediaType == runtime.ContentTypeJSON {
		return websocket.Message.Send(conn, string(bytes.TrimSuffix(e.buf, []byte("\n"))))
	}
	return websocket.Message.Send(conn, e.buf[4:])
}

package cri

import (
	"time"

	"google.golang.org/grpc/backoff"
)

// reconnect keeps trying quickly: the runtime is on this machine, and when it
// comes back the node should be ready within a second.
var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}

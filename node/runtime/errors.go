package runtime

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IsNotFound tells whether err says that a sandbox, container or image is not there.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsTimeout tells whether err says that a command took too long.
func IsTimeout(err error) bool { return status.Code(err) == codes.DeadlineExceeded }

// Message is the error's text without gRPC's "rpc error: code = … desc =".
func Message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

package store

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger returns etcd's kind of logger, writing to ours. What etcd calls
// information is debugging to us; its fatal errors end the process, as zap's do,
// after they are written.
func zapLogger(logger *slog.Logger) *zap.Logger {
	return zap.New(bridge{logger.Handler()})
}

// bridge is a zapcore.Core in front of a slog.Handler.
type bridge struct{ slog.Handler }

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func (b bridge) Enabled(l zapcore.Level) bool {
	return b.Handler.Enabled(context.Background(), slogLevel(l))
}

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{b.WithAttrs(attrs(fields))}
}

func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

// expected are warnings and errors that etcd logs at each start or end as we run
// it, with nothing wrong.
var expected = []string{
	"Running http and grpc server on single port",                // on none
	"Detected that checkpointing is enabled without persistence", // persistent since etcd 3.6
	"simple token is not cryptographically signed",               // nobody authenticates by token
	"Failed to detect storage schema version",
	"Failed to detect schema version", // before the first snapshot
	"failed to update storage version",
	"failed to update cluster version", // when stopped early
	"failed to publish local member",   // while it replays a long log
	"ignored file in WAL directory",    // one that it has repaired
	"failed to apply request",          // whoever made it gets the error
	"retrying of unary invoker failed",
	"setting up serving from embedded etcd failed", // how a closed listener is reported
	"stopping insecure grpc server due to error",
	"stopped insecure grpc server due to error",
	"stopping secure grpc server due to error",
	"stopped secure grpc server due to error",
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slogLevel(e.Level)
	if level > slog.LevelDebug && e.Level < zapcore.DPanicLevel &&
		slices.ContainsFunc(expected, func(s string) bool { return strings.Contains(e.Message, s) }) {
		if level = slog.LevelDebug; !b.Handler.Enabled(context.Background(), level) {
			return nil
		}
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return b.Handle(context.Background(), r)
}

func (b bridge) Sync() error { return nil }

// attrs keeps the fields' order, for which each is encoded by itself.
func attrs(fields []zapcore.Field) []slog.Attr {
	var list []slog.Attr
	for _, f := range fields {
		m := zapcore.NewMapObjectEncoder()
		f.AddTo(m)
		for key, value := range m.Fields { // one, or those of an inline object
			list = append(list, slog.Any(key, value))
		}
	}
	return list
}

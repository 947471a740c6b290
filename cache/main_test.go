package cache

import (
	"testing"

	"go.uber.org/goleak"

	"skiff/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t testing.TB) store.Store { return store.OpenMemory(store.MemoryConfig{}) }

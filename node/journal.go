package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"k8s.io/apimachinery/pkg/types"

	"skiff/node/pod"
)

// journal keeps the pods' records in one small bbolt file. Writes are gathered
// and done beside the pods' own work: what the last moment lost, the runtime and
// the API still tell.
type journal struct {
	db  *bbolt.DB
	log *slog.Logger

	mu      sync.Mutex
	pending map[types.UID]*pod.Record // nil: to be deleted
	wake    chan struct{}
	done    chan struct{}
}

var podBucket = []byte("pods")

func openJournal(dir string, log *slog.Logger) (*journal, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the node's directory: %w", err)
	}
	path := filepath.Join(dir, "pods.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second, NoFreelistSync: true})
	if err != nil && !errors.Is(err, bbolt.ErrTimeout) {
		// Damaged by a power cut: what it held can be found again.
		log.Warn("the node's journal is damaged and begun anew", "path", path, "err", err)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return nil, fmt.Errorf("put the damaged journal aside: %w", err)
		}
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second, NoFreelistSync: true})
	}
	if err != nil {
		return nil, fmt.Errorf("open the node's journal %s (does another agent use it?): %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(podBucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	j := &journal{db: db, log: log, pending: map[types.UID]*pod.Record{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go j.run()
	return j, nil
}

// run writes what is pending until close.
func (j *journal) run() {
	defer close(j.done)
	for range j.wake {
		j.flush()
	}
	j.flush()
}

func (j *journal) flush() {
	j.mu.Lock()
	batch := j.pending
	j.pending = map[types.UID]*pod.Record{}
	j.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	err := j.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(podBucket)
		for uid, rec := range batch {
			if rec == nil {
				if err := b.Delete([]byte(uid)); err != nil {
					return err
				}
				continue
			}
			data, err := json.Marshal(rec)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(uid), data); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		j.log.Error("write the node's journal", "err", err)
	}
}

func (j *journal) close() error {
	close(j.wake)
	<-j.done
	return j.db.Close()
}

func (j *journal) Load() (map[types.UID]pod.Record, error) {
	out := map[types.UID]pod.Record{}
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(podBucket).ForEach(func(k, v []byte) error {
			var r pod.Record
			if err := json.Unmarshal(v, &r); err != nil {
				j.log.Warn("record of a pod is unreadable and ignored", "uid", string(k), "err", err)
				return nil
			}
			out[types.UID(k)] = r
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the node's journal: %w", err)
	}
	return out, nil
}

func (j *journal) Put(uid types.UID, r pod.Record) { j.enqueue(uid, &r) }
func (j *journal) Delete(uid types.UID)            { j.enqueue(uid, nil) }

func (j *journal) enqueue(uid types.UID, r *pod.Record) {
	j.mu.Lock()
	j.pending[uid] = r
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// noJournal is that of simulated nodes: nothing survives their process anyway.
type noJournal struct{}

func (noJournal) Load() (map[types.UID]pod.Record, error) { return nil, nil }
func (noJournal) Put(types.UID, pod.Record)               {}
func (noJournal) Delete(types.UID)                        {}

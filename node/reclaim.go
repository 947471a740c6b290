package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// removeVolume is the prefix of annotations that ask the node to remove the
// directories of volumes that were deleted; it takes each away when that is done.
const removeVolume = "remove.volumes.skiff.dev/"

// reclaimRetry is how long the node waits before it tries again what it could not remove.
const reclaimRetry = time.Minute

// reclaimer removes the directories of deleted volumes, as the node's object asks.
type reclaimer struct {
	node    string
	client  client.Client
	pretend bool // simulated: there are no directories
	log     *slog.Logger
	asked   chan map[string]string // the newest annotations; one place, see changed
}

func newReclaimer(c Config) *reclaimer {
	return &reclaimer{node: c.NodeName, client: c.Client, pretend: c.Simulated, log: c.Logger, asked: make(chan map[string]string, 1)}
}

// changed hears of each version of the node's object. It never blocks: an older
// request that nobody took yet is replaced. Only one goroutine calls it.
func (r *reclaimer) changed(n *corev1.Node) {
	wanted := map[string]string{}
	for key, path := range n.Annotations {
		if name, ok := strings.CutPrefix(key, removeVolume); ok {
			wanted[name] = path
		}
	}
	select {
	case <-r.asked:
	default:
	}
	r.asked <- wanted
}

// run removes what is asked for until ctx ends.
func (r *reclaimer) run(ctx context.Context) error {
	var wanted map[string]string
	for {
		var again <-chan time.Time // nil: nothing is left to do
		if len(wanted) > 0 {
			again = time.After(reclaimRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case wanted = <-r.asked:
		case <-again:
		}
		for name, path := range wanted {
			err := r.remove(name, path)
			if err == nil {
				err = r.tell(ctx, name)
			}
			if err == nil {
				delete(wanted, name)
			} else if ctx.Err() == nil {
				r.log.Warn("directory of a deleted volume stays for now", "volume", name, "path", path, "err", err)
			}
		}
	}
}

// remove removes a volume's directory. It must bear the volume's name, which ends in
// the UID of its claim: nothing else is ever removed.
func (r *reclaimer) remove(name, path string) error {
	if !strings.HasPrefix(name, "pvc-") || !filepath.IsAbs(path) || filepath.Clean(path) != path || filepath.Base(path) != name {
		return fmt.Errorf("refuse to remove %q: it is not the directory of volume %q", path, name)
	}
	if r.pretend {
		return nil
	}
	return os.RemoveAll(path)
}

// tell takes the request off the node's object: it is done.
func (r *reclaimer) tell(ctx context.Context, name string) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{removeVolume + name: nil}}})
	if err != nil {
		return err
	}
	_, err = r.client.Patch(ctx, api.For[*corev1.Node](), "", r.node, client.Patch{Type: types.MergePatchType, Data: data})
	return err
}

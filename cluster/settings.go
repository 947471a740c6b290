package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/nodeipam"
)

// Settings are what all machines of a cluster must agree on. They are made once,
// by its first server.
type Settings struct {
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`     // one, or one of each family
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"` // one, or one of each family
	Port         int            `json:"port"`         // where every server listens
}

// defaultSettings are those of a cluster whose maker says nothing.
func defaultSettings() Settings {
	return Settings{
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Port:         6443,
	}
}

// ParseRanges reads comma-separated ranges, one or one of each family.
func ParseRanges(text string) (out []netip.Prefix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("range %q: give ADDRESS/BITS, or one of each family separated by a comma", part)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("range %s begins at %s: give that", p, p.Masked())
		}
		out = append(out, p)
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4() {
		return nil, fmt.Errorf("ranges %s: give one, or one of each family", text)
	}
	return out, nil
}

// check tells what cannot work.
func (s Settings) check() error {
	for _, p := range s.PodCIDRs {
		if p.Addr().Is4() && p.Bits() > 24 || p.Addr().Is6() && p.Bits() > 64 {
			return fmt.Errorf("pods' range %s is smaller than one node's part of it (/24, or /64 for IPv6)", p)
		}
		for _, q := range s.ServiceCIDRs {
			if p.Overlaps(q) {
				return fmt.Errorf("the ranges of pods, %s, and of services, %s, overlap", p, q)
			}
		}
	}
	for _, q := range s.ServiceCIDRs {
		if q.Addr().BitLen()-q.Bits() < 5 {
			return fmt.Errorf("services' range %s is too small", q)
		}
	}
	return nil
}

// differs tells in which way the other settings are not these.
func (s Settings) differs(other Settings) error {
	switch {
	case !slices.Equal(s.PodCIDRs, other.PodCIDRs):
		return fmt.Errorf("the cluster's pods are in %v, not in %v: that cannot be changed", s.PodCIDRs, other.PodCIDRs)
	case !slices.Equal(s.ServiceCIDRs, other.ServiceCIDRs):
		return fmt.Errorf("the cluster's services are in %v, not in %v: that cannot be changed", s.ServiceCIDRs, other.ServiceCIDRs)
	case s.Port != other.Port:
		return fmt.Errorf("the cluster's servers listen on port %d, not on %d: that cannot be changed", s.Port, other.Port)
	}
	return nil
}

// dns are the addresses of the cluster's name service: the tenth of each range of
// services, as everywhere.
func (s Settings) dns() (out []netip.Addr) {
	for _, p := range s.ServiceCIDRs {
		a := p.Addr()
		for range 10 {
			a = a.Next()
		}
		out = append(out, a)
	}
	return out
}

func (s Settings) nodeRanges() (out []nodeipam.Range) {
	for _, p := range s.PodCIDRs {
		out = append(out, nodeipam.Range{Cluster: p})
	}
	return out
}

func texts[T fmt.Stringer](list []T) (out []string) {
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

// The config map in which nodes find the settings, and beside them the hash of the
// cluster's authority.
const (
	settingsName = "skiff-cluster"
	settingsKey  = "settings.json"
	pinKey       = "authority"
)

// publish writes the settings into the cluster.
func (s Settings) publish(ctx context.Context, c client.Client, pin string) error {
	if _, err := client.Get[*corev1.ConfigMap](ctx, c, metav1.NamespaceSystem, settingsName); !apierrors.IsNotFound(err) {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	_, err = client.Create(ctx, c, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: settingsName},
		Data:       map[string]string{settingsKey: string(data), pinKey: pin},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // another server was faster
	}
	return err
}

// readSettings finds them in the cluster.
func readSettings(ctx context.Context, c client.Client) (Settings, error) {
	var s Settings
	m, err := client.Get[*corev1.ConfigMap](ctx, c, metav1.NamespaceSystem, settingsName)
	if err != nil {
		return s, fmt.Errorf("read the cluster's settings: %w", err)
	}
	if err := json.Unmarshal([]byte(m.Data[settingsKey]), &s); err != nil {
		return s, fmt.Errorf("read the cluster's settings in config map %s: %w", settingsName, err)
	}
	return s, s.check()
}

// loadJSON reads a file into v; false: it is not there.
func loadJSON(path string, v any) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

func saveJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return writeWhole(path, append(data, '\n'), 0o600)
}

// writeWhole replaces a file's content, durably; after a crash it is the old or
// the new. Its directory is made if it is not there.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

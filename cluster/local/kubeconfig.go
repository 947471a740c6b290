package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ContextName is the name of the cluster's context, cluster and user in kubeconfigs.
func ContextName(cluster string) string { return "skiff-" + cluster }

// Access is what it takes to reach a cluster as its administrator.
type Access struct {
	Server               string // https://127.0.0.1:port
	CA, Certificate, Key []byte // PEM
}

// Kubeconfig makes a kubeconfig that holds only this cluster.
func (a Access) Kubeconfig(cluster string) *clientcmdapi.Config {
	name := ContextName(cluster)
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: a.Server, CertificateAuthorityData: a.CA}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: a.Certificate, ClientKeyData: a.Key}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return c
}

// owner is whose kubeconfig it is: under sudo the user who called it.
type owner struct {
	home     string
	uid, gid int // -1: whoever this process runs as
}

func kubeconfigOwner() (owner, error) {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		u, err := user.Lookup(name)
		if err != nil {
			return owner{}, fmt.Errorf("find the user %s who called sudo: %w", name, err)
		}
		uid, errU := strconv.Atoi(u.Uid)
		gid, errG := strconv.Atoi(u.Gid)
		return owner{u.HomeDir, uid, gid}, errors.Join(errU, errG)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return owner{}, fmt.Errorf("find your home directory, or set KUBECONFIG: %w", err)
	}
	return owner{home, -1, -1}, nil
}

// KubeconfigPath is the file that MergeKubeconfig changes: the first of
// $KUBECONFIG, or ~/.kube/config.
func KubeconfigPath() (string, error) {
	o, err := kubeconfigOwner()
	if err != nil {
		return "", err
	}
	return kubeconfigPath(o), nil
}

func kubeconfigPath(o owner) string {
	for _, path := range filepath.SplitList(os.Getenv("KUBECONFIG")) {
		if path != "" {
			return path
		}
	}
	return filepath.Join(o.home, ".kube", "config")
}

// MergeKubeconfig adds the cluster to the user's kubeconfig and makes it current.
func MergeKubeconfig(cluster string, a Access) (path string, err error) {
	return changeKubeconfig("", func(c *clientcmdapi.Config) {
		name := ContextName(cluster)
		from := a.Kubeconfig(cluster)
		c.Clusters[name], c.AuthInfos[name] = from.Clusters[name], from.AuthInfos[name]
		if have := c.Contexts[name]; have != nil {
			from.Contexts[name].Namespace = have.Namespace // the user's choice stays
		}
		c.Contexts[name] = from.Contexts[name]
		c.CurrentContext = name
	})
}

// RemoveKubeconfig takes the cluster out of the kubeconfig at path again; empty:
// the user's.
func RemoveKubeconfig(cluster, path string) error {
	_, err := changeKubeconfig(path, func(c *clientcmdapi.Config) {
		name := ContextName(cluster)
		delete(c.Clusters, name)
		delete(c.AuthInfos, name)
		delete(c.Contexts, name)
		if c.CurrentContext == name {
			c.CurrentContext = ""
		}
	})
	return err
}

// changeKubeconfig reads the file at path (empty: the user's), changes it, and
// writes it. It belongs to the user afterwards, also under sudo.
func changeKubeconfig(path string, change func(*clientcmdapi.Config)) (_ string, err error) {
	o, err := kubeconfigOwner()
	if err != nil {
		return "", err
	}
	if path == "" {
		path = kubeconfigPath(o)
	}
	before, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	c, err := clientcmd.Load(before)
	if err != nil {
		return "", fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	change(c)
	if missing && len(c.Contexts) == 0 {
		return path, nil
	}
	after, err := clientcmd.Write(*c)
	if err != nil {
		return "", fmt.Errorf("encode kubeconfig: %w", err)
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return "", fmt.Errorf("make folder of kubeconfig: %w", err)
		}
		if err := give(dir, o); err != nil {
			return "", err
		}
	}
	// A kubeconfig may be a link to where the user really keeps it.
	target := path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		target = real
	}
	if err := writeWhole(target, after, 0o600); err != nil {
		return "", err
	}
	return path, give(target, o)
}

func give(path string, o owner) error {
	if o.uid < 0 {
		return nil
	}
	if err := os.Chown(path, o.uid, o.gid); err != nil {
		return fmt.Errorf("give %s to its user: %w", path, err)
	}
	return nil
}

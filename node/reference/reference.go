// Package reference keeps the config maps and secrets that this node's pods name,
// and no others: a node may not see more. Each is followed from the moment when a
// pod names it until no pod does; trust bundles, which anyone may see, all together
// while a pod projects one. Packages pod, volume and image read through it.
package reference

import (
	"context"
	"errors"
	"maps"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// Config is what a Keeper works with.
type Config struct {
	Client client.Client
	// Changed is called when an object of the namespace changed after it was first
	// read, with "" for trust bundles; nil: nobody wants to know. It must not block.
	Changed func(namespace string)
	// OnDemand: objects are read when they are asked for, and not followed. For
	// simulated nodes, of which there are too many to follow each on its own.
	OnDemand bool
}

// Keeper is the set of objects at hand.
type Keeper struct {
	c   Config
	ctx context.Context

	mu      sync.Mutex
	objects map[key]*object
	pods    map[types.UID]map[key]bool
	wg      sync.WaitGroup
}

// key is what is followed: one object, or without a name all of the resource.
type key struct {
	resource        *api.Resource
	namespace, name string
}

// bundles is the key of all trust bundles.
func bundles() key { return key{resource: api.For[*certificatesv1.ClusterTrustBundle]()} }

// object is one followed object. obj is nil while it does not exist.
type object struct {
	refs   int
	cancel context.CancelFunc
	known  chan struct{} // closed once obj is valid
	once   sync.Once
	obj    api.Object            // guarded by Keeper.mu
	all    map[string]api.Object // by name, of a key without a name; guarded by Keeper.mu
}

// New makes a Keeper. It follows until ctx ends; Wait waits for that.
func New(ctx context.Context, c Config) *Keeper {
	return &Keeper{c: c, ctx: ctx, objects: map[key]*object{}, pods: map[types.UID]map[key]bool{}}
}

// Wait returns when all following has ended, after New's context has.
func (k *Keeper) Wait() { k.wg.Wait() }

// ConfigMap returns a config map that a held pod names.
func (k *Keeper) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := k.get(ctx, key{api.For[*corev1.ConfigMap](), namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret returns a secret that a held pod names.
func (k *Keeper) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := k.get(ctx, key{api.For[*corev1.Secret](), namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

// TrustBundles returns all trust bundles; a held pod projects some of them.
func (k *Keeper) TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	k.mu.Lock()
	o := k.objects[bundles()]
	k.mu.Unlock()
	if o == nil {
		return nil, errors.New("trust bundles are not followed: no pod that is held projects one")
	}
	select {
	case <-o.known:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-k.ctx.Done():
		return nil, k.ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*certificatesv1.ClusterTrustBundle
	for _, obj := range o.all {
		all = append(all, obj.(*certificatesv1.ClusterTrustBundle))
	}
	return all, nil
}

func (k *Keeper) get(ctx context.Context, at key) (api.Object, error) {
	k.mu.Lock()
	o := k.objects[at]
	k.mu.Unlock()
	if o == nil {
		return k.c.Client.Get(ctx, at.resource, at.namespace, at.name)
	}
	select {
	case <-o.known:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-k.ctx.Done():
		return nil, k.ctx.Err()
	}
	k.mu.Lock()
	obj := o.obj
	k.mu.Unlock()
	if obj == nil {
		// It may have been made a moment ago: the feed lags, a read does not.
		return k.c.Client.Get(ctx, at.resource, at.namespace, at.name)
	}
	return obj, nil
}

// Hold follows what the pod names. It is called again when the pod changed.
func (k *Keeper) Hold(p *corev1.Pod) {
	if k.c.OnDemand {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := named(p)
	before := k.pods[p.UID]
	if maps.Equal(now, before) {
		return
	}
	for at := range now {
		if !before[at] {
			k.holdLocked(at)
		}
	}
	for at := range before {
		if !now[at] {
			k.dropLocked(at)
		}
	}
	k.pods[p.UID] = now
}

// Release lets go of what the pod named.
func (k *Keeper) Release(p *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for at := range k.pods[p.UID] {
		k.dropLocked(at)
	}
	delete(k.pods, p.UID)
}

func (k *Keeper) holdLocked(at key) {
	o := k.objects[at]
	if o == nil {
		ctx, cancel := context.WithCancel(k.ctx)
		o = &object{cancel: cancel, known: make(chan struct{}), all: map[string]api.Object{}}
		k.objects[at] = o
		source := client.Source{Resource: at.resource, Namespace: at.namespace}
		if at.name != "" {
			source.Fields = fields.OneTermEqualSelector("metadata.name", at.name)
		}
		feed := k.c.Client.Follow(ctx, source)
		k.wg.Add(1)
		go func() {
			defer k.wg.Done()
			k.follow(at, o, feed)
		}()
	}
	o.refs++
}

func (k *Keeper) dropLocked(at key) {
	o := k.objects[at]
	if o == nil {
		return
	}
	if o.refs--; o.refs == 0 {
		o.cancel()
		delete(k.objects, at)
	}
}

func (k *Keeper) follow(at key, o *object, feed *client.Feed) {
	for batch := range feed.C {
		k.mu.Lock()
		for _, c := range batch.Changes {
			o.obj = c.New
			if o.all[c.Object().GetName()] = c.New; c.New == nil {
				delete(o.all, c.Object().GetName())
			}
		}
		k.mu.Unlock()
		first := false
		o.once.Do(func() { close(o.known); first = true })
		if !first && len(batch.Changes) > 0 && k.c.Changed != nil {
			k.c.Changed(at.namespace)
		}
	}
}

// named is what a pod names anywhere.
func named(p *corev1.Pod) map[key]bool {
	out := map[key]bool{}
	cm := func(name string) { out[key{api.For[*corev1.ConfigMap](), p.Namespace, name}] = true }
	secret := func(name string) { out[key{api.For[*corev1.Secret](), p.Namespace, name}] = true }
	env := func(from []corev1.EnvFromSource, vars []corev1.EnvVar) {
		for _, f := range from {
			if f.ConfigMapRef != nil {
				cm(f.ConfigMapRef.Name)
			}
			if f.SecretRef != nil {
				secret(f.SecretRef.Name)
			}
		}
		for _, v := range vars {
			if v.ValueFrom != nil && v.ValueFrom.ConfigMapKeyRef != nil {
				cm(v.ValueFrom.ConfigMapKeyRef.Name)
			}
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
				secret(v.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for _, s := range p.Spec.ImagePullSecrets {
		secret(s.Name)
	}
	for _, c := range p.Spec.InitContainers {
		env(c.EnvFrom, c.Env)
	}
	for _, c := range p.Spec.Containers {
		env(c.EnvFrom, c.Env)
	}
	for _, c := range p.Spec.EphemeralContainers {
		env(c.EnvFrom, c.Env)
	}
	for _, v := range p.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			cm(v.ConfigMap.Name)
		case v.Secret != nil:
			secret(v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					cm(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					secret(s.Secret.Name)
				}
				if s.ClusterTrustBundle != nil {
					out[bundles()] = true
				}
			}
		}
	}
	delete(out, key{api.For[*corev1.Secret](), p.Namespace, ""})
	delete(out, key{api.For[*corev1.ConfigMap](), p.Namespace, ""})
	return out
}

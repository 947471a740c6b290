package apiserver

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"skiff/api"
	"skiff/client"
	"skiff/store"
)

// A feed that is read at random moments, often too late for the history, always
// leads from nothing to what a list of its selection shows, and each change
// begins where the one before it ended.
func TestFeedLeadsToTheList(t *testing.T) {
	secrets := api.For[*corev1.Secret]()
	rapid.Check(t, func(rt *rapid.T) {
		s := newReading(t, rapid.SampledFrom([]int64{1, 2000, 0}).Draw(rt, "history"))
		defer s.end()
		source := client.Source{Resource: configMaps, Namespace: rapid.SampledFrom([]string{"", "n"}).Draw(rt, "namespace")}
		if rapid.Bool().Draw(rt, "by label") {
			source.Labels = labels.SelectorFromSet(labels.Set{"app": "web"})
		}
		if rapid.Bool().Draw(rt, "by field") {
			source.Fields = fields.ParseSelectorOrDie("metadata.name!=b")
		}
		uid := 0
		write := func(rt *rapid.T) {
			cm := labelled(rapid.SampledFrom([]string{"n", "m"}).Draw(rt, "in"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name"),
				"app", rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "app"))
			old, err := s.currentStored(s.ctx, configMaps, cm.Namespace, cm.Name)
			switch {
			case err != nil:
				uid++
				cm.UID = types.UID(rv(int64(uid)))
			case rapid.IntRange(0, 2).Draw(rt, "delete") == 0:
				if _, err := s.remove(s.ctx, configMaps, old, store.Condition{Revision: store.Any}); err != nil {
					rt.Fatal(err)
				}
				return
			default:
				cm.UID = old.UID()
			}
			s.write(rt, cm, store.Any)
		}
		for range rapid.IntRange(0, 5).Draw(rt, "before") {
			write(rt)
		}
		feed := s.Client(admin, "feed").Follow(s.ctx, source, client.Source{Resource: secrets})
		known := map[string]api.Object{}
		var at int64
		apply := func(batch client.Batch) {
			if batch.Revision < at {
				rt.Fatalf("a batch of revision %d after one of %d", batch.Revision, at)
			}
			at = batch.Revision
			for _, c := range batch.Changes {
				key := c.Resource.Key(c.Object().GetNamespace(), c.Object().GetName())
				old := known[key]
				if (old == nil) != (c.Old == nil) || old != nil && (old.GetResourceVersion() != c.Old.GetResourceVersion() || c.New != nil && c.New.GetUID() != old.GetUID()) {
					rt.Fatalf("a change of %s from %v to %v, but known is %v", key, c.Old, c.New, old)
				}
				if known[key] = c.New; c.New == nil {
					delete(known, key)
				}
			}
		}
		for range rapid.IntRange(0, 8).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 40).Draw(rt, "writes") {
				write(rt)
			}
			if !rapid.Bool().Draw(rt, "read") {
				continue
			}
			select {
			case batch := <-feed.C:
				apply(batch)
			default: // it has nothing to tell, or not yet
			}
		}
		// The last write is one of which every selection hears.
		last, err := s.put(s.ctx, secrets, &corev1.Secret{ObjectMeta: labelled("n", "last").ObjectMeta}, store.Condition{})
		if err != nil {
			rt.Fatal(err)
		}
		for at < last.Revision() {
			apply(<-feed.C)
		}
		objs, _, err := s.Client(admin, "list").List(s.ctx, configMaps, client.ListOptions{Namespace: source.Namespace, Labels: source.Labels, Fields: source.Fields})
		if err != nil {
			rt.Fatal(err)
		}
		want, got := map[string]string{}, map[string]string{}
		for _, obj := range objs {
			want[configMaps.Key(obj.GetNamespace(), obj.GetName())] = obj.GetResourceVersion()
		}
		for key, obj := range known {
			if _, ok := obj.(*corev1.ConfigMap); ok {
				got[key] = obj.GetResourceVersion()
			}
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("the feed led to %v, the list shows %v", got, want)
		}
	})
}

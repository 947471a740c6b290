package apiserver

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"skiff/api"
)

// groupOrder is the order in which groups are shown, which clients take for
// their priority: a short name that two groups have means the first one's.
// Groups that are not here come after, by name.
var groupOrder = []string{
	"", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
	"autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
	"storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
	"coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
	"storagemigration.k8s.io",
}

// group is a group as discovery shows it: its versions, the preferred one first.
type group struct {
	name     string
	versions []groupVersion
}

type groupVersion struct {
	version string
	rows    []*api.Resource // by name
}

// groupsOf sorts rows for discovery.
func groupsOf(rows []*api.Resource) []group {
	byGroup := map[string]map[string][]*api.Resource{}
	for _, r := range rows {
		if byGroup[r.Group] == nil {
			byGroup[r.Group] = map[string][]*api.Resource{}
		}
		byGroup[r.Group][r.Version] = append(byGroup[r.Group][r.Version], r)
	}
	var out []group
	for name, versions := range byGroup {
		g := group{name: name}
		for v, rows := range versions {
			slices.SortFunc(rows, func(a, b *api.Resource) int { return strings.Compare(a.Name, b.Name) })
			g.versions = append(g.versions, groupVersion{v, rows})
		}
		slices.SortFunc(g.versions, func(a, b groupVersion) int { return version.CompareKubeAwareVersionStrings(b.version, a.version) })
		out = append(out, g)
	}
	rank := func(g group) int {
		if i := slices.Index(groupOrder, g.name); i >= 0 {
			return i
		}
		return len(groupOrder)
	}
	slices.SortFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.name, b.name))
	})
	return out
}

// subresource is one of a row's, as discovery shows it.
type subresource struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

// subresourcesOf lists a row's subresources by name: its actions, the parts of
// the object that are written apart, and scale.
func subresourcesOf(r *api.Resource) []subresource {
	var out []subresource
	for _, a := range r.Actions {
		out = append(out, subresource{a.Name, a.Kind, a.Verbs})
	}
	for name := range r.Kind.Subs {
		verbs := []string{"get", "patch", "update"}
		if name == "finalize" {
			verbs = []string{"update"}
		}
		out = append(out, subresource{name, r.GVK(), verbs})
	}
	if r.Kind.Scale != nil {
		out = append(out, subresource{"scale", schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, []string{"get", "patch", "update"}})
	}
	slices.SortFunc(out, func(a, b subresource) int { return strings.Compare(a.name, b.name) })
	return out
}

// subresourceVerbs returns what may be done with a subresource; false: the row
// has no such subresource.
func subresourceVerbs(r *api.Resource, name string) ([]string, bool) {
	for _, a := range r.Actions {
		if a.Name == name {
			return a.Verbs, true
		}
	}
	if _, ok := r.Kind.Subs[name]; ok {
		if name == "finalize" {
			return []string{"update"}, true
		}
		return []string{"get", "patch", "update"}, true
	}
	if name == "scale" && r.Kind.Scale != nil {
		return []string{"get", "patch", "update"}, true
	}
	return nil, false
}

// resourceList is /api/v1 or /apis/<group>/<version>.
func resourceList(name string, gv groupVersion) *metav1.APIResourceList {
	list := &metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList"},
		GroupVersion: schema.GroupVersion{Group: name, Version: gv.version}.String(),
	}
	if name != "" {
		list.APIVersion = "v1"
	}
	for _, r := range gv.rows {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: r.Name, SingularName: r.Singular, Namespaced: r.Namespaced, Kind: r.KindName,
			ShortNames: r.Short, Categories: r.Categories, Verbs: verbsOf(r), StorageVersionHash: storageHash(r),
		})
		for _, sub := range subresourcesOf(r) {
			entry := metav1.APIResource{Name: r.Name + "/" + sub.name, Namespaced: r.Namespaced, Kind: sub.kind.Kind, Verbs: sub.verbs}
			if sub.kind.Group != r.Group || sub.kind.Version != r.Version {
				entry.Group, entry.Version = sub.kind.Group, sub.kind.Version
			}
			list.APIResources = append(list.APIResources, entry)
		}
	}
	return list
}

var everyVerb = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

func verbsOf(r *api.Resource) []string {
	if r.Custom != nil && r.Custom.ShownVerbs != nil {
		return r.Custom.ShownVerbs
	}
	if r.Verbs != nil {
		return r.Verbs
	}
	return everyVerb
}

// storageHash changes when the version changes in which objects are stored.
func storageHash(r *api.Resource) string {
	gvr := r.GVR()
	if r.View != nil {
		gvr = r.View.Of
	} else if r.Prefix == "" {
		return ""
	} else if r.Custom != nil {
		gvr.Version = r.Custom.StoredVersion
	}
	sum := sha256.Sum256([]byte(gvr.Group + "/" + gvr.Version + "/" + r.KindName))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func (g group) discovery() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: schema.GroupVersion{Group: g.name, Version: v.version}.String(), Version: v.version})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// groupList is /apis.
func groupList(groups []group) *metav1.APIGroupList {
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range groups {
		if g.name != "" {
			list.Groups = append(list.Groups, g.discovery())
		}
	}
	return list
}

// aggregated is all of /api (core) or all of /apis in one document (KEP-3352); stale
// versions were found once, and do not answer now.
func aggregated(groups []group, core bool, stale map[schema.GroupVersion]bool) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"},
		Items:    []apidiscoveryv2.APIGroupDiscovery{},
	}
	for _, g := range groups {
		if (g.name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			shown := aggregatedVersion(v)
			if stale[schema.GroupVersion{Group: g.name, Version: v.version}] {
				shown.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
			}
			item.Versions = append(item.Versions, shown)
		}
		list.Items = append(list.Items, item)
	}
	return list
}

func aggregatedVersion(gv groupVersion) apidiscoveryv2.APIVersionDiscovery {
	out := apidiscoveryv2.APIVersionDiscovery{Version: gv.version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, r := range gv.rows {
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		entry := apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, SingularResource: r.Singular, Scope: scope, Verbs: verbsOf(r),
			ShortNames: r.Short, Categories: r.Categories, ResponseKind: kindIn(r, r.GVK()),
		}
		for _, sub := range subresourcesOf(r) {
			entry.Subresources = append(entry.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub.name, ResponseKind: kindIn(r, sub.kind), Verbs: sub.verbs})
		}
		out.Resources = append(out.Resources, entry)
	}
	return out
}

// kindIn names a kind; the group and version that enclose it are left out.
func kindIn(r *api.Resource, kind schema.GroupVersionKind) *metav1.GroupVersionKind {
	out := &metav1.GroupVersionKind{Kind: kind.Kind}
	if kind.Group != r.Group || kind.Version != r.Version {
		out.Group, out.Version = kind.Group, kind.Version
	}
	return out
}

// asBeta is the same document for clients that know only v2beta1, whose types
// are the same under another name.
func asBeta(list *apidiscoveryv2.APIGroupDiscoveryList) *apidiscoveryv2beta1.APIGroupDiscoveryList {
	out := &apidiscoveryv2beta1.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2beta1"},
		Items:    []apidiscoveryv2beta1.APIGroupDiscovery{},
	}
	for _, g := range list.Items {
		item := apidiscoveryv2beta1.APIGroupDiscovery{ObjectMeta: g.ObjectMeta}
		for _, v := range g.Versions {
			beta := apidiscoveryv2beta1.APIVersionDiscovery{Version: v.Version, Freshness: apidiscoveryv2beta1.DiscoveryFreshness(v.Freshness)}
			for _, r := range v.Resources {
				entry := apidiscoveryv2beta1.APIResourceDiscovery{
					Resource: r.Resource, ResponseKind: r.ResponseKind, Scope: apidiscoveryv2beta1.ResourceScope(r.Scope),
					SingularResource: r.SingularResource, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
				}
				for _, s := range r.Subresources {
					entry.Subresources = append(entry.Subresources, apidiscoveryv2beta1.APISubresourceDiscovery{
						Subresource: s.Subresource, ResponseKind: s.ResponseKind, Verbs: s.Verbs})
				}
				beta.Resources = append(beta.Resources, entry)
			}
			item.Versions = append(item.Versions, beta)
		}
		out.Items = append(out.Items, item)
	}
	return out
}

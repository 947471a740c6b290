package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

// List is a part of a resource, all of one revision.
type List struct {
	Resource  *api.Resource
	Entries   []*cache.Entry // as Resource's version shows them, none of them broken; nil: the list is long
	Revision  int64
	Continue  string // token for the next part; "": this was the last
	Remaining *int64 // objects after this part; nil: not known

	// A long list is not collected: whoever reads it slowly would keep it. It is
	// gone through anew each time, in a state that does not change.
	long  iter.Seq[*cache.Entry]
	count int
}

// longList is from how many objects on a list is long.
const longList = 4096

// All iterates over the entries.
func (l *List) All() iter.Seq[*cache.Entry] {
	if l.long != nil {
		return l.long
	}
	return slices.Values(l.Entries)
}

// Len is how many entries there are.
func (l *List) Len() int {
	if l.long != nil {
		return l.count
	}
	return len(l.Entries)
}

// list answers GET of a collection.
func (s *Server) list(ctx context.Context, r *Request) (*Result, error) {
	t := s.table(r.Resource)
	if t == nil {
		return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), "list")
	}
	selected, err := parseSelection(r, t)
	if err != nil {
		return nil, err
	}
	p, err := s.part(ctx, &selected, r.ListOptions)
	if err != nil {
		return nil, err
	}
	list, err := p.collect()
	if err != nil {
		return nil, err
	}
	return &Result{List: list}, nil
}

// part is the stretch of a table that one list reads.
type part struct {
	*selection
	from     place
	limit    int64 // 0: none
	revision int64
	entries  iter.Seq[*cache.Entry] // in order, from on; selectors not applied
	decoded  bool                   // entries are decoded anew each time
	left     int64                  // how many objects there are from on; 0: nobody knows
}

// part finds the state and the place that the options ask for. Which state that
// is: https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
func (s *Server) part(ctx context.Context, selected *selection, o metav1.ListOptions) (*part, error) {
	p := &part{selection: selected, limit: o.Limit}
	if o.Continue != "" {
		return p, s.resume(ctx, p, o)
	}
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if o.ResourceVersion == "0" {
		p.limit = 0 // so it has always been
	}
	exact := o.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		o.ResourceVersionMatch == "" && o.Limit > 0 && revision > 0
	if exact {
		if err := s.notOlderThan(ctx, revision); err != nil {
			return nil, err
		}
		err := s.exactly(ctx, p, revision)
		if isTooOld(err) {
			return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
		}
		return p, err
	}
	if err := s.reach(ctx, o.ResourceVersion); err != nil {
		return nil, err
	}
	p.take(selected.table.Snapshot())
	return p, nil
}

// resume goes on where a continue token says.
func (s *Server) resume(ctx context.Context, p *part, o metav1.ListOptions) error {
	from, revision, err := decodeContinue(o.Continue, p.row, p.namespace)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
	}
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	p.from, p.left = from, leftBy(o.Continue)
	if revision < 0 { // the client has accepted an inconsistent list
		if err := s.fresh(ctx); err != nil {
			return err
		}
		p.left = 0
		p.take(p.table.Snapshot())
		return nil
	}
	if err := s.notOlderThan(ctx, revision); err != nil {
		return err
	}
	if err = s.uncompacted(ctx, revision); err == nil {
		err = s.exactly(ctx, p, revision)
	}
	if isTooOld(err) {
		return continueExpired(encodeContinue(-1, p.relative(from)))
	}
	return err
}

// uncompacted asks the store whether it still knows a revision. Tokens end with it,
// though the cache may remember for longer: no client is to rely on that.
func (s *Server) uncompacted(ctx context.Context, revision int64) error {
	_, err := s.store.List(ctx, nowhere, "", 1, revision)
	if err != nil && !isTooOld(err) {
		return readError(nil, "list", err)
	}
	return err
}

// nowhere is a prefix that no key has.
const nowhere = "/registry/\x00/"

// exactly reads the state at a revision from the cache's history, or if that is
// too short, from the store's.
func (s *Server) exactly(ctx context.Context, p *part, revision int64) error {
	snapshot, err := p.table.At(revision)
	if err == nil {
		p.take(snapshot)
		return nil
	}
	if !errors.Is(err, cache.ErrTooOld) {
		return apierrors.NewInternalError(err)
	}
	prefix := p.table.Resource().Key(p.namespace, "")
	from := ""
	if p.from != (place{}) {
		from = p.table.Resource().Key(p.from.namespace, p.from.name)
	}
	// The rest of the range is read at once: limits count selected objects.
	page, err := s.store.List(ctx, prefix, from, 0, revision)
	if errors.Is(err, store.ErrCompacted) {
		return err
	}
	if err != nil {
		return readError(p.row, "list", err)
	}
	p.revision, p.decoded = revision, true
	p.entries = func(yield func(*cache.Entry) bool) {
		for _, e := range page.Entries {
			if !yield(p.table.Read(e)) {
				return
			}
		}
	}
	return nil
}

func isTooOld(err error) bool { return errors.Is(err, store.ErrCompacted) }

// take reads the part from a state of the cache.
func (p *part) take(snapshot cache.Snapshot) {
	p.revision = snapshot.Revision
	p.entries = p.selection.entries(snapshot, p.from)
	if p.namespace == "" && p.from == (place{}) {
		p.left = int64(snapshot.Len())
	}
	if p.name != "" {
		p.limit = 0
	}
}

// showBatch is how many custom objects are converted at a time.
const showBatch = 500

// collect makes the list.
func (p *part) collect() (*List, error) {
	list := &List{Resource: p.row, Revision: p.revision}
	var last *cache.Entry
	var remaining int64
	batch, enough := showBatch, func() bool { return p.limit > 0 && int64(len(list.Entries)) >= p.limit }
	if p.limit > 0 {
		batch = int(min(showBatch, p.limit))
	}
	for e := range p.showing(p.entries, batch, enough) {
		if p.limit > 0 && int64(len(list.Entries)) >= p.limit {
			remaining++
			if !p.all() {
				break // it is enough to know that there is more
			}
			if known := p.left - int64(len(list.Entries)); known > 0 {
				remaining = known
				break
			}
			continue
		}
		last = e
		picked := p.pick(e)
		if picked == nil {
			continue
		}
		if _, err := sound(picked); err != nil {
			return nil, err
		}
		list.count++
		if list.long != nil {
			continue
		}
		if list.Entries = append(list.Entries, picked); list.count > longList && p.limit == 0 && p.row.Custom == nil && !p.decoded {
			list.Entries, list.long = nil, p.picked()
		}
	}
	if remaining > 0 {
		next := continueToken{Version: continueVersion, Revision: p.revision, Start: p.relative(place{last.Namespace(), last.Name() + "\x00"})}
		if p.all() {
			list.Remaining, next.Left = &remaining, remaining
		}
		list.Continue = next.encode()
	}
	return list, nil
}

// picked iterates over what is selected.
func (p *part) picked() iter.Seq[*cache.Entry] {
	entries := p.entries
	return func(yield func(*cache.Entry) bool) {
		for e := range entries {
			if picked := p.pick(e); picked != nil && !yield(picked) {
				return
			}
		}
	}
}

// relative returns a place as continue tokens name it: without the namespace, if
// the list is of one.
func (p *part) relative(at place) string {
	if p.row.Namespaced && p.namespace == "" {
		return at.namespace + "/" + at.name
	}
	return at.name
}

// continueToken has the form that Kubernetes gives it, so that a list can go on
// at another server.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"` // -1: the newest
	Start    string `json:"start"`
	// Left is how many objects there are from Start on; 0: nobody knows. Only we
	// write it: counting them anew for each part would make every part cost as much
	// as the whole.
	Left int64 `json:"left,omitempty"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(revision int64, start string) string {
	return continueToken{Version: continueVersion, Revision: revision, Start: start}.encode()
}

func (c continueToken) encode() string {
	token, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers and strings
	}
	return base64.RawURLEncoding.EncodeToString(token)
}

// leftBy is how many objects a valid token says there are.
func leftBy(token string) int64 {
	var c continueToken
	if data, err := base64.RawURLEncoding.DecodeString(token); err != nil || json.Unmarshal(data, &c) != nil {
		return 0
	}
	return c.Left
}

var errContinue = errors.New("continue key is not valid")

func decodeContinue(token string, row *api.Resource, namespace string) (place, int64, error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return place{}, 0, fmt.Errorf("%w: %w", errContinue, err)
	}
	var c continueToken
	if err := json.Unmarshal(data, &c); err != nil {
		return place{}, 0, fmt.Errorf("%w: %w", errContinue, err)
	}
	switch {
	case c.Version != continueVersion:
		return place{}, 0, fmt.Errorf("%w: server does not recognize this encoded version %v", errContinue, c.Version)
	case c.Revision == 0:
		return place{}, 0, fmt.Errorf("%w: incorrect encoded start resourceVersion (version %s)", errContinue, continueVersion)
	case c.Start == "":
		return place{}, 0, fmt.Errorf("%w: encoded start key empty (version %s)", errContinue, continueVersion)
	}
	start := strings.TrimPrefix(c.Start, "/")
	if path.Clean("/"+start) != "/"+start { // it must not climb out of its range
		return place{}, 0, fmt.Errorf("%w: %v", errContinue, c.Start)
	}
	if row.Namespaced && namespace == "" {
		ns, name, _ := strings.Cut(start, "/")
		return place{ns, name}, c.Revision, nil
	}
	return place{namespace, start}, c.Revision, nil
}

// continueExpired is the answer to a token whose state is forgotten; the
// client may go on with another token, whose rest is of another state.
func continueExpired(token string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = token
	return err
}

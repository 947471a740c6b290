package oracle

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"skiff/api"
)

// A dice changes objects at random. What it does follows from its seed alone.
type dice struct {
	*rand.Rand
	fill   *randfill.Filler
	values map[reflect.Type][]reflect.Value // of the seeds of all kinds, to be put where the type fits; never changed
	words  []string                         // of the seeds of this kind
}

// words that some rule somewhere is about.
var words = []string{"", "a", "b", "x", "Bad_Name", "-x", "x-", "a b", "a\nb", "é", "a..b", "..", ".", "../x", "/abs", "/a/b", "a/b", "a/b/c", "a:b", "a\\b", "$(A)",
	"0", "1", "5", "-1", "-5", "1.5", "08", "80", "100m", "1Gi", "true", "50%", "101%", "-1%", "*", "e30=",
	"10.0.0.1", "010.0.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "fd00::1", "::1", "::", "fe80::1", "ff02::1", "::ffff:1.2.3.4", "FD00::0001",
	"10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/24", "fd00::/64", "fd00::/8", "0.0.0.0/0", "None",
	"foo.example.com", "*.example.com", "FOO.example.com", "example.com/foo", "example.com/Foo", "kubernetes.io/x", "k8s.io/foo", "a.kubernetes.io/b", "svc.example.com/signer",
	"cpu", "memory", "storage", "pods", "ephemeral-storage", "hugepages-2Mi", "example.com/gpu", "requests.cpu", "limits.memory", "requests.storage", "requests.example.com/gpu", "count/pods", "services", "services.nodeports",
	"linux", "windows", "In", "Exists", "NotIn", "DoesNotExist", "Gt", "NoExecute", "NoSchedule", "Always", "Never", "OnFailure", "Cluster", "Local", "RuntimeDefault", "Localhost", "Unconfined", "unconfined",
	"metadata.name", "metadata.labels", "metadata.labels['a']", "metadata.annotations['a/b/c']", "status.podIP", "spec.nodeName", "limits.cpu", "requests.memory", "limits.ephemeral-storage", "requests.hugepages-2Mi",
	"kubernetes.io/hostname", "topology.kubernetes.io/zone", "node-role.kubernetes.io/x", "zone",
	"*/5 * * * *", "TZ=UTC * * * * *", "@daily", "Europe/Berlin", "Local", "UTC", "Nowhere/Land", "apps", "v1", "v1beta1", "core", "https", "http", "Pod", "Deployment", "Service", "ServiceAccount", "User", "Group", "ClusterRole", "Role", "Job",
	"rbac.authorization.k8s.io", "system:foo", "system:masters", "system:node-critical", "exempt", "catch-all", "global-default", "kubernetes.io/kube-apiserver-client", "kubernetes.io/legacy-unknown", "https://x.y/z", "http://x", "https://u:p@x.y/z?q#f",
	"device.driver == 'x'", "object.x", "true && (", "request.operation == 'CREATE'", "1 + 1", "self == oldSelf", "variables.x > 1", "TCP", "UDP", "SCTP", "sctp", "IPv4", "IPv6", "SingleStack", "PreferDualStack", "iqn.2015-02.example.com:test", "r+", "[", "a-zA-Z0-9._-",
	"docker.io/library/x:v1", " x", "x ", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("b", 253), strings.Repeat("b", 254), strings.Repeat("c/", 600), strings.Repeat("d.", 70) + "d"}

var numbers = []int64{0, 0, 1, 1, -1, 2, 3, 5, 10, 30, 53, 80, 99, 100, 101, 443, 511, 512, 600, 601, 1000, 3600, 10000, 32767, 65535, 65536, 70000, 86400, 1000000000, 1000000001, 2147483647, -2147483648, 4294967296, -7516192768}

var quantities = parsed("0", "1", "2", "-1", "100m", "1Gi", "2Mi", "5.5", "1n", "10", "1e3", "9E")

func parsed(texts ...string) (out []resource.Quantity) {
	for _, text := range texts {
		out = append(out, resource.MustParse(text))
	}
	return out
}

// annotationKeys are those that a rule or a warning is about.
var annotationKeys = []string{"a", "a/b", "Bad_/x", "scheduler.alpha.kubernetes.io/preferAvoidPods", "scheduler.alpha.kubernetes.io/tolerations", "kubernetes.io/config.mirror",
	"controller.kubernetes.io/pod-deletion-cost", "container.apparmor.security.beta.kubernetes.io/c", "container.apparmor.security.beta.kubernetes.io/nobody", "seccomp.security.alpha.kubernetes.io/pod",
	"container.seccomp.security.alpha.kubernetes.io/c", "volume.beta.kubernetes.io/storage-class", "volume.beta.kubernetes.io/mount-options", "service.beta.kubernetes.io/load-balancer-source-ranges",
	"service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints", "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid", "deprecated.daemonset.template.generation", "kubernetes.io/ingress.class",
	"endpoints.kubernetes.io/over-capacity", "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class", "api-approved.kubernetes.io", "batch.kubernetes.io/cronjob-scheduled-timestamp", "kubectl.kubernetes.io/default-container", "pod.kubernetes.io/mirror"}

// newDice makes the dice for one kind.
func newDice(seed int64, known *knowledge, kindWords []string) *dice {
	d := &dice{Rand: rand.New(rand.NewSource(seed)), values: known.values, words: kindWords}
	d.fill = randfill.NewWithSeed(seed).NilChance(0.6).NumElements(0, 2).MaxDepth(8).RandSource(rand.NewSource(seed+1)).Funcs(
		func(*metav1.TypeMeta, randfill.Continue) {},
		func(m *metav1.ObjectMeta, c randfill.Continue) { m.Labels = map[string]string{d.word(): d.word()} },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(1700000000+1000*c.Int63n(4), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(1700000000+1000*c.Int63n(4), 0))
		},
		func(t *metav1.Duration, c randfill.Continue) {
			t.Duration = time.Duration(c.Intn(8)-2) * 30 * time.Second
		},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = pick(d, quantities).DeepCopy()
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(int32(pick(d, numbers))); c.Bool() {
				*v = intstr.FromString(pick(d, []string{"50%", "0%", "100%", "101%", "-1%", "x", "5", "", "http", "50 %"}))
			}
		},
		func(e *runtime.RawExtension, c randfill.Continue) {
			e.Raw = []byte(pick(d, []string{"{}", "[]", `{"a":1}`, `{"kind":"X","apiVersion":"v1"}`, "1"}))
		},
		func(j *apiextensionsv1.JSON, c randfill.Continue) {
			j.Raw = []byte(pick(d, []string{"{}", `"x"`, "1", "null", "[1]"}))
		},
		func(f *metav1.FieldsV1, c randfill.Continue) { f.Raw = []byte(`{"f:a":{}}`) },
		func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
			s.Type = pick(d, []string{"", "object", "string", "integer", "array", "boolean", "x"})
			s.Format, s.Nullable, s.Pattern = pick(d, []string{"", "date", "int64"}), c.Intn(5) == 0, pick(d, []string{"", "", "a+", "["})
		},
		func(b *[]byte, c randfill.Continue) { *b = []byte(pick(d, []string{"", "x", "{}", "abc", "\xff"})) },
		func(s *string, c randfill.Continue) { *s = d.word() },
		func(n *int32, c randfill.Continue) { *n = int32(pick(d, numbers)) },
		func(n *int64, c randfill.Continue) { *n = pick(d, numbers) },
		func(f *float64, c randfill.Continue) { *f = float64(pick(d, numbers)) },
	)
	for _, t := range known.types {
		d.fill.Funcs(d.filler(t, known.constants[t.PkgPath()+"."+t.Name()]))
	}
	return d
}

// filler makes a func(*T, randfill.Continue) for a named string type: mostly one of its constants.
func (d *dice) filler(t reflect.Type, constants []string) any {
	signature := reflect.FuncOf([]reflect.Type{reflect.PointerTo(t), reflect.TypeFor[randfill.Continue]()}, nil, false)
	return reflect.MakeFunc(signature, func(args []reflect.Value) []reflect.Value {
		text := d.word()
		if len(constants) > 0 && d.Intn(6) > 0 {
			text = pick(d, constants)
		}
		args[0].Elem().SetString(text)
		return nil
	}).Interface()
}

func pick[T any](d *dice, list []T) T { return list[d.Intn(len(list))] }

func (d *dice) word() string {
	if len(d.words) > 0 && d.Intn(2) == 0 {
		return pick(d, d.words)
	}
	return pick(d, words)
}

// change makes one random change to obj.
func (d *dice) change(obj api.Object) {
	var places []func()
	v := reflect.ValueOf(obj).Elem()
	if d.Intn(8) == 0 {
		d.placesOfMeta(v.FieldByName("ObjectMeta").Addr().Interface().(*metav1.ObjectMeta), &places)
	} else {
		d.places(v, &places)
	}
	if len(places) > 0 {
		pick(d, places)()
	}
}

func (d *dice) placesOfMeta(m *metav1.ObjectMeta, out *[]func()) {
	set := func(m *map[string]string, keys []string) {
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[pick(d, keys)] = d.word()
	}
	*out = append(*out,
		func() { m.Name = d.word() },
		func() { m.GenerateName = d.word() },
		func() { set(&m.Labels, words) },
		func() { m.Labels = nil },
		func() { set(&m.Annotations, annotationKeys) },
		func() { set(&m.Annotations, annotationKeys) },
		func() { m.Finalizers = append(m.Finalizers, d.word()) },
		func() { m.Finalizers = nil },
		func() { d.fill.Fill(&m.OwnerReferences) },
		func() { m.Generation = pick(d, numbers) },
		func() { d.fill.Fill(&m.DeletionGracePeriodSeconds) },
		func() { m.ResourceVersion = pick(d, []string{"", m.ResourceVersion}) },
	)
	if m.DeletionTimestamp != nil {
		*out = append(*out, func() { m.DeletionTimestamp = nil }, func() { m.DeletionTimestamp.Time = time.Unix(1800000000, 0) })
	}
}

// places lists the changes that v's value can take.
func (d *dice) places(v reflect.Value, out *[]func()) {
	t := v.Type()
	again := func() { d.refill(v) }
	switch v.Addr().Interface().(type) {
	case *metav1.Time, *metav1.MicroTime, *metav1.Duration, *resource.Quantity, *intstr.IntOrString, *runtime.RawExtension, *[]byte, *apiextensionsv1.JSON:
		*out = append(*out, again)
		return
	case *metav1.TypeMeta, *metav1.ListMeta:
		return
	case *metav1.ObjectMeta: // of a template: the object's own is placesOfMeta's
		if depth := len(*out); depth > 0 {
			d.placesOfMeta(v.Addr().Interface().(*metav1.ObjectMeta), out)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).IsExported() {
				d.places(v.Field(i), out)
			}
		}
	case reflect.Pointer:
		*out = append(*out, again)
		if !v.IsNil() {
			*out = append(*out, v.SetZero)
			d.places(v.Elem(), out)
		}
	case reflect.Slice:
		*out = append(*out, func() { d.changeSlice(v) })
		for i := range v.Len() {
			d.places(v.Index(i), out)
		}
	case reflect.Map:
		*out = append(*out, func() { d.changeMap(v) })
	case reflect.Interface:
	default:
		*out = append(*out, again)
	}
}

// refill gives v a new value: one that another object has at such a place, a near one, or a random one.
func (d *dice) refill(v reflect.Value) {
	if have := d.values[v.Type()]; len(have) > 0 && v.Kind() != reflect.String && d.Intn(2) == 0 {
		v.Set(pick(d, have))
		return
	}
	switch k := v.Kind(); {
	case k == reflect.String && d.Intn(6) == 0:
		v.SetString(v.String() + pick(d, []string{"x", "-", "/", ".", "X", "0"}))
		return
	case (k == reflect.Int32 || k == reflect.Int64) && d.Intn(3) == 0:
		v.SetInt(v.Int() + pick(d, []int64{1, -1}))
		return
	case k == reflect.Bool:
		v.SetBool(!v.Bool())
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.refillOrFill(v.Elem())
		return
	}
	d.fill.Fill(v.Addr().Interface())
}

func (d *dice) refillOrFill(v reflect.Value) {
	if have := d.values[v.Type()]; len(have) > 0 && v.Kind() != reflect.String && d.Intn(2) == 0 {
		v.Set(pick(d, have))
		return
	}
	d.fill.Fill(v.Addr().Interface())
}

func (d *dice) changeSlice(v reflect.Value) {
	n := v.Len()
	switch what := d.Intn(7); {
	case what == 0:
		d.refill(v)
	case what == 1:
		v.SetZero()
	case what == 2 && n > 0: // one twice
		v.Set(reflect.Append(v.Slice3(0, n, n), v.Index(d.Intn(n))))
	case what == 3 && n > 0: // one gone
		i := d.Intn(n)
		v.Set(reflect.AppendSlice(v.Slice3(0, i, i), v.Slice(i+1, n)))
	case what == 4 && n > 1: // another order
		i := d.Intn(n - 1)
		a, b := reflect.ValueOf(v.Index(i).Interface()), reflect.ValueOf(v.Index(i+1).Interface())
		v.Index(i).Set(b)
		v.Index(i + 1).Set(a)
	default:
		e := reflect.New(v.Type().Elem()).Elem()
		d.refillOrFill(e)
		v.Set(reflect.Append(v.Slice3(0, n, n), e))
	}
}

func (d *dice) changeMap(v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
	switch what := d.Intn(5); {
	case what == 0:
		v.SetZero()
		return
	case what <= 2 && len(keys) > 0:
		k = keys[d.Intn(len(keys))]
		if what == 1 {
			v.SetMapIndex(k, reflect.Value{})
			return
		}
	default:
		d.fill.Fill(k.Addr().Interface())
	}
	d.refillOrFill(e)
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(k, e)
}

// knowledge is what the dice of all kinds share.
type knowledge struct {
	constants map[string][]string // of a named string type, by import path and name
	types     []reflect.Type      // the named string types
	values    map[reflect.Type][]reflect.Value
}

// learn reads upstream's constants from its source, and the seeds' values.
func learn(t testing.TB, rows []*api.Resource, seeds map[*api.Resource][]api.Object) *knowledge {
	k := &knowledge{constants: map[string][]string{}, values: map[reflect.Type][]reflect.Value{}}
	for _, module := range []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver"} {
		k.readConstants(t, module)
	}
	seen := map[reflect.Type]bool{}
	for _, row := range rows {
		k.readTypes(reflect.TypeOf(row.Kind.New()).Elem(), seen)
		for _, obj := range seeds[row] {
			k.readValues(reflect.ValueOf(obj).Elem())
		}
	}
	return k
}

func (k *knowledge) readTypes(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.String:
		if t != reflect.TypeFor[string]() {
			k.types = append(k.types, t)
		}
	case reflect.Struct:
		for i := range t.NumField() {
			k.readTypes(t.Field(i).Type, seen)
		}
	case reflect.Map:
		k.readTypes(t.Key(), seen)
		k.readTypes(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice:
		k.readTypes(t.Elem(), seen)
	}
}

func (k *knowledge) readValues(v reflect.Value) {
	if v.IsZero() {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		switch v.Interface().(type) {
		case resource.Quantity, metav1.Time, metav1.MicroTime, metav1.ObjectMeta:
			return
		}
		k.values[v.Type()] = append(k.values[v.Type()], v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				k.readValues(v.Field(i))
			}
		}
	case reflect.Pointer:
		k.readValues(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			k.readValues(v.Index(i))
		}
	}
}

func (k *knowledge) readConstants(t testing.TB, module string) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("find %s: %v", module, err)
	}
	root := strings.TrimSpace(string(out))
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "types.go" && entry.Name() != "well_known_labels.go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		folder, _ := filepath.Rel(root, filepath.Dir(path))
		for _, decl := range file.Decls {
			k.readConstantsOf(decl, module+"/"+folder)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read the constants of %s: %v", module, err)
	}
}

func (k *knowledge) readConstantsOf(decl ast.Decl, pkg string) {
	group, ok := decl.(*ast.GenDecl)
	if !ok || group.Tok != token.CONST {
		return
	}
	for _, spec := range group.Specs {
		value := spec.(*ast.ValueSpec)
		named, ok := value.Type.(*ast.Ident)
		if !ok {
			continue
		}
		for _, v := range value.Values {
			if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				k.constants[pkg+"."+named.Name] = append(k.constants[pkg+"."+named.Name], text)
			}
		}
	}
}

// wordsOf lists the strings in objects.
func wordsOf(objs []api.Object) (out []string) {
	seen := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch x := v.(type) {
		case string:
			if !seen[x] && len(x) < 100 {
				out = append(out, x)
			}
			seen[x] = true
		case []any:
			for _, e := range x {
				walk(e)
			}
		case map[string]any:
			for _, e := range x {
				walk(e)
			}
		}
	}
	for _, obj := range objs {
		walk(tree(obj))
	}
	slices.Sort(out)
	return out
}

// tree is an object as JSON knows it.
func tree(obj any) (out map[string]any) {
	text, err := json.Marshal(obj)
	if err != nil {
		return nil
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil
	}
	return out
}

func environment(name string, fallback int64) int64 {
	n, err := strconv.ParseInt(os.Getenv(name), 10, 64)
	if err != nil {
		return fallback
	}
	return n
}

package apiserver

import (
	"fmt"
	"net/http"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/api"
	"skiff/cache"
)

// converted is the answer in the form that out.As names: the object itself, a
// Table, or metadata only.
func converted(result *Result, row *api.Resource, out Output) (*Result, error) {
	if out.As == "" || result.Code >= http.StatusBadRequest {
		return result, nil
	}
	obj, err := asTableOrMeta(result, row, out)
	if err != nil {
		return nil, err
	}
	return &Result{Code: result.Code, Object: obj}, nil
}

func asTableOrMeta(result *Result, row *api.Resource, out Output) (runtime.Object, error) {
	list := result.List
	switch {
	case out.As == "Table" && list != nil:
		return newTableWriter(list.Resource, out).list(list)
	case out.As == "Table" && result.Entry != nil:
		return newTableWriter(result.Entry.Resource(), out).event(result.Entry)
	case out.As == "Table":
		return tableOfOther(result.Object, row, out)
	case out.As == "PartialObjectMetadataList" && list != nil:
		return partialList(list, out.AsVersion)
	case out.As == "PartialObjectMetadataList":
		return nil, unacceptable("you requested PartialObjectMetadataList, but the requested object is not a list")
	case list != nil:
		return nil, unacceptable("you requested PartialObjectMetadata, but the requested object is a list")
	case result.Entry != nil:
		obj, err := objectOf(result.Entry)
		if err != nil {
			return nil, err
		}
		return partialOf(obj, out.AsVersion), nil
	}
	if obj, ok := result.Object.(metav1.Object); ok {
		return partialOf(obj, out.AsVersion), nil
	}
	return nil, unacceptable("you requested PartialObjectMetadata, but the requested object has no metadata")
}

func unacceptable(message string) error {
	return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "%s", message)
}

func objectOf(e *cache.Entry) (api.Object, error) {
	if err := e.Err(); err != nil {
		return nil, fmt.Errorf("decode %s: %w", e, err)
	}
	return e.Object(), nil
}

// partialOf is an object without all but its metadata.
func partialOf(obj metav1.Object, version string) runtime.Object {
	partial := &metav1.PartialObjectMetadata{TypeMeta: metaType("PartialObjectMetadata", version)}
	copyMeta(&partial.ObjectMeta, obj)
	return partial
}

func metaType(kind, version string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: metav1.GroupName + "/" + version}
}

// copyMeta shares maps and slices with obj, which nobody changes.
func copyMeta(into *metav1.ObjectMeta, obj metav1.Object) {
	if have, ok := obj.(interface{ GetObjectMeta() metav1.Object }); ok {
		if meta, ok := have.GetObjectMeta().(*metav1.ObjectMeta); ok {
			*into = *meta
			return
		}
	}
	*into = metav1.ObjectMeta{
		Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(), CreationTimestamp: obj.GetCreationTimestamp(),
		DeletionTimestamp: obj.GetDeletionTimestamp(), DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(),
		Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(), OwnerReferences: obj.GetOwnerReferences(),
		Finalizers: obj.GetFinalizers(), ManagedFields: obj.GetManagedFields(),
	}
}

func partialList(l *List, version string) (runtime.Object, error) {
	list := &metav1.PartialObjectMetadataList{TypeMeta: metaType("PartialObjectMetadataList", version),
		ListMeta: *l.meta(), Items: make([]metav1.PartialObjectMetadata, 0, l.Len())}
	for e := range l.All() {
		obj, err := objectOf(e)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, *partialOf(obj, version).(*metav1.PartialObjectMetadata))
	}
	if version == "v1" {
		return list, nil
	}
	return &metav1beta1.PartialObjectMetadataList{TypeMeta: list.TypeMeta, ListMeta: list.ListMeta, Items: list.Items}, nil
}

// tableWriter makes the Tables of one resource, as `kubectl get` prints them.
type tableWriter struct {
	row     *api.Resource
	version string
	include metav1.IncludeObjectPolicy
	columns []metav1.TableColumnDefinition
	headed  bool // a watch's first table had the columns; the others have none
}

// plainColumns are those of kinds that have none of their own.
var plainColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

func newTableWriter(row *api.Resource, out Output) *tableWriter {
	t := &tableWriter{row: row, version: out.AsVersion, include: out.IncludeObject, columns: row.Kind.Columns}
	if t.include == "" {
		t.include = metav1.IncludeMetadata
	}
	if row.Kind.Row == nil {
		t.columns = plainColumns
	}
	return t
}

func (t *tableWriter) list(l *List) (runtime.Object, error) {
	table := t.table(*l.meta(), l.Len())
	for e := range l.All() {
		obj, err := objectOf(e)
		if err != nil {
			return nil, err
		}
		row, err := t.rowOf(obj)
		if err != nil {
			return nil, err
		}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

// event is a Table of one row: an event of a watch, or the answer to a get.
func (t *tableWriter) event(e *cache.Entry) (runtime.Object, error) {
	obj, err := objectOf(e)
	if err != nil {
		return nil, err
	}
	return t.of(obj)
}

func (t *tableWriter) of(obj api.Object) (runtime.Object, error) {
	table := t.table(metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, 1)
	row, err := t.rowOf(obj)
	if err != nil {
		return nil, err
	}
	table.Rows = append(table.Rows, row)
	return table, nil
}

// bookmark is a Table that says only how far a watch is: a row without cells.
func (t *tableWriter) bookmark(meta metav1.ObjectMeta) runtime.Object {
	table := t.table(metav1.ListMeta{ResourceVersion: meta.ResourceVersion}, 1)
	row := metav1.TableRow{Cells: make([]any, len(t.columns))}
	for i := range row.Cells {
		row.Cells[i] = ""
	}
	row.Object.Object = partialOf(&metav1.PartialObjectMetadata{ObjectMeta: meta}, t.version)
	table.Rows = append(table.Rows, row)
	return table
}

func (t *tableWriter) table(meta metav1.ListMeta, rows int) *metav1.Table {
	table := &metav1.Table{TypeMeta: metaType("Table", t.version), ListMeta: meta, Rows: make([]metav1.TableRow, 0, rows)}
	table.ColumnDefinitions = []metav1.TableColumnDefinition{}
	if !t.headed {
		table.ColumnDefinitions, t.headed = t.columns, true
	}
	return table
}

func (t *tableWriter) rowOf(obj api.Object) (metav1.TableRow, error) {
	var row metav1.TableRow
	if t.row.Kind.Row == nil {
		row.Cells = []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	} else {
		row.Cells = t.row.Kind.Row(obj)
	}
	if len(row.Cells) != len(t.columns) {
		return row, fmt.Errorf("table of %s: %d cells for %d columns", t.row, len(row.Cells), len(t.columns))
	}
	switch t.include {
	case metav1.IncludeObject:
		if t.row.Custom != nil {
			row.Object.Object = obj // it says what it is
			break
		}
		whole := reflect.New(reflect.TypeOf(obj).Elem())
		whole.Elem().Set(reflect.ValueOf(obj).Elem())
		row.Object.Object = whole.Interface().(runtime.Object)
		row.Object.Object.GetObjectKind().SetGroupVersionKind(t.row.GVK())
	case metav1.IncludeMetadata:
		row.Object.Object = partialOf(obj, t.version)
	}
	return row, nil
}

// tableOfOther makes a Table of what stands in no cache: the result of a dry
// run, a component's status, a Status.
func tableOfOther(obj runtime.Object, asked *api.Resource, out Output) (runtime.Object, error) {
	if status, ok := obj.(*metav1.Status); ok {
		return statusTable(status, out), nil
	}
	if items, ok := itemsOf(obj); ok {
		return tableOfItems(items, asked, out)
	}
	whole, ok := obj.(api.Object)
	if !ok {
		return nil, unacceptable("the requested object cannot be shown as a Table")
	}
	row := api.FindKind(obj.GetObjectKind().GroupVersionKind())
	if _, custom := obj.(*unstructured.Unstructured); custom && asked != nil {
		row = asked
	}
	if row == nil {
		row = &api.Resource{}
	}
	return newTableWriter(row, out).of(whole)
}

// itemsOf returns the items of a list object.
func itemsOf(obj runtime.Object) ([]api.Object, bool) {
	v := reflect.ValueOf(obj).Elem()
	if v.Kind() != reflect.Struct {
		return nil, false
	}
	field := v.FieldByName("Items")
	if !field.IsValid() || field.Kind() != reflect.Slice {
		return nil, false
	}
	items := make([]api.Object, 0, field.Len())
	for i := range field.Len() {
		item, ok := field.Index(i).Addr().Interface().(api.Object)
		if !ok {
			return nil, false
		}
		items = append(items, item)
	}
	return items, true
}

func tableOfItems(items []api.Object, asked *api.Resource, out Output) (runtime.Object, error) {
	row := &api.Resource{}
	switch {
	case asked != nil && asked.Custom != nil:
		row = asked
	case len(items) > 0:
		row = api.Of(items[0])
	}
	t := newTableWriter(row, out)
	table := t.table(metav1.ListMeta{}, len(items))
	for _, item := range items {
		r, err := t.rowOf(item)
		if err != nil {
			return nil, err
		}
		table.Rows = append(table.Rows, r)
	}
	return table, nil
}

func statusTable(s *metav1.Status, out Output) runtime.Object {
	return &metav1.Table{
		TypeMeta: metaType("Table", out.AsVersion),
		ColumnDefinitions: []metav1.TableColumnDefinition{
			{Name: "Status", Type: "string"}, {Name: "Reason", Type: "string"}, {Name: "Message", Type: "string"}},
		Rows: []metav1.TableRow{{Cells: []any{s.Status, string(s.Reason), s.Message}}},
	}
}

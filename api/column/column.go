// Package column has the table columns and cells that many kinds share: the name,
// the age, and how lists too long for a cell are cut. The packages api/<group>
// build their Columns and Row from it. It knows no kind.
package column

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Name and Age are the first column of every table and the age of its objects.
var (
	Name = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
	Age = String("Age", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
)

// String is a column of text.
func String(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// Integer is a column of whole numbers.
func Integer(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// Boolean is a column of true and false.
func Boolean(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: description}
}

// Wide is a column of text that only `-o wide` shows.
func Wide(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description, Priority: 1}
}

// Containers and Images are the wide columns of kinds that hold a pod template.
var (
	Containers = Wide("Containers", "Names of each container in the template.")
	Images     = Wide("Images", "Images referenced by each container in the template.")
)

// Since is the cell that says how long ago t was.
func Since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// FirstThree is the cell of a list of which three are shown.
func FirstThree(list []string) string {
	switch n := len(list); {
	case n == 0 || n == 1 && list[0] == "":
		return "<unset>"
	case n > 3:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:3], ","), n-3)
	}
	return strings.Join(list, ",")
}

// Or is *p, or none where p is nil.
func Or[T any](p *T, none T) T {
	if p == nil {
		return none
	}
	return *p
}

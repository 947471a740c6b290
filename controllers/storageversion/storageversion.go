// Package storageversion carries out StorageVersionMigrations: it has every object
// of a resource written anew, so that none is left in an encoding of before. It is
// a loop of its own shape, since it reads any resource, and only while it migrates.
package storageversion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// Name is the service account.
const Name = "storage-version-migrator-controller"

// Config is what the controller stands on.
type Config struct {
	// Client lists, patches and tells; Feed follows the migrations, for which the
	// role of the service account has no right.
	Client, Feed client.Client
	// Resources are all that is served now. Nil: the catalogue.
	Resources func() []*api.Resource
	Logger    *slog.Logger // nil: slog.Default()
}

// again is when a migration that failed for a while is tried again, and attempts
// how often.
const (
	again    = time.Second
	attempts = 5
	// lookAgain is how often it is seen whether a missing resource is served now.
	lookAgain = 5 * time.Second
)

var migrationRow = api.For[*storagemigrationv1.StorageVersionMigration]()

// Run migrates until ctx ends, one migration after the other.
func Run(ctx context.Context, c Config) error {
	if c.Resources == nil {
		c.Resources = func() []*api.Resource { return api.Catalogue }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	feed := c.Feed.Follow(ctx, client.Source{Resource: migrationRow})
	// Migrations of resources that may be served soon.
	waiting := map[string]*storagemigrationv1.StorageVersionMigration{}
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case batch, ok := <-feed.C:
			switch {
			case !ok && ctx.Err() != nil:
				return nil
			case !ok:
				return errors.New("storage version migrator: the feed ended")
			}
			for _, change := range batch.Changes {
				if m, ok := change.New.(*storagemigrationv1.StorageVersionMigration); ok && change.Old == nil && !over(m) {
					waiting[m.Name] = m
				}
			}
		case <-look.C:
		}
		for name, m := range waiting {
			if !c.early(m) {
				delete(waiting, name)
				c.carryOut(ctx, name)
			}
		}
	}
}

// early tells whether a migration is of a resource that nobody serves, and so young that its definition may still be on the way.
func (c Config) early(m *storagemigrationv1.StorageVersionMigration) bool {
	return c.stores(m.Spec.Resource) == nil && time.Since(m.CreationTimestamp.Time) < time.Minute
}

func over(m *storagemigrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationFailed))
}

// carryOut migrates, and tells what became of it.
func (c Config) carryOut(ctx context.Context, name string) {
	var err error
	for range attempts {
		if err = c.migrate(ctx, name); err == nil || ctx.Err() != nil {
			return
		}
		c.Logger.Debug("a storage version migration is tried again", "migration", name, "error", err)
		timer := time.NewTimer(again)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
	if err := c.tell(ctx, name, "", failed(err)); err != nil {
		c.Logger.Warn("a storage version migration that failed is not told so", "migration", name, "error", err)
	}
}

// migrate writes each object of the migration's resource, and says so at the beginning and the end.
func (c Config) migrate(ctx context.Context, name string) error {
	m, err := c.read(ctx, name)
	if err != nil || m == nil || over(m) {
		return err
	}
	row := c.stores(m.Spec.Resource)
	if row == nil {
		return c.tell(ctx, name, "", failed(fmt.Errorf("resource %s is not served", m.Spec.Resource.String())))
	}
	objects, revision, err := c.Client.List(ctx, row, client.ListOptions{})
	if err != nil {
		return err
	}
	if err := c.tell(ctx, name, revision, condition(storagemigrationv1.MigrationRunning, true, "MigrationRunning",
		fmt.Sprintf("Migrating %d objects", len(objects)))); err != nil {
		return err
	}
	for _, obj := range objects {
		if err := c.rewrite(ctx, row, obj); err != nil {
			return fmt.Errorf("migrate %s %s/%s: %w", row, obj.GetNamespace(), obj.GetName(), err)
		}
	}
	return c.tell(ctx, name, revision,
		condition(storagemigrationv1.MigrationRunning, false, "MigrationCompleted", "Migration completed"),
		condition(storagemigrationv1.MigrationSucceeded, true, "StorageVersionMigrationSucceeded", "Migration completed"))
}

// stores returns the row under which a resource's objects are stored.
func (c Config) stores(r metav1.GroupResource) *api.Resource {
	all := c.Resources()
	i := slices.IndexFunc(all, func(row *api.Resource) bool {
		return row.Group == r.Group && row.Name == r.Resource && row.Prefix != "" && row.View == nil
	})
	if i < 0 {
		return nil
	}
	return all[i]
}

// rewrite has an object written as it is. The API server writes only what would be
// stored in other bytes; who wrote it meanwhile has migrated it.
func (c Config) rewrite(ctx context.Context, row *api.Resource, obj api.Object) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion()}})
	if err != nil {
		return err
	}
	_, err = c.Client.Patch(ctx, row, obj.GetNamespace(), obj.GetName(), client.Patch{Type: types.MergePatchType, Data: patch})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// read returns a migration, nil if there is none. The role may list, but not get.
func (c Config) read(ctx context.Context, name string) (*storagemigrationv1.StorageVersionMigration, error) {
	list, err := client.List[*storagemigrationv1.StorageVersionMigration](ctx, c.Client, client.ListOptions{Fields: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func failed(err error) metav1.Condition {
	return condition(storagemigrationv1.MigrationFailed, true, "StorageVersionMigrationFailed", err.Error())
}

func condition(of storagemigrationv1.MigrationConditionType, is bool, reason, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: string(of), Status: status, Reason: reason, Message: message}
}

// tell writes conditions, and from which revision on the migration counts.
func (c Config) tell(ctx context.Context, name, revision string, conditions ...metav1.Condition) error {
	for {
		m, err := c.read(ctx, name)
		if err != nil || m == nil {
			return err
		}
		m = m.DeepCopy()
		if m.Status.ResourceVersion == "" {
			m.Status.ResourceVersion = revision
		}
		for _, cond := range conditions {
			meta.SetStatusCondition(&m.Status.Conditions, cond)
		}
		if _, err = client.Update(ctx, c.Client, "status", m); !apierrors.IsConflict(err) {
			return err
		}
	}
}

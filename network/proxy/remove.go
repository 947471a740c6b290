//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/knftables"
)

// Remove takes the tables of that name ("": skiff-proxy) away. It is for a machine
// that leaves its cluster.
func Remove(ctx context.Context, name string) error {
	if name == "" {
		name = defaultTable
	}
	var failed []error
	for _, family := range []knftables.Family{knftables.IPv4Family, knftables.IPv6Family} {
		nft, err := knftables.New(family, name)
		if err != nil {
			continue // without nftables there is no table
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		if err := nft.Run(ctx, tx); err != nil {
			failed = append(failed, fmt.Errorf("remove the services' %s table: %w", family, err))
		}
	}
	return errors.Join(failed...)
}

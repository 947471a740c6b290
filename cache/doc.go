// Package cache is the in-memory state of every resource: a snapshot of what is,
// the history of what recently changed, and the encoded bytes of each object,
// made once for all who read it. One watch on the store is the only thing that
// changes it, in revision order, whoever wrote. Only apiserver uses it. It never
// writes to the store, and it knows nothing of users, selectors or HTTP.
//
// Lock order: Table.pastMu, Cache.mu, Watcher.mu; and pending.mu, Deposit.mu.
// waiters.mu is a leaf.
package cache

// Package oracle judges Skiff by upstream's own code: its tests put random objects, patches, roles and clusters
// before both and count how often the answers are the same. README.md says what is compared and how to run it. It
// has no code outside its tests, and nothing of the product imports it.
package oracle

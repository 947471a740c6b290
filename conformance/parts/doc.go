// Package parts shows that Skiff's components and upstream's are interchangeable: each is run in the other's place, by its own means
// and with no more rights than its place has, and an application is rolled out. It holds tests alone; without upstream's programs
// in bin/upstream (`make upstream`) they are skipped.
package parts

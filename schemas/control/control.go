// Package control holds the typed control record: the running totals that a
// relay writes between events. The struct is generated from its schema file.
package control

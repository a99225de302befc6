// Package control holds what travels between and in place of facts without
// meaning anything to the business: the control record, the running totals that
// a relay writes between facts, and the void fact, which stands where a fact
// stood that could not be sent. The structs are generated from their schemas.
package control

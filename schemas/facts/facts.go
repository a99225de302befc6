// Package facts holds the typed content of every fact: what the three contexts
// state about orders, payments and shipments, in today's version. The structs
// are generated from the schema files; older versions are lifted to these when
// they are read.
//
// A nullable field is a pointer (a nullable list is a slice, and nil is null),
// money is minor units and a currency code, times are UTC to the microsecond.
package facts

// Fact is the content of a fact. All generated structs of this package whose
// name is a fact's implement it, as pointers.
type Fact interface {
	// FactName returns the name of the fact, for instance "OrderPlaced".
	FactName() string
	// AvroSchemaVersion returns the version of the schema it is written with.
	AvroSchemaVersion() int
	// Common returns what every fact carries.
	Common() Common
	// ToNative returns the fact as goavro writes it.
	ToNative() (map[string]any, error)
	// FromNative sets the fact from what goavro read.
	FromNative(value any) error
}

// Common is what every fact carries.
type Common struct {
	OrderID       string
	CustomerID    string
	Actor         string // customer, fulfilment, carrier, provider, import, or operator:<name>
	TimeEstimated bool   // true if the business time is an estimate
}

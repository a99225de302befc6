package architecture

// readModels are the projections. `make new-projection` adds to them.
var readModels = []string{
	"operations",
	"timeline",
}

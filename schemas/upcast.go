package schemas

import (
	"fmt"

	"github.com/tidemark-dev/tidemark/schemas/facts"
)

// upcasters returns the steps between versions that need more than defaults.
// Views read what they fill, so a step that changes is a change of those views.
func upcasters() map[Key]Upcaster {
	return map[Key]Upcaster{
		{"ShipmentScanned", 1}: splitLocation,
	}
}

// splitLocation fills the parts of a place that version 1 said in one text.
func splitLocation(event map[string]any) error {
	location, ok := event["location"].(string)
	if !ok {
		return fmt.Errorf("location is a %T", event["location"])
	}
	event["facility"], event["area"] = facts.SplitLocation(location)
	return nil
}

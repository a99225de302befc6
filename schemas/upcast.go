package schemas

// upcasters returns the steps between versions that need more than defaults.
// Every event is in its first version, so there are none yet. A step looks like
//
//	{"OrderPlaced", 1}: func(event map[string]any) error {
//		event["new_field"] = … // from the old fields
//		return nil
//	},
func upcasters() map[Key]Upcaster {
	return map[Key]Upcaster{}
}

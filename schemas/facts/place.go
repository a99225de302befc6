package facts

import "strings"

// SplitLocation takes the one text that says where a parcel was seen apart:
// the facility up to the first comma, the area behind it. It finds no country,
// because "Campinas, SP" would become a country that does not exist. It is how
// old facts, and commands that give only the text, get their parts.
func SplitLocation(location string) (facility, area string) {
	facility, area, _ = strings.Cut(location, ",")
	return strings.TrimSpace(facility), strings.TrimSpace(area)
}

// JoinLocation says the parts of a place in one text; what is empty is left out.
func JoinLocation(facility, area, country string) string {
	var parts []string
	for _, part := range []string{facility, area, country} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ", ")
}

//go:build seed

package schemas

import (
	_ "github.com/linkedin/goavro/v2"
	_ "github.com/twmb/avro"
	_ "github.com/google/go-cmp/cmp"
	_ "pgregory.net/rapid"
)

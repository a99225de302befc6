package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// Statement is SQL put together of what is asked for and nothing else, so that
// the server plans each form of it once, by the index that serves it. A filter
// that is written as "not asked for, or equal" is planned for the general case,
// which is a scan.
type Statement struct {
	SQL  string
	Args []any
}

// Add appends text in which each ? stands for the next of the values. It panics
// if there are not as many of both: that is a mistake of the program.
func (s *Statement) Add(text string, values ...any) {
	parts := strings.Split(text, "?")
	if len(parts) != len(values)+1 {
		panic(fmt.Sprintf("%d values for %q", len(values), text))
	}
	var sql strings.Builder
	sql.WriteString(s.SQL + parts[0])
	for i, v := range values {
		s.Args = append(s.Args, v)
		sql.WriteString("$" + strconv.Itoa(len(s.Args)) + parts[i+1])
	}
	s.SQL = sql.String()
}

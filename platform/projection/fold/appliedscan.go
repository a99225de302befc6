package fold

import (
	"encoding/base64"

	"github.com/tidemark-dev/tidemark/platform/jsonscan"
)

// scanVersions decodes versions as marshal writes them, which every query does
// and reflection makes dear. What it does not know is not ok, and left to
// encoding/json.
func scanVersions(text string) (doc Versions, ok bool) {
	s := jsonscan.New(text)
	doc.Aggregates = make(map[string]*Applied, 4)
	s.Object(func(name string) {
		switch name {
		case "a":
			s.Object(func(aggregate string) { doc.Aggregates[aggregate] = scanRecord(s) })
		case "b":
			doc.Blocked = Verdict(s.Text())
		default:
			s.Fail()
		}
	})
	return doc, s.Done()
}

func scanRecord(s *jsonscan.Scanner) *Applied {
	a := &Applied{}
	s.Object(func(name string) {
		switch name {
		case "e":
			a.Epoch = s.Text()
		case "v":
			a.Version = s.Int()
		case "r":
			var err error
			if a.Recent, err = base64.StdEncoding.DecodeString(s.Text()); err != nil {
				s.Fail()
			}
		case "p":
			a.Parked = Verdict(s.Text())
		case "k":
			a.Skipped = s.Int()
		case "n":
			a.Again = &restated{}
			s.Object(func(name string) {
				switch name {
				case "e":
					a.Again.Epoch = s.Text()
				case "v":
					a.Again.Version = s.Int()
				default:
					s.Fail()
				}
			})
		default:
			s.Fail()
		}
	})
	return a
}

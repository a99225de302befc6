package conformance

import (
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/platform/projection"
	"github.com/tidemark-dev/tidemark/platform/projection/contract"
	"github.com/tidemark-dev/tidemark/platform/projection/fold"
)

// Contact is personal data of the view of these tests.
type Contact struct{ Name string }

type greeted struct{ Contact *Contact }

func (*greeted) FactName() string { return "Greeted" }

type guests struct{ Name string }

type guestRow struct {
	OrderID string `db:"order_id,key"`
	Card    string `db:"card,json"`
	Words   string `db:"words"`
}

// guestView keeps the name in a document, and in what words makes of it.
func guestView(words func(name string) string) fold.View[guests] {
	return fold.View[guests]{
		Name: "guests", Version: 1, Sources: []string{"order"},
		Fold: func(s *guests, f event.Fact) { s.Name = f.Body.(*greeted).Contact.Name },
		Tables: []fold.Table[guests]{fold.Rows("cards", func(order string, s *guests, put func(guestRow)) {
			put(guestRow{order, `{"guest":{"name":"` + s.Name + `"}}`, words(s.Name)})
		})},
	}
}

func TestPersonalDataIsWhereTheContractSays(t *testing.T) {
	sample := event.Fact{
		Envelope: event.Envelope{ID: "e", Source: "order", Aggregate: event.Aggregate{Type: "order", ID: "o"}, Key: "o", Version: 1},
		Body:     &greeted{&Contact{"Ana Maria"}},
	}
	quiet := func(string) string { return "a guest came" }
	declared := func(fields ...string) *contract.Contract {
		c := &contract.Contract{}
		for _, f := range fields {
			c.PersonalData = append(c.PersonalData, contract.PersonalData{Field: f, Purpose: "to greet"})
		}
		return c
	}
	tests := []struct {
		name     string
		contract *contract.Contract
		words    func(string) string
		want     string
	}{
		{"as declared", declared("cards.card.guest.name"), quiet, ""},
		{"declared as a whole", declared("cards.card.guest"), quiet, ""},
		{"kept and not declared", declared(), quiet, "cards.card.guest.name keeps personal data"},
		{"kept inside of words", declared("cards.card"), func(name string) string { return name + " came" }, "cards.words keeps personal data"},
		{"declared and not kept", declared("cards.card", "cards.phone"), quiet, "cards.phone keeps personal data; no row"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(personal(t, tt.contract, guestView(tt.words), []event.Fact{sample}), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWhatIsComparedWithOwnersIsWhatTheContractSays(t *testing.T) {
	sample := event.Fact{
		Envelope: event.Envelope{ID: "e", Source: "order", Aggregate: event.Aggregate{Type: "order", ID: "o"}, Key: "o", Version: 1},
		Body:     &greeted{&Contact{"Ana Maria"}},
	}
	truth := func(personal bool) []projection.Truth[guests] {
		return []projection.Truth[guests]{{Source: "order", Shown: func(_ string, s *guests, _ string) projection.Said {
			return projection.Said{State: "greeted", Money: []projection.Money{{Name: "tip"}}, Fields: []projection.Field{{Name: "name", Value: s.Name, Personal: personal}}}
		}}}
	}
	tests := []struct {
		name   string
		fields map[string][]string
		truths []projection.Truth[guests]
		want   string
	}{
		{"as declared", map[string][]string{"order": {"tip", "state", "name"}}, truth(true), ""},
		{"none", nil, nil, ""},
		{"not declared", nil, truth(true), "says that [] of order are compared with the owner's answers, the code compares [name state tip]"},
		{"one too many", map[string][]string{"order": {"tip", "state", "name", "table"}}, truth(true), "[name state table tip] of order"},
		{"no truth", map[string][]string{"order": {"state"}}, nil, "no truth is about it"},
		{"personal", map[string][]string{"order": {"tip", "state", "name"}}, truth(false), "shows personal data in name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			view := guestView(func(string) string { return "" })
			got := strings.Join(owners(&contract.Contract{OwnerFields: tt.fields}, view, tt.truths, []event.Fact{sample}), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEveryQueryHasAClass(t *testing.T) {
	service := grpc.ServiceDesc{
		ServiceName: "guests.v1.Guests", Methods: []grpc.MethodDesc{{MethodName: "GetGuest"}}, Streams: []grpc.StreamDesc{{StreamName: "WatchGuest"}},
	}
	tests := []struct {
		name    string
		queries map[string]string
		want    string
	}{
		{"all", map[string]string{"GetGuest": "operational", "WatchGuest": "operational"}, ""},
		{"a stream left out", map[string]string{"GetGuest": "operational"}, "does not say which consistency WatchGuest has"},
		{"one too many", map[string]string{"GetGuest": "operational", "WatchGuest": "operational", "ListGuests": "operational"}, "lists ListGuests"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(queries(&contract.Contract{Queries: tt.queries}, service), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

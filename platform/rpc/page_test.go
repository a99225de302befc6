package rpc_test

import (
	"cmp"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-dev/tidemark/platform/fault"
	"github.com/tidemark-dev/tidemark/platform/rpc"
	journalpb "github.com/tidemark-dev/tidemark/proto/journal/v1"
)

func TestPageTokens(t *testing.T) {
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	type position struct{ ID string }
	token, err := pager.Token([]byte("customer=1"), position{"o-7"})
	if err != nil {
		t.Fatal(err)
	}
	var got position
	if err := pager.Position([]byte("customer=1"), token, &got); err != nil || got.ID != "o-7" {
		t.Fatalf("position = %v, %v", got, err)
	}
	other, err := rpc.NewPager([]byte("another secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another filter":    pager.Position([]byte("customer=2"), token, &got),
		"another key":       other.Position([]byte("customer=1"), token, &got),
		"changed":           pager.Position([]byte("customer=1"), token[:len(token)-3]+"AAA", &got),
		"cut":               pager.Position([]byte("customer=1"), token[:5], &got),
		"not even a base64": pager.Position([]byte("customer=1"), "!", &got),
	} {
		if f := fault.As(err); f == nil || f.Kind != fault.KindInvalid || f.Violations[0].Field != "page_token" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever the sizes of the pages, a walk shows every row once and in order.
func TestPagesShowEveryRowOnce(t *testing.T) {
	pager, err := rpc.NewPager(nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(0, 130).Draw(t, "rows")
		list := rpc.List[int, int]{
			Default: rapid.IntRange(0, 20).Draw(t, "default"), Start: -1, Bound: "generation 1",
			Read: func(behind, limit int) (rows []int, err error) {
				for i := behind + 1; i < total && len(rows) < limit; i++ {
					rows = append(rows, i)
				}
				return rows, nil
			},
			Place: func(row int) int { return row },
		}
		seen, request := 0, &journalpb.ListHeadsRequest{Partition: 3}
		for first := true; first || request.GetPageToken() != ""; first = false {
			request.PageSize = rapid.Int32Range(0, 60).Draw(t, "size")
			rows, next, err := rpc.Page(pager, request, list)
			if err != nil {
				t.Fatal(err)
			}
			want := cmp.Or(int(request.GetPageSize()), list.Default, rpc.DefaultPage)
			if len(rows) > want || next != "" && len(rows) != want {
				t.Fatalf("a page of %d rows, %d were asked for, next %q", len(rows), want, next)
			}
			for _, row := range rows {
				if row != seen {
					t.Fatalf("row %d, want %d", row, seen)
				}
				seen++
			}
			if request.PageToken = next; next != "" {
				other := list
				other.Bound = "generation 2"
				if _, _, err := rpc.Page(pager, request, other); fault.As(err) == nil {
					t.Fatalf("a token of another generation: %v", err)
				}
			}
		}
		if seen != total {
			t.Fatalf("%d rows, want %d", seen, total)
		}
	})
}

func TestBindingIgnoresOnlyTheNamedFields(t *testing.T) {
	bind := func(r *journalpb.ListHeadsRequest) string { return string(rpc.Binding(r, "page_token", "page_size")) }
	a := bind(&journalpb.ListHeadsRequest{Partition: 1, PageToken: "x", PageSize: 5})
	if a != bind(&journalpb.ListHeadsRequest{Partition: 1}) {
		t.Error("the page token is part of the binding")
	}
	if a == bind(&journalpb.ListHeadsRequest{Partition: 2}) {
		t.Error("the filter is not part of the binding")
	}
}

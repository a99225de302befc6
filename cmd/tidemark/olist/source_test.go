package olist

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mess = "testdata/mess"

func load(t *testing.T) *Source {
	t.Helper()
	source, err := Load(mess)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func TestEveryBadRowIsRefusedByName(t *testing.T) {
	var got []string
	for _, r := range load(t).Refused {
		got = append(got, fmt.Sprintf("%s:%d %s", strings.TrimSuffix(strings.TrimPrefix(r.File, "olist_"), "_dataset.csv"), r.Line, r.Reason))
	}
	want := []string{
		"customers:23 wrong encoding",
		"customers:24 duplicate",
		"customers:25 bad id",
		"orders:15 unknown status",
		"orders:16 duplicate",
		"orders:17 refers to nothing",
		"orders:18 refers to nothing",
		"orders:19 bad date",
		"orders:20 bad date",
		"orders:21 bad date",
		"orders:22 bad date",
		"orders:23 malformed row",
		"orders:24 malformed row",
		"orders:25 bad id",
		"order_items:13 refers to nothing",
		"order_items:14 order refused",
		"order_items:15 duplicate",
		"order_items:16 bad number",
		"order_items:17 bad amount",
		"order_items:18 bad amount",
		"order_items:19 bad id",
		"order_payments:18 refers to nothing",
		"order_payments:19 order refused",
		"order_payments:20 duplicate",
		"order_payments:21 unknown payment type",
		"order_payments:22 bad amount",
		"order_payments:23 bad amount",
		"order_payments:24 bad amount",
		"order_payments:25 bad number",
		"order_payments:26 wrong encoding",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused rows (-want +got):\n%s", diff)
	}
}

func TestRowsAreTakenInOrRefused(t *testing.T) {
	source := load(t)
	refused := map[string]int{}
	for _, r := range source.Refused {
		refused[r.File]++
	}
	items, payments := 0, 0
	for _, o := range source.Orders {
		items += len(o.Items)
		payments += len(o.Payments)
	}
	for file, taken := range map[string]int{OrdersFile: len(source.Orders), ItemsFile: items, PaymentsFile: payments} {
		if source.Rows[file] != taken+refused[file] {
			t.Errorf("%s: %d rows, %d taken in, %d refused", file, source.Rows[file], taken, refused[file])
		}
	}
	if len(source.NotTaken) != 1 || !strings.Contains(source.NotTaken[0].Detail, "order working") {
		t.Errorf("dates not taken: %v, want the carrier date of order working", source.NotTaken)
	}
	var ids []string
	for _, o := range source.Orders {
		ids = append(ids, o.ID)
	}
	want := "bare many early backwards keptboth nodates fresh zero bareshipped working billed agreed dropped"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("orders %s, want them by purchase time: %s", got, want)
	}
}

// write makes a dataset of heads only and one file of the test's own.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{OrdersFile, CustomersFile, ItemsFile, PaymentsFile} {
		head, err := os.ReadFile(filepath.Join(mess, file))
		if err != nil {
			t.Fatal(err)
		}
		head = head[:bytes.IndexByte(head, '\n')+1]
		if file == name {
			head = content
		}
		if err := os.WriteFile(filepath.Join(dir, file), head, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAHugeFieldIsRefusedAndTheNextRowIsRead(t *testing.T) {
	head := "customer_id,customer_unique_id,customer_zip_code_prefix,customer_city,customer_state\n"
	huge := "c1,p1,1," + strings.Repeat("x", 10<<20) + ",SP\n"
	source, err := Load(write(t, CustomersFile, []byte(head+huge+"c2,p2,2,city,SP\n"+"c3,p3,3,"+strings.Repeat("y", 101)+",SP")))
	if err != nil {
		t.Fatal(err)
	}
	want := []Refusal{
		{File: CustomersFile, Line: 2, Reason: "row too long", Detail: "more than 65536 bytes"},
		{File: CustomersFile, Line: 4, Reason: "field too long", Detail: "customer_city has more than 100 characters"},
	}
	if diff := cmp.Diff(want, source.Refused); diff != "" {
		t.Error(diff)
	}
	if source.Rows[CustomersFile] != 3 {
		t.Errorf("%d rows, want 3", source.Rows[CustomersFile])
	}
}

func TestAFileThatCannotBeUsedIsAnError(t *testing.T) {
	utf16 := []byte{0xff, 0xfe}
	for _, r := range "order_id,customer_id\n" {
		utf16 = append(utf16, byte(r), 0)
	}
	for name, tc := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":          {nil, "lacks"},
		"no head":        {[]byte("a1,b1,delivered\n"), "the head lacks customer_id, order_approved_at"},
		"utf-16":         {utf16, "another encoding"},
		"huge head":      {bytes.Repeat([]byte("x"), 1<<20), "another encoding"},
		"column twice":   {[]byte("order_id,order_id\n"), "twice"},
		"broken head":    {[]byte("\"order_id\n"), "does not parse"},
		"compressed":     {[]byte("\x1f\x8b\x08\x00\x00\x00"), "another encoding"},
		"semicolon head": {[]byte("order_id;customer_id\n"), "lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.content == nil {
				tc.content = []byte{}
			}
			_, err := Load(write(t, OrdersFile, tc.content))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), OrdersFile) {
				t.Errorf("error %v, want one that names the file and says %q", err, tc.want)
			}
		})
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), CustomersFile) {
		t.Errorf("error %v, want one that names the missing file", err)
	}
}

func FuzzLoadNeverPanics(f *testing.F) {
	for _, seed := range []string{"", "a,b\n\"", "\xff\xfe", "x\r\n\r\n", strings.Repeat(",", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, tail string) {
		head, err := os.ReadFile(filepath.Join(mess, OrdersFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(write(t, OrdersFile, append(head, tail...))); err != nil {
			t.Fatalf("rows after a good head made the file unusable: %v", err)
		}
	})
}

package olistexpect

import (
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// madeUpOrders is how many orders a sample has that is made up.
const madeUpOrders = 3_000

// Sample returns a directory with orders in the form of the Olist files, so that
// no test has to do without: TIDEMARK_OLIST_DIR if it is set, else the real ones
// in shared/data/olist beside the repository, else made-up ones, which have the
// same states, gaps and kinds of payment in about the same shares.
func Sample(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("TIDEMARK_OLIST_DIR"); dir != "" {
		if !holdsOrders(dir) {
			t.Fatalf("TIDEMARK_OLIST_DIR: there is no olist_orders_dataset.csv in %s", dir)
		}
		return dir
	}
	if dir, found := besideRepository(); found {
		return dir
	}
	dir := t.TempDir()
	if err := makeUp(dir, madeUpOrders, 1); err != nil {
		t.Fatal(err)
	}
	t.Logf("no Olist sample beside the repository: %d made-up orders stand in for it", madeUpOrders)
	return dir
}

func holdsOrders(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "olist_orders_dataset.csv"))
	return err == nil
}

func besideRepository() (dir string, found bool) {
	at, err := os.Getwd()
	for ; err == nil && at != filepath.Dir(at); at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			dir = filepath.Join(filepath.Dir(at), "shared", "data", "olist")
			return dir, holdsOrders(dir)
		}
	}
	return "", false
}

// ends are how orders of the real files end: the word, which dates are known
// after the purchase (approved, carried, delivered), and how many of 1,000.
var ends = []struct {
	word  string
	dates int
	share int
}{
	{"delivered", 3, 636}, {"shipped", 2, 137}, {"unavailable", 1, 73}, {"canceled", 1, 50}, {"processing", 1, 39}, {"invoiced", 1, 37},
	{"canceled", 0, 17}, {"canceled", 2, 6}, {"canceled", 3, 1}, {"delivered", 2, 1}, {"delivered", 1, 1}, {"created", 0, 1}, {"approved", 1, 1},
}

// makeUp writes the four files that an import reads.
func makeUp(dir string, orders int, seed uint64) error {
	draw := rand.New(rand.NewPCG(seed, 0))
	id := func() string { return fmt.Sprintf("%016x%016x", draw.Uint64(), draw.Uint64()) }
	cents := func(n int) string { return strconv.FormatFloat(float64(n)/100, 'f', -1, 64) }
	files := map[string][][]string{
		"olist_customers_dataset.csv":      {{"customer_id", "customer_unique_id", "customer_zip_code_prefix", "customer_city", "customer_state"}},
		"olist_order_items_dataset.csv":    {{"order_id", "order_item_id", "product_id", "seller_id", "shipping_limit_date", "price", "freight_value"}},
		"olist_order_payments_dataset.csv": {{"order_id", "payment_sequential", "payment_type", "payment_installments", "payment_value"}},
		"olist_orders_dataset.csv": {{
			"order_id", "customer_id", "order_status", "order_purchase_timestamp", "order_approved_at",
			"order_delivered_carrier_date", "order_delivered_customer_date", "order_estimated_delivery_date",
		}},
	}
	add := func(file string, fields ...string) { files[file] = append(files[file], fields) }
	sellers, people := make([]string, 200), make([]string, orders)
	for i := range sellers {
		sellers[i] = id()
	}
	for i := range people {
		people[i] = id()
	}
	shares := 0
	for _, e := range ends {
		shares += e.share
	}
	at := time.Date(2017, 1, 5, 9, 0, 0, 0, time.UTC)
	for n := range orders {
		order, customer := id(), id()
		at = at.Add(time.Duration(draw.IntN(600)) * time.Second)
		end := ends[n%len(ends)] // the first orders show every end once
		if n >= len(ends) {
			left := draw.IntN(shares)
			for _, end = range ends {
				if left -= end.share; left < 0 {
					break
				}
			}
		}
		dates, last := [3]string{}, at
		for i := range end.dates {
			last = last.Add(time.Duration(1+draw.IntN(200_000)) * time.Second)
			dates[i] = last.Format(time.DateTime)
		}
		add("olist_customers_dataset.csv", customer, people[draw.IntN(n+1)], fmt.Sprintf("%05d", draw.IntN(100_000)), "são paulo", "SP")
		add("olist_orders_dataset.csv", order, customer, end.word, at.Format(time.DateTime), dates[0], dates[1], dates[2],
			at.AddDate(0, 0, 10+draw.IntN(30)).Format(time.DateOnly)+" 00:00:00")
		total := 0
		for i := range 1 + draw.IntN(8)/6 {
			price, freight := 100+draw.IntN(40_000), draw.IntN(5_000)
			total += price + freight
			add("olist_order_items_dataset.csv", order, strconv.Itoa(i+1), id(), sellers[draw.IntN(len(sellers))], at.Format(time.DateTime), cents(price), cents(freight))
		}
		for i, amount := range split(draw, total) {
			kind := []string{"credit_card", "credit_card", "credit_card", "boleto", "debit_card"}[draw.IntN(5)]
			if i > 0 {
				kind = "voucher"
			}
			add("olist_order_payments_dataset.csv", order, strconv.Itoa(i+1), kind, strconv.Itoa(1+draw.IntN(10)), cents(amount))
		}
	}
	for name, rows := range files {
		if err := write(filepath.Join(dir, name), rows); err != nil {
			return err
		}
	}
	return nil
}

// split cuts an amount into payments, mostly one, sometimes with an empty voucher.
func split(draw *rand.Rand, total int) []int {
	amounts := []int{total}
	for draw.IntN(12) == 0 {
		voucher := draw.IntN(amounts[0])
		amounts[0] -= voucher
		amounts = append(amounts, voucher)
	}
	return amounts
}

func write(path string, rows [][]string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := csv.NewWriter(file)
	if err := w.WriteAll(rows); err != nil {
		_ = file.Close() // the first error says what went wrong
		return fmt.Errorf("%s: %w", path, err)
	}
	return file.Close()
}
